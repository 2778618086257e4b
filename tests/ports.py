"""Free ports for a test's own stack."""

from __future__ import annotations

import os
import random
import socket

from selfgen.settings import PORT_OFFSETS, ROOT, Settings, get_settings


def free_port_base() -> int:
    """Return a first port from which all of a stack's ports are free; below the range of outgoing connections."""
    for _ in range(100):
        base = random.randrange(19_000, 32_000, 50)
        if all(_is_free(base + offset) for offset in PORT_OFFSETS.values()):
            return base
    raise RuntimeError("no free ports between 19000 and 32000")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def use(port_base: int, name: str) -> Settings:
    """Point this process and its children at a stack of its own below `build/NAME`; return its settings."""
    os.environ["SELFGEN_PORT_BASE"] = str(port_base)
    os.environ["SELFGEN_BUILD_DIR"] = str(ROOT / "build" / name)
    get_settings.cache_clear()
    return get_settings()
