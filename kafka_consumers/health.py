"""How a landing process is, over HTTP: `/health`, `/ready`, `/metrics`."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, generate_latest

if TYPE_CHECKING:
    from kafka_consumers.landing import Landing
    from kafka_consumers.store import Tally

_PARTITION = ("topic", "partition")
LANDED = Counter("selfgen_landed_messages", "Readings that became durable", _PARTITION)
DUPLICATES = Counter("selfgen_duplicate_messages", "Readings that were there already", _PARTITION)
REPLACED = Counter("selfgen_replaced_messages", "Readings that replaced another value", _PARTITION)
REFUSED = Counter("selfgen_refused_messages", "Messages that break the contract", (*_PARTITION, "reason"))
BYTES = Counter("selfgen_landed_bytes", "Bytes of all messages", _PARTITION)
LAG = Gauge("selfgen_lag_messages", "Messages that wait in Kafka", _PARTITION)
WAITING = Gauge("selfgen_landing_waiting", "1 while landing waits for a server", ("topic",))
DELAY = Gauge("selfgen_landing_delay_seconds", "From event time to durable", (*_PARTITION, "quantile"))


def count(topic: str, partition: int, tally: Tally) -> None:
    """Count what became of messages."""
    labels = (topic, str(partition))
    LANDED.labels(*labels).inc(tally.landed)
    DUPLICATES.labels(*labels).inc(tally.duplicates)
    REPLACED.labels(*labels).inc(tally.replaced)
    BYTES.labels(*labels).inc(tally.bytes)
    for reason, refused in tally.refused.items():
        REFUSED.labels(*labels, reason).inc(refused)


def show(row: Mapping[str, Any]) -> None:
    """Show a row of `topic_performance`."""
    labels = (row["topic_id"], str(row["partition"]))
    LAG.labels(*labels).set(row["lag"])
    for quantile, name in (("0.5", "delay_p50"), ("0.95", "delay_p95"), ("0.99", "delay_p99"), ("1", "delay_max")):
        if row[name] is not None:
            DELAY.labels(*labels, quantile).set(row[name])


def serve(landing: Landing, host: str, port: int) -> ThreadingHTTPServer:
    """Answer on a port until `shutdown` is called.

    `/health`: 200 while the process makes its rounds, else 503. `/ready`: 200 while it lands, 503 with the reason
    while it waits. `/metrics`: for Prometheus.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest())
            elif self.path in {"/health", "/ready"}:
                status = landing.status()
                well = status["alive"] if self.path == "/health" else status["alive"] and not status["trouble"]
                self._answer(200 if well else 503, "application/json", json.dumps(status).encode())
            else:
                self._answer(404, "text/plain", b"there are /health, /ready and /metrics\n")

        def _answer(self, code: int, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing of each request."""

    WAITING.labels(landing.topic).set_function(lambda: float(landing.trouble is not None))
    server = ThreadingHTTPServer((host, port), Handler)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
