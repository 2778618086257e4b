"""The pipeline's look-up: valid at the event time, fresh within a minute, and never in the way."""

from __future__ import annotations

import json
import os
import time
import uuid
from contextlib import suppress
from datetime import timedelta

import numpy as np
import pandas as pd
import psutil
import pytest
from prometheus_client import REGISTRY
from tenacity import retry, stop_after_delay, wait_fixed

from couchbase_admin.clients import add_client, edit_client
from couchbase_admin.elements import add_element, replace_element
from couchbase_admin.installations import add_install, correct_install, end_install, move_install
from couchbase_admin.registry import Registry
from couchbase_admin.store import RegistryStore
from selfgen.clients.couchbase import Documents
from selfgen.columns import ENRICHMENT
from selfgen.registry import LightSensor, Panel, Unavailable
from tests.integration.registry_support import (
    DAY,
    NOW,
    Interrupted,
    Namespace,
    Stopped,
    Stopping,
    a_client,
    couchbase_settings,
    open_documents,
    store_on,
)

pytestmark = pytest.mark.integration
stand_in_only = pytest.mark.skipif(
    bool(os.environ.get("SELFGEN_COUCHBASE_URL")), reason="stops the server, which a real cluster is spared"
)


def ms(at) -> int:
    return round(at.timestamp() * 1000)


class Counting(Documents):
    """Documents that count how often they are asked."""

    def __init__(self, inner: Documents) -> None:
        self._inner = inner
        self.asked: list[int] = []

    def get_many(self, keys):
        wanted = list(keys)
        if wanted:
            self.asked.append(len(wanted))
        return self._inner.get_many(wanted)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def settings(stack):
    return couchbase_settings(stack)


@pytest.fixture(scope="module")
def connected(settings):
    return open_documents(settings)


@pytest.fixture
def store(connected):
    store = store_on(Namespace(connected))
    add_client(store, a_client("C1", address="Calle 1", postal_code="08001", client_type="company", apell_1="García"))
    add_client(store, a_client("C2", latitude=-12.0, longitude=-77.0, time_zone="America/Lima"))
    return store


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def registry(settings, store, clock):
    registry = Registry(settings, clock)
    registry._documents = Counting(store.documents)
    yield registry
    registry.close()


def test_every_row_says_what_held_at_its_event_time(store, registry):
    made = (NOW - 900 * DAY).date()
    add_element(
        store, Panel(panel_id="P1", power_cap=400.0, tilt=30.0, azimuth=170.0, model="M", manufacture_date=made)
    )
    add_element(store, Panel(panel_id="P2", power_cap=300.0))
    site = {"address": "Roof 7", "postal_code": "28001", "latitude": 40.5, "longitude": -3.5}
    add_install(store, "panel", "P1", "C1", NOW - 10 * DAY, site=site)
    move_install(store, "panel", "P1", "C2", NOW - 5 * DAY)
    end_install(store, "panel", "P1", NOW - 2 * DAY)
    add_install(store, "panel", "P1", "C1", NOW - DAY)

    times = [NOW - offset * DAY for offset in (11, 10, 7, 5, 3, 2, 1.5, 1, 0)]
    ids = ["P1"] * len(times) + ["P2", "P9", "P1"]
    asked = np.array(ids, dtype=object), [*map(ms, times), 0, 0, ms(NOW - 5 * DAY) - 1]
    found = registry.lookup("panel", *asked)

    assert found["client_id"].tolist() == [None, "C1", "C1", "C2", "C2", None, None, "C1", "C1", None, None, "C1"]
    assert found["known"].tolist() == [True] * 10 + [False, True]
    assert not found["stale"].any()
    assert found["time_zone"].tolist()[2:4] == ["Europe/Madrid", "America/Lima"]
    with_site = found.iloc[2]
    assert with_site[["address", "postal_code", "latitude", "longitude"]].tolist() == ["Roof 7", "28001", 40.5, -3.5]
    assert found.iloc[8][["address", "latitude", "apell_1"]].tolist() == ["Calle 1", 40.4, "García"]
    assert found["power_cap"].tolist()[:10] == [400.0] * 9 + [300.0]
    assert np.isnan(found["power_cap"][10])
    assert found["manufacture_date"][0] == made.isoformat()
    assert found[["latitude", "longitude", "power_cap", "tilt", "azimuth"]].dtypes.eq("float64").all()
    columns = [column.name for column in ENRICHMENT]
    enrichment = found[columns].astype(object).where(found[columns].notna(), None).to_dict("records")
    for _ in range(2):
        assert [json.loads(f"{{{text}}}") for text in registry.texts("panel", *asked)] == enrichment


def test_history_has_every_period_once(store, registry):
    add_element(store, LightSensor(light_id="L1", power_cap=500.0, variable_data={"height": 2, "side": "east"}))
    add_element(store, LightSensor(light_id="L2", power_cap=500.0))
    add_install(store, "light", "L1", "C1", NOW - 10 * DAY, site={"variable_data": {"side": "west"}})
    move_install(store, "light", "L1", "C2", NOW - 5 * DAY)
    found = registry.history("light", ["L1", "L2", "L9", "L1"])
    assert found["element_id"].tolist() == ["L1", "L1"]
    assert found["client_id"].tolist() == ["C1", "C2"]
    assert found["init"].dtype == found["end"].dtype == pd.DatetimeTZDtype("ms", "UTC")
    assert found["init"].tolist() == [pd.Timestamp(NOW - 10 * DAY), pd.Timestamp(NOW - 5 * DAY)]
    assert found["end"][0] == pd.Timestamp(NOW - 5 * DAY)
    assert found["end"].isna().tolist() == [False, True]
    own = [{"height": 2, "side": "west"}, {"height": 2, "side": "east"}]
    assert found["variable_data"].tolist() == own
    times = [ms(NOW - 20 * DAY), ms(NOW - 6 * DAY), ms(NOW), ms(NOW)]
    assert registry.variable_data("light", ["L1", "L1", "L1", "L9"], times) == [own[1], *own, {}]


def test_a_replacement_that_was_not_written_down_has_its_place_all_the_same(store, registry, clock):
    add_element(store, Panel(panel_id="P1", power_cap=400.0))
    add_install(store, "panel", "P1", "C1", NOW - 10 * DAY)
    for writes in range(20):
        try:
            slow = store_on(Stopping(store.documents, writes))
            replace_element(slow, "P1", Panel(panel_id="P2", power_cap=500.0), NOW - DAY)
        except Stopped:
            clock.now += 30.1
            found = registry.lookup("panel", ["P1", "P2"], [ms(NOW), ms(NOW)])["client_id"].tolist()
            assert found in (["C1", None], [None, "C1"]), f"after {writes} writes"
        else:
            break


def test_misses_are_read_at_once_and_then_known(store, registry):
    for number in range(20):
        add_element(store, Panel(panel_id=f"P{number}", power_cap=400.0))
        add_install(store, "panel", f"P{number}", "C1", NOW - DAY)
    ids = [f"P{number}" for number in range(25)]
    registry.lookup("panel", ids[:10] * 3, [0] * 30)
    assert registry._documents.asked == [20, 1]  # elements and relations together; then the one client
    registry.lookup("panel", ids, [0] * 25)
    assert registry._documents.asked == [20, 1, 30]
    registry.lookup("panel", ids, [0] * 25)
    assert registry._documents.asked == [20, 1, 30]


def test_a_change_is_in_force_within_a_minute(store, registry, clock):
    add_element(store, Panel(panel_id="P1", power_cap=400.0))
    add_install(store, "panel", "P1", "C1", NOW - 10 * DAY)
    clock.now += 9.9
    registry.lookup("panel", ["P1"], [ms(NOW)])  # the client is read, and kept, with what it was
    edit_client(store, "C1", {"name": "New name"})
    move_install(store, "panel", "P1", "C2", NOW - DAY)
    correct_install(store, "panel", "P1", NOW - 5 * DAY, {"init_date": NOW - 8 * DAY})
    assert registry.lookup("panel", ["P1"], [ms(NOW)])["client_id"].tolist() == ["C1"]
    clock.now += 30.1
    times = [ms(NOW), ms(NOW - 5 * DAY), ms(NOW - 9 * DAY)]
    found = registry.lookup("panel", ["P1"] * 3, times)
    assert found["client_id"].tolist() == ["C2", "C1", None]
    assert found["name"].tolist()[1] == "New name"
    assert clock.now - 1009.9 < 60


@pytest.mark.parametrize("periods", [1, 2])
def test_what_is_asked_for_again_is_read_before_it_is_too_old_and_nobody_waits(store, registry, clock, periods):
    ids = [f"P{number}" for number in range(250)]
    times = [ms(NOW)] * len(ids)
    for one in ids:
        add_element(store, Panel(panel_id=one, power_cap=400.0))
        add_install(store, "panel", one, "C1" if periods == 1 else "C2", NOW - 10 * DAY)
        if periods == 2:
            move_install(store, "panel", one, "C1", NOW - 5 * DAY)

    def in_columns() -> list[str]:
        return registry.lookup("panel", ids, times)["client_id"].tolist()

    def in_texts() -> list[str]:
        return [json.loads(f"{{{text}}}")["client_id"] for text in registry.texts("panel", ids, times)]

    ways = (in_columns, in_texts)
    for way in ways:
        assert way() == ["C1"] * 250
    move_install(store, "panel", "P1", "C2", NOW - DAY)
    move_install(store, "panel", "P249", "C2", NOW - DAY)
    moved = ["C1", "C2", *["C1"] * 247, "C2"]
    clock.now += 14.9  # half of the time to live has not passed
    waited = registry._refresh
    registry._refresh = lambda *given, **named: pytest.fail("somebody waits")
    asked = len(registry._documents.asked)
    for way in ways:
        assert way() == ["C1"] * 250
    assert not registry._renewing
    assert len(registry._documents.asked) == asked
    clock.now += 0.2
    assert in_columns() == ["C1"] * 250
    all_renewed(registry)
    assert [count for count in registry._documents.asked[asked:] if count > 2] == [200, 200, 100]
    asked = len(registry._documents.asked)
    assert in_texts() == moved
    clock.now += 14.95  # what was read at first would be too old now
    registry._refresh = waited
    for way in ways:
        assert way() == moved
    assert len(registry._documents.asked) == asked


def test_unknown_elements_are_asked_for_again_sooner(store, registry, clock):
    assert registry.lookup("panel", ["P1"], [0])["known"].tolist() == [False]
    add_element(store, Panel(panel_id="P1", power_cap=400.0))
    clock.now += 4.9
    assert registry.lookup("panel", ["P1"], [0])["known"].tolist() == [False]
    clock.now += 0.2
    assert registry.lookup("panel", ["P1"], [0])["known"].tolist() == [True]


def test_the_cache_is_bounded_and_forgets_what_was_read_first(settings, store, clock):
    registry = Registry(settings.model_copy(update={"registry_cache_elements": 10}), clock)
    registry._documents = store.documents
    ids = [f"P{number}" for number in range(25)]
    assert len(registry.lookup("panel", ids, [0] * 25)) == 25
    assert list(registry._entries["panel"]) == ids[-10:]
    registry.close()


# while Couchbase is away


def plain(settings) -> tuple[Registry, str]:
    """Return a look-up without a namespace, and an element that a client has."""
    store = RegistryStore(open_documents(settings))
    one = f"W{uuid.uuid4().hex[:10]}"
    add_client(store, a_client(f"C{one}"))
    add_element(store, Panel(panel_id=one, power_cap=1.0))
    add_install(store, "panel", one, f"C{one}", NOW - DAY)
    quick = settings.model_copy(
        update={"couchbase_timeout_s": 1.0, "registry_ttl_s": 0.2, "registry_unknown_ttl_s": 0.2}
    )
    return Registry(quick), one


@retry(stop=stop_after_delay(30), wait=wait_fixed(0.02))
def all_renewed(registry: Registry) -> None:
    assert not registry._renewing


@retry(stop=stop_after_delay(30), wait=wait_fixed(0.2))
def recovered(registry: Registry, one: str) -> pd.DataFrame:
    found = registry.lookup("panel", [one], [ms(NOW)])
    assert not found["stale"].any()
    return found


@stand_in_only
def test_while_couchbase_is_away_it_answers_from_what_it_has_and_comes_back(stack, settings):
    registry, one = plain(settings)
    assert registry.lookup("panel", [one], [ms(NOW)])["client_id"].tolist() == [f"C{one}"]
    stale_before = REGISTRY.get_sample_value("selfgen_registry_stale_total")
    stack.down("couchbase")
    try:
        time.sleep(0.3)  # what it has grows old
        started = time.monotonic()
        found = registry.lookup("panel", [one, "never read"], [ms(NOW), 0])
        assert time.monotonic() - started < 1.5
        assert found["client_id"].tolist() == [f"C{one}", None]
        assert found["stale"].tolist() == [True, True]
        assert found["known"].tolist() == [True, False]
        assert REGISTRY.get_sample_value("selfgen_registry_away") == 1
        assert REGISTRY.get_sample_value("selfgen_registry_stale_total") == stale_before + 2
        started = time.monotonic()
        for _ in range(20):
            registry.lookup("panel", [one], [ms(NOW)])
        assert time.monotonic() - started < 0.5  # nobody waits for a server that is known to be away
        assert registry.history("panel", [one])["client_id"].tolist() == [f"C{one}"]
        with pytest.raises(Unavailable, match="panel never read"):
            registry.history("panel", [one, "never read"])
        assert not Registry(settings).await_answer(1.0)
    finally:
        stack.up("couchbase")
    assert Registry(settings).await_answer(30.0)
    assert recovered(registry, one)["client_id"].tolist() == [f"C{one}"]
    assert REGISTRY.get_sample_value("selfgen_registry_away") == 0
    registry.close()


@stand_in_only
def test_a_server_that_hangs_holds_nobody_longer_than_the_timeout(stack, settings):
    registry, one = plain(settings)
    registry.lookup("panel", [one], [ms(NOW)])
    server = psutil.Process(stack.pid("couchbase"))
    server.suspend()
    try:
        time.sleep(0.3)
        started = time.monotonic()
        found = registry.lookup("panel", [one], [ms(NOW)])
        assert time.monotonic() - started < 1.5
        assert found["stale"].tolist() == [True]
        assert found["client_id"].tolist() == [f"C{one}"]
    finally:
        server.resume()
    recovered(registry, one)
    registry.close()


@stand_in_only
def test_a_killed_stand_in_forgets_nothing_that_it_acknowledged(stack, settings):
    documents = Namespace(open_documents(settings))
    acknowledged = []
    server = psutil.Process(stack.pid("couchbase"))
    killed = Interrupted(documents, 200, server.kill)

    def insert_until_killed() -> None:
        for number in range(400):
            killed.insert(f"k{number}", str(number).encode())
            acknowledged.append(number)

    with suppress(Unavailable):  # unless it is back before the client gives up
        insert_until_killed()
    assert len(acknowledged) >= 200
    stack.up("couchbase")
    assert stack.pid("couchbase") != server.pid

    @retry(stop=stop_after_delay(30), wait=wait_fixed(0.2))
    def read():
        return documents.get_many(f"k{number}" for number in acknowledged)

    assert {key: int(stored.content) for key, stored in read().items()} == {f"k{n}": n for n in acknowledged}
    documents.replace("k0", b"1", documents.get("k0").cas)  # versions go on, too


def test_everything_of_a_registry_is_used_within_a_day(store, registry):
    """A sensor that moves every hour for a day: each hour has its own client."""
    add_element(store, Panel(panel_id="P1", power_cap=1.0))
    hours = [NOW - timedelta(hours=24 - hour) for hour in range(24)]
    add_install(store, "panel", "P1", "C1", hours[0])
    for hour, since in enumerate(hours[1:], 1):
        move_install(store, "panel", "P1", f"C{hour % 2 + 1}", since)
    found = registry.lookup("panel", ["P1"] * 24, [ms(hour) + 1 for hour in hours])
    assert found["client_id"].tolist() == [f"C{hour % 2 + 1}" for hour in range(24)]
