"""A stack of a benchmark's own: ports that are free, data that are thrown away."""

from __future__ import annotations

import random
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from selfgen.settings import PORT_OFFSETS, Settings
from stack import lifecycle


@contextmanager
def own_stack(settings: Settings, name: str, *servers: str) -> Iterator[Settings]:
    """Start servers for one measurement; stop them and remove their data after it.

    Parameters
    ----------
    settings : Settings
        What the stack's settings are taken from, but for ports and folder.
    name : str
        Folder below the build folder.
    *servers : str
        What to start.

    Yields
    ------
    Settings
        Where the servers are.
    """
    own = settings.model_copy(
        update={
            "port_base": _free_port_base(settings.host),
            "build_dir": settings.build_dir / "measure" / name,
            "kafka_bootstrap": "",
            "mongodb_url": "",
            "couchbase_url": "",
        }
    )
    shutil.rmtree(own.build_dir, ignore_errors=True)
    try:
        lifecycle.up(own, servers)
        yield own
    finally:
        lifecycle.down(own)
        shutil.rmtree(own.stack_dir, ignore_errors=True)


def _free_port_base(host: str) -> int:
    bases = list(range(19_000, 32_000, 50))
    random.shuffle(bases)
    for base in bases:
        if all(_is_free(host, base + offset) for offset in PORT_OFFSETS.values()):
            return base
    raise RuntimeError("no free ports between 19000 and 32000")


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) != 0
