"""A landing process: its registry, its signals, its log."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Sequence
from contextlib import closing

import structlog

from couchbase_admin.registry import Registry
from kafka_consumers.documents import IntArray
from kafka_consumers.health import serve
from kafka_consumers.landing import Landing, Lookup, Owners
from selfgen.settings import get_settings
from selfgen.stopping import stop_event

#: How long a thread keeps the interpreter from others, s: those that write need it shortly, and often.
_SWITCH_S = 0.0005
#: Objects to be made before garbage is looked for: those of some batches.
_COLLECT_AFTER = 50_000


def main(topic: str) -> None:
    """Land a topic until SIGTERM or Ctrl-C."""
    log_in_lines()
    stop = stop_event()
    settings = get_settings()
    with closing(Registry(settings)) as registry:
        landing = Landing(topic, settings, lookup_in(registry, topic))
        if settings.landing_http_port:
            serve(landing, settings.host, settings.landing_http_port)
        _spare_the_collector()
        sys.setswitchinterval(_SWITCH_S)
        landing.run(stop)


def _spare_the_collector() -> None:
    """Have it look neither at what was imported nor, many times, at each batch: none of that is garbage."""
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


def lookup_in(registry: Registry, topic: str) -> Lookup:
    """Return the look-up of a topic's elements in a registry's cache."""

    def lookup(element_ids: Sequence[str], event_times_ms: IntArray) -> Owners:
        found = registry.lookup(topic, element_ids, event_times_ms, ("client_id", "postal_code"))  # type: ignore[arg-type]
        return Owners(
            found["client_id"].tolist(),
            found["postal_code"].tolist(),
            ~found["known"].to_numpy(bool) & ~found["stale"].to_numpy(bool),
        )

    return lookup


def log_in_lines() -> None:
    """Log for people on a terminal, else one JSON object a line."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s %(message)s")
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
