"""A stack of a benchmark's own: ports that are free, data that are thrown away."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from couchbase_admin.bulk import import_file
from couchbase_admin.store import RegistryStore
from selfgen.settings import PORT_OFFSETS, Settings
from stack import lifecycle

#: How long a server that was killed may take to come back, s.
_PATIENCE_S = 300.0
_RESERVED: list[FileLock] = []


@contextmanager
def own_stack(settings: Settings, name: str, *servers: str) -> Iterator[Settings]:
    """Start servers for one measurement; stop them and remove their data after it. Where it fails, their logs stay.

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
            "port_base": free_port_base(settings.host),
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
    except BaseException:
        logs = own.stack_dir / "logs"
        if logs.exists():
            shutil.copytree(logs, own.build_dir / "logs", dirs_exist_ok=True)
        raise
    finally:
        lifecycle.down(own)
        shutil.rmtree(own.stack_dir, ignore_errors=True)


def room_for(elements: int) -> dict[str, int]:
    """Return the settings that have room for so many elements: of the look-up's cache, and of the registry itself."""
    return {"registry_cache_elements": 2 * elements, "couchbase_heap_mib": 192 + elements // 100}


def register(settings: Settings, kind: str, element_ids: Sequence[str]) -> None:
    """Register elements by an import, ten at each client.

    Parameters
    ----------
    kind : str
        `wind`, `light` or `panel`.
    """
    rows = [f"type,kind,client_id,name,postal_code,latitude,longitude,{kind}_id,power_cap,element_id,init_date"]
    rows += [f"client,,C{n},Name {n},{28000 + n % 100},40.4,-3.7,,,," for n in range(-(-len(element_ids) // 10))]
    rows += [f"{kind},,,,,,,{element_id},{400 if kind == 'panel' else ''},," for element_id in element_ids]
    rows += [f"install,{kind},C{n // 10},,,,,,,{one},2024-05-01" for n, one in enumerate(element_ids)]
    import_rows(settings, rows)


def import_rows(settings: Settings, rows: Sequence[str]) -> None:
    """Import lines of CSV, the heading first, into the registry; all of them, or it is an error."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "registry.csv"
        file.write_text("\n".join(rows) + "\n")
        result = import_file(RegistryStore.open(settings, "bench"), file, Path(folder) / "rejects.csv")
    if result.written != len(rows) - 1:
        raise AssertionError(f"{result} of {len(rows) - 1} rows")


def kill_server(settings: Settings, name: str) -> float:
    """Kill a server; return after how long it answered again, s."""
    before = _state(settings, name).pid
    if before is None:
        raise RuntimeError(f"{name} does not run")
    started = time.monotonic()
    os.kill(before, signal.SIGKILL)
    while (now := _state(settings, name)).pid in {None, before} or now.state != "ready":
        if time.monotonic() - started > _PATIENCE_S:
            raise AssertionError(f"{name} does not come back: {now}")
        time.sleep(0.1)
    return time.monotonic() - started


def _state(settings: Settings, name: str) -> lifecycle.Status:
    return next(state for state in lifecycle.status(settings) if state.name == name)


def free_port_base(host: str) -> int:
    """Return a first port from which all of a stack's ports are free; no other process gets it until this one ends."""
    bases = list(range(19_000, 32_000, 50))  # below the range of outgoing connections
    random.shuffle(bases)
    for base in bases:
        lock = FileLock(Path(tempfile.gettempdir()) / f"selfgen-ports-{base}.lock")
        with suppress(Timeout):
            lock.acquire(timeout=0)
            if all(_is_free(host, base + offset) for offset in PORT_OFFSETS.values()):
                _RESERVED.append(lock)
                return base
            lock.release()
    raise RuntimeError("no free ports between 19000 and 32000")


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) != 0
