"""The registry: warm look-ups a second, the cold fill against plain get_multi, an import, how soon a move is in force.

Cold fill and peer ask the same stand-in for the same documents in turns; the median counts, of ratios that of each
turn's. The peer asks as one must, for a batch's panels and relations, then for the clients that these name, and does
not look at what comes; once more it reads the documents as well.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.form import Figure
from benchmarks.servers import own_stack
from couchbase_admin.bulk import import_file
from couchbase_admin.clients import with_time_zone
from couchbase_admin.installations import move_install
from couchbase_admin.registry import Registry
from couchbase_admin.store import RegistryStore
from selfgen.clients.couchbase import connect
from selfgen.registry import Client, client_key, element_key, relations_key
from selfgen.settings import Settings

_ELEMENTS = 10_000
_ELEMENTS_OF_A_CLIENT = 5
_BATCH = 1_000
_LOOKUPS = 2_000_000
_TURNS = 7

_LOOKUPS_A_SECOND = 100_000
_SHARE_OF_GET_MULTI = 0.8
_ROWS_A_SECOND = 2_000
_IN_FORCE_S = 60.0

_MIDNIGHT_MS = 1_767_225_600_000
_DAY_MS = 86_400_000


def run(settings: Settings) -> list[Figure]:
    """Return the figures of one stand-in, filled by an import."""
    with own_stack(settings, "registry", "couchbase") as own:
        rows_a_second = _import(own)
        warm, batch_ms = _warm(own)
        ours, plain, read = _cold(own)
        in_force_s = _in_force(own)
    return [
        Figure("look-ups, warm cache, one core", round(warm), "look-ups/s", bar=(">=", _LOOKUPS_A_SECOND)),
        Figure(f"a batch of {_BATCH}, 99 of 100 within", round(batch_ms, 2), "ms"),
        Figure("cold fill", round(median(ours)), "documents/s", round(median(plain))),
        Figure("cold fill / get_multi", _ratio(ours, plain), "", bar=(">=", _SHARE_OF_GET_MULTI)),
        Figure("get_multi, documents read", round(median(read)), "documents/s"),
        Figure("cold fill / get_multi, documents read", _ratio(ours, read), ""),
        Figure("import", round(rows_a_second), "rows/s", bar=(">=", _ROWS_A_SECOND)),
        Figure("a move is in force for the pipeline after", round(in_force_s, 1), "s", bar=("<=", _IN_FORCE_S)),
        Figure("elements", _ELEMENTS, "elements"),
    ]


def _import(settings: Settings) -> float:
    """Import clients, panels, and two periods of each panel; return rows a second by the clock."""
    # the map of time zones takes seconds to load once, however long the file
    with_time_zone(Client(client_id="any", name="any", latitude=40.0, longitude=-3.0))
    clients = range(_ELEMENTS // _ELEMENTS_OF_A_CLIENT)
    rows = [
        "type,kind,client_id,name,postal_code,latitude,longitude,panel_id,power_cap,tilt,azimuth,element_id,init_date,end_date"
    ]
    rows += [
        f"client,,C{n},Name {n},{28000 + n % 100},{36 + n % 700 / 100},{-6 + n % 900 / 100},,,,,,," for n in clients
    ]
    rows += [f"panel,,,,,,,P{n},{300 + n % 200},30,180,,," for n in range(_ELEMENTS)]
    rows += [f"install,panel,{_client(n + 1)},,,,,,,,,P{n},2024-05-01,2026-01-01T00:00Z" for n in range(_ELEMENTS)]
    rows += [f"install,panel,{_client(n)},,,,,,,,,P{n},2026-01-01T00:00Z," for n in range(_ELEMENTS)]
    store = RegistryStore.open(settings, "bench")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "registry.csv"
        file.write_text("\n".join(rows) + "\n")
        result = import_file(store, file, Path(folder) / "rejects.csv")
    if result.written != len(rows) - 1:
        raise AssertionError(f"{result} of {len(rows) - 1} rows")
    return result.rows / result.seconds


def _warm(settings: Settings) -> tuple[float, float]:
    """Return look-ups a second of processor time, and the 99th percentile of a batch's time in ms."""
    registry = Registry(settings.model_copy(update={"registry_ttl_s": 45.0}))
    ids = np.array([f"P{n}" for n in range(_ELEMENTS)], dtype=object)
    for first in range(0, _ELEMENTS, _BATCH):
        registry.lookup("panel", ids[first : first + _BATCH], np.zeros(_BATCH))
    random = np.random.default_rng(1)
    batches = [
        (ids[random.integers(0, _ELEMENTS, _BATCH)], _MIDNIGHT_MS + random.integers(-_DAY_MS, _DAY_MS, _BATCH))
        for _ in range(100)
    ]
    elapsed_ms = []
    began = time.process_time()
    for turn in range(_LOOKUPS // _BATCH):
        batch_began = time.perf_counter()
        found = registry.lookup("panel", *batches[turn % len(batches)])
        elapsed_ms.append((time.perf_counter() - batch_began) * 1000)
    rate = _LOOKUPS / (time.process_time() - began)
    registry.close()
    if found["client_id"].isna().any() or found["stale"].any():
        raise AssertionError("a look-up found nothing, or was stale")
    return rate, float(np.percentile(elapsed_ms, 99))


def _cold(settings: Settings) -> tuple[list[float], list[float], list[float]]:
    """Return documents/s, by turn, of filling an empty cache, of get_multi, and of that with the documents read."""
    patient = settings.model_copy(update={"couchbase_timeout_s": 30.0})
    collection = connect(patient)
    batches = [range(first, first + _BATCH) for first in range(0, _ELEMENTS, _BATCH)]
    keys = [_keys(batch) for batch in batches]
    documents = sum(len(wanted) for wanted in chain.from_iterable(keys))

    def fill(registry: Registry) -> None:
        for batch in batches:
            found = registry.lookup("panel", [f"P{n}" for n in batch], np.full(_BATCH, _MIDNIGHT_MS))
            if found["stale"].any() or found["name"].isna().any():
                raise AssertionError("the cold fill did not find everything")

    def get(*, read: bool) -> None:
        for wanted in chain.from_iterable(keys):
            found = collection.get_multi(wanted).results
            if read:
                found = {key: result.content_as[dict] for key, result in found.items()}
            if len(found) != len(wanted):
                raise AssertionError("get_multi did not find everything")

    ours, plain, looked_at = [], [], []
    for _ in range(_TURNS):
        registry = Registry(patient)
        registry.lookup("panel", ["nobody"], [0])  # connects
        ours.append(documents / _seconds(partial(fill, registry)))
        plain.append(documents / _seconds(partial(get, read=False)))
        looked_at.append(documents / _seconds(partial(get, read=True)))
        registry.close()
    return ours, plain, looked_at


def _in_force(settings: Settings) -> float:
    """Return how long after a move the pipeline's look-up, asked ten times a second, says so, s.

    The element was read just before: the longest that it can take.
    """
    registry = Registry(settings)
    store = RegistryStore.open(settings, "bench")
    moved, others = "P0", [f"P{n}" for n in range(1, _BATCH)]

    def owner() -> str:
        found = registry.lookup("panel", [moved, *others], np.full(_BATCH, time.time_ns() // 1_000_000))
        return str(found["client_id"].iloc[0])

    before = owner()
    after = _client(_ELEMENTS_OF_A_CLIENT)
    move_install(store, "panel", moved, after, datetime.now(UTC))
    began = time.monotonic()
    while (now := owner()) == before and time.monotonic() < began + 2 * _IN_FORCE_S:
        time.sleep(0.1)
    registry.close()
    if now != after:
        raise AssertionError(f"{moved} is still {now}'s")
    return time.monotonic() - began


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return round(median(mine / other for mine, other in zip(ours, theirs, strict=True)), 2)


def _keys(batch: range) -> tuple[list[str], list[str]]:
    """Return the keys of a batch of panels and their relations, and those of the clients."""
    ids = [f"P{n}" for n in batch]
    clients = dict.fromkeys(_client(n + offset) for n in batch for offset in (0, 1))
    panels = [key("panel", one) for one in ids for key in (element_key, relations_key)]
    return panels, [client_key(one) for one in clients]


def _client(element: int) -> str:
    return f"C{element % _ELEMENTS // _ELEMENTS_OF_A_CLIENT}"


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
