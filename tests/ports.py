"""Free ports for a test's own stack."""

from __future__ import annotations

import os

from benchmarks import servers
from selfgen.settings import ROOT, Settings, get_settings


def free_port_base() -> int:
    """Return a first port from which all of a stack's ports are free, and stay so for this process."""
    return servers.free_port_base("127.0.0.1")


def use(port_base: int, name: str) -> Settings:
    """Point this process and its children at a stack of its own below `build/NAME`; return its settings."""
    os.environ["SELFGEN_PORT_BASE"] = str(port_base)
    os.environ["SELFGEN_BUILD_DIR"] = str(ROOT / "build" / name)
    get_settings.cache_clear()
    return get_settings()
