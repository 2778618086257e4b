"""Changes of the registry: stopped between every two writes, by two installers at once, and in any order."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from couchbase_admin.clients import add_client, close_client, edit_client
from couchbase_admin.elements import add_element, add_model, element_of, replace_element, retire_element
from couchbase_admin.installations import add_install, correct_install, end_install, move_install
from couchbase_admin.registry import Registry
from couchbase_admin.store import IdList, RegistryStore
from selfgen.registry import (
    Conflict,
    LightSensor,
    Model,
    Panel,
    Period,
    Refused,
    Unavailable,
    WindSensor,
    client_key,
    element_key,
    encoded,
    relations_key,
)
from tests.integration.registry_support import (
    DAY,
    NOW,
    Interrupted,
    Namespace,
    Stopped,
    Stopping,
    a_client,
    broken_rules,
    couchbase_settings,
    open_documents,
    store_on,
)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def connected(stack):
    return open_documents(couchbase_settings(stack))


@pytest.fixture
def documents(connected):
    return Namespace(connected)


@pytest.fixture
def store(documents):
    store = store_on(documents)
    for client_id in ("C1", "C2", "C3"):
        assert add_client(store, a_client(client_id))
    assert add_element(store, Panel(panel_id="P1", power_cap=400.0, tilt=30.0, azimuth=180.0))
    assert add_install(store, "panel", "P1", "C1", NOW - 10 * DAY)
    return store


def owners(store: RegistryStore, element_id: str = "P1") -> list[tuple[str, datetime, datetime | None]]:
    read = store.relations("panel", element_id)
    return [(period.client_id, period.init_date, period.end_date) for period in (read.value.periods if read else [])]


# what is stored


def test_documents_have_the_requirements_names(store):
    stored = msgspec.json.decode(store.documents.get(relations_key("panel", "P1")).content)
    assert stored["panel_id"] == "P1"
    assert stored["periods"] == [
        {"client_id": "C1", "init_panel_date": (NOW - 10 * DAY).strftime("%Y-%m-%dT%H:%M:%SZ")}
    ]
    assert msgspec.json.decode(store.documents.get(client_key("C1")).content)["name"] == "Client C1"


def test_doing_the_same_again_changes_nothing(store):
    before = {key: store.documents.get(key).cas for key in ("client::C1", "panel::P1", "clients_rel::panel::P1")}
    assert not add_client(store, a_client("C1"))
    assert not add_element(store, Panel(panel_id="P1", power_cap=400.0, tilt=30.0, azimuth=180.0))
    assert not add_install(store, "panel", "P1", "C1", NOW - 10 * DAY)
    assert {key: store.documents.get(key).cas for key in before} == before
    assert store.ids("panel") == ["P1"]


def test_the_tenth_panel_of_a_model_takes_one_line(store):
    assert add_model(store, Model(kind="panel", model="Solaria", power_cap=420.0, live_cicle=25.0, panel_price=180.0))
    element = element_of(store, "panel", {"panel_id": "P10", "model": "Solaria", "panel_price": 150.0})
    assert add_element(store, element)
    stored = store.element("panel", "P10").value
    assert (stored.power_cap, stored.live_cicle, stored.panel_price) == (420.0, 25.0, 150.0)
    with pytest.raises(Refused, match="power_cap is missing"):
        element_of(store, "panel", {"panel_id": "P11", "model": "Unheard of"})


def test_a_move_keeps_the_past_with_the_first_client(store):
    assert move_install(store, "panel", "P1", "C2", NOW - 3 * DAY)
    assert owners(store) == [("C1", NOW - 10 * DAY, NOW - 3 * DAY), ("C2", NOW - 3 * DAY, None)]
    assert not move_install(store, "panel", "P1", "C2", NOW - 3 * DAY)
    assert store.elements_of("C1") == store.elements_of("C2") == [("panel", "P1")]


def test_a_replacement_takes_the_place(store):
    site = {"address": "Roof 2", "latitude": 41.0, "longitude": 2.0}
    add_element(store, Panel(panel_id="P2", power_cap=300.0))
    add_install(store, "panel", "P2", "C2", NOW - 9 * DAY, site=site)
    assert replace_element(store, "P2", Panel(panel_id="P3", power_cap=500.0), NOW - DAY)
    assert owners(store, "P2") == [("C2", NOW - 9 * DAY, NOW - DAY)]
    period = store.relations("panel", "P3").value.periods[0]
    assert period == Period(client_id="C2", init_date=NOW - DAY, **site)
    assert store.element("panel", "P2").value.end_date == NOW - DAY
    assert not replace_element(store, "P2", Panel(panel_id="P3", power_cap=500.0), NOW - DAY)
    with pytest.raises(Refused, match="is retired since"):
        add_install(store, "panel", "P2", "C1", NOW)
    assert broken_rules(store) == []


def test_history_tells_what_when_by_whom_before_and_after(documents, store):
    other = store_on(documents, "luis")
    edit_client(other, "C1", {"address": "Calle Mayor 1"})
    changes = store.history([client_key("C1")])
    assert [(change.by, change.action) for change in changes] == [("ana", "client added"), ("luis", "client edited")]
    before, after = (msgspec.json.decode(change.after) for change in changes)
    assert "address" not in before
    assert after == {**before, "address": "Calle Mayor 1"}
    assert changes[0].at <= changes[1].at


def test_history_keeps_the_order_of_changes_though_clocks_differ(documents, store):
    behind = replace(store_on(documents, "luis"), clock=lambda: NOW - DAY)
    edit_client(behind, "C1", {"address": "Calle Mayor 1"})
    edit_client(store, "C1", {"address": "Calle Mayor 2"})
    told = [(change.key, change.action) for change in store.history([client_key("C2"), client_key("C1")])]
    assert [action for key, action in told if key == client_key("C1")] == ["client added", *["client edited"] * 2]
    assert told[2][0] == client_key("C2")


def test_another_time_zone_has_all_that_the_client_ever_had_computed_again(connected):
    marked = []
    store = store_on(Namespace(connected), mark_dirty=lambda topic, hours, _reason: marked.append((topic, hours)))
    store = replace(store, clock=lambda: NOW)
    for client_id in ("C1", "C2"):
        add_client(store, a_client(client_id))
    add_element(store, Panel(panel_id="P1", power_cap=300.0))
    add_element(store, LightSensor(light_id="L1", power_cap=400.0))
    add_install(store, "panel", "P1", "C1", NOW - 9 * DAY)
    move_install(store, "panel", "P1", "C2", NOW - 5 * DAY)
    add_install(store, "light", "L1", "C2", NOW - 2 * DAY)
    del marked[:]
    edit_client(store, "C2", {"address": "Calle Mayor 1"})
    assert marked == []
    edit_client(store, "C2", {"time_zone": "Asia/Kolkata"})
    spans = {topic: (min(hours), max(hours)) for topic, hours in marked if hours}
    first = {"panel": NOW - 5 * DAY, "light": NOW - 2 * DAY}
    hour_ms = 3_600_000
    assert spans.keys() == first.keys()
    for topic, since in first.items():
        assert spans[topic][0] == since.timestamp() * 1000 // hour_ms * hour_ms
        assert spans[topic][1] == (NOW.timestamp() * 1000 - 1) // hour_ms * hour_ms


# refused

TOMORROW = NOW + DAY
REFUSALS = {
    "duplicate element": (
        lambda store: add_element(store, Panel(panel_id="P1", power_cap=1.0)),
        "panel P1 exists already, with other data",
    ),
    "duplicate client": (lambda store: add_client(store, a_client("C1", name="X")), "client C1 exists already"),
    "unknown client": (
        lambda store: move_install(store, "panel", "P1", "C9", NOW),
        r"client C9 is not registered: add it first \(selfgen client add\)",
    ),
    "unknown element": (
        lambda store: add_install(store, "wind", "P1", "C1", NOW),
        r"wind P1 is not registered: add it first \(selfgen element add wind\)",
    ),
    "overlap": (
        lambda store: add_install(store, "panel", "P1", "C2", NOW - 20 * DAY),
        "client C1 has panel P1 since .*: end that first, or move it",
    ),
    "end before start": (
        lambda store: add_install(store, "panel", "P1", "C1", NOW - 20 * DAY, until=NOW - 21 * DAY),
        "is not after the start .*: give a later end",
    ),
    "end at the start": (lambda store: end_install(store, "panel", "P1", NOW - 10 * DAY), "must be later"),
    "end of nothing": (lambda store: end_install(store, "panel", "P1", NOW - 11 * DAY), "nobody has panel P1 at"),
    "move of nothing": (
        lambda store: move_install(store, "panel", "P1", "C2", NOW - 11 * DAY),
        "nobody has panel P1 .*: use selfgen install add",
    ),
    "move from another": (
        lambda store: move_install(store, "panel", "P1", "C2", NOW, from_client="C3"),
        "client C1 has panel P1 since .*, not C3",
    ),
    "retired in the future": (
        lambda store: retire_element(store, "panel", "P1", TOMORROW),
        "is in the future: give the time it went out of service",
    ),
    "made in the future": (
        lambda store: add_element(store, Panel(panel_id="P5", power_cap=1.0, manufacture_date=(NOW + 3 * DAY).date())),
        "manufacture_date .* is in the future",
    ),
    "installed before made": (
        lambda store: add_element(
            store,
            Panel(
                panel_id="P5",
                power_cap=1.0,
                manufacture_date=(NOW - DAY).date(),
                install_date=(NOW - 2 * DAY).date(),
            ),
        ),
        "install_date .* is before manufacture_date",
    ),
    "time zone": (
        lambda store: add_client(store, a_client("C5", time_zone="Europe/Madird")),
        "time_zone is Europe/Madird: give an IANA time zone",
    ),
    "coordinates": (
        lambda store: add_client(store, a_client("C5", latitude=91.0)),
        "latitude is 91.0: give degrees north",
    ),
    "site's coordinates": (
        lambda store: move_install(store, "panel", "P1", "C2", NOW, site={"longitude": 181.0}),
        "longitude is 181.0: give degrees east",
    ),
    "rating": (
        lambda store: add_element(store, Panel(panel_id="P5", power_cap=0.0)),
        "power_cap is 0.0: give the rating in W peak, a number greater than 0",
    ),
    "tilt": (lambda store: add_element(store, Panel(panel_id="P5", power_cap=1.0, tilt=90.5)), "tilt is 90.5"),
    "azimuth": (
        lambda store: add_element(store, Panel(panel_id="P5", power_cap=1.0, azimuth=360.0)),
        "azimuth is 360.0: give degrees clockwise",
    ),
    "text over its limit": (
        lambda store: add_client(store, a_client("C5", address="x" * 201)),
        "address is x+…: give text of at most 200",
    ),
    "id with a control character": (
        lambda store: add_element(store, WindSensor(wind_id="W\n1")),
        "has a control character, which a key cannot hold",
    ),
    "id too long": (
        lambda store: add_element(store, WindSensor(wind_id="ñ" * 65)),
        "has 130 bytes of UTF-8: give an id of 1 to 128",
    ),
    "client with elements closed": (lambda store: close_client(store, "C1", NOW), "end or move that first"),
    "nowhere": (
        lambda store: edit_client(store, "C9", {"name": "x"}),
        "client C9 is not registered",
    ),
    "start before anything was measured": (
        lambda store: correct_install(store, "panel", "P1", NOW, {"init_date": datetime(202, 5, 1, tzinfo=NOW.tzinfo)}),
        "is before 1990-01-01",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_with_a_sentence_and_nothing_written(store, name):
    attempt, sentence = REFUSALS[name]
    before = msgspec.json.encode([bytes(change.after) for change in everything(store)])
    with pytest.raises(Refused, match=sentence):
        attempt(store)
    assert msgspec.json.encode([bytes(change.after) for change in everything(store)]) == before
    assert broken_rules(store) == []


def everything(store: RegistryStore):
    keys = [client_key(one) for one in ("C1", "C2", "C3", "C5")]
    keys += [
        key(kind, one) for kind in ("panel", "wind") for one in ("P1", "P5") for key in (element_key, relations_key)
    ]
    return store.history(keys)


def test_a_closed_client_gets_nothing(store):
    end_install(store, "panel", "P1", NOW - 2 * DAY)
    assert close_client(store, "C1", NOW - DAY)
    assert not close_client(store, "C1", NOW - DAY)
    with pytest.raises(Refused, match="client C1 is closed since"):
        add_install(store, "panel", "P1", "C1", NOW)
    assert add_install(store, "panel", "P1", "C2", NOW)


# stopped between every two writes


COMMANDS = {
    "client add": lambda store: add_client(store, a_client("C4")),
    "client edit": lambda store: edit_client(store, "C1", {"postal_code": "08001"}),
    "element add": lambda store: add_element(store, Panel(panel_id="P9", power_cap=1.0)),
    "install add": lambda store: add_install(store, "panel", "P2", "C2", NOW - 2 * DAY),
    "install move": lambda store: move_install(store, "panel", "P1", "C2", NOW - 2 * DAY),
    "install end": lambda store: end_install(store, "panel", "P1", NOW - 2 * DAY),
    "install correct": lambda store: correct_install(store, "panel", "P1", NOW, {"init_date": NOW - 8 * DAY}),
    "element retire": lambda store: retire_element(store, "panel", "P1", NOW - 2 * DAY),
    "element replace": lambda store: replace_element(store, "P1", Panel(panel_id="P7", power_cap=5.0), NOW - 2 * DAY),
    "client close": lambda store: close_client(store, "C3", NOW - 2 * DAY),
}
#: The same without a time, as most are typed; a repetition comes later.
COMMANDS_NOW = {
    "install add": lambda store: add_install(store, "panel", "P2", "C2"),
    "install move": lambda store: move_install(store, "panel", "P1", "C2"),
    "install end": lambda store: end_install(store, "panel", "P1"),
    "element retire": lambda store: retire_element(store, "panel", "P1"),
    "element replace": lambda store: replace_element(store, "P1", Panel(panel_id="P7", power_cap=5.0)),
    "client close": lambda store: close_client(store, "C3"),
}


def state(store: RegistryStore) -> dict[str, object]:
    """Return what the registry says, without when it was said."""
    clients = {one: read and encoded(read.value) for one in ("C1", "C2", "C3", "C4") for read in [store.client(one)]}
    panels = ("P1", "P2", "P7", "P9")
    elements = {one: read and encoded(read.value) for one in panels for read in [store.element("panel", one)]}
    return {**clients, **elements, **{f"owners of {one}": owners(store, one) for one in panels}}


@pytest.mark.parametrize("name", COMMANDS)
def test_stopped_between_any_two_writes_the_registry_is_consistent(connected, name):
    command = COMMANDS[name]
    marked: set[tuple[str, int]] = set()

    def mark(topic, hours_ms, reason):
        marked.update((topic, hour) for hour in hours_ms)

    def prepared() -> RegistryStore:
        fresh = store_on(Namespace(connected))
        for client_id in ("C1", "C2", "C3"):
            add_client(fresh, a_client(client_id))
        add_element(fresh, Panel(panel_id="P1", power_cap=400.0))
        add_element(fresh, Panel(panel_id="P2", power_cap=300.0))
        add_install(fresh, "panel", "P1", "C1", NOW - 10 * DAY)
        add_install(fresh, "panel", "P2", "C3", NOW - 10 * DAY, until=NOW - 9 * DAY)
        fresh.mark_pending_hours()
        fresh.documents.remove("dirty_hours::pending")
        return fresh

    whole = prepared()
    before = state(whole)
    whole.mark_dirty = mark
    assert command(whole)
    after, expected_marks = state(whole), set(marked)
    assert after != before

    for writes in itertools.count():
        store = prepared()
        marked.clear()
        try:
            command(store_on(Stopping(store.documents, writes), mark_dirty=mark))
        except Stopped:
            pass
        else:
            break
        assert broken_rules(store) == [], f"stopped after {writes} writes"
        there = state(store)
        changed = {key for key in after if there[key] != before[key]}
        assert all(there[key] == after[key] for key in changed), f"half done after {writes} writes: {there}"
        if any(key.startswith("owners") for key in changed):  # no hour that is to be computed again is lost
            store.clock = lambda: datetime.now(UTC) + timedelta(minutes=20)
            store.mark_dirty = mark
            store.mark_pending_hours()
            assert {hour for hour in expected_marks if hour[1] < NOW.timestamp() * 1000 - 3_600_000} <= marked
        store.mark_dirty = mark
        command(store)  # doing it again finishes it
        assert state(store) == after
        assert broken_rules(store) == []
    assert writes >= 2  # the history's entry and the change, at least


@pytest.mark.parametrize("name", COMMANDS_NOW)
def test_a_command_of_now_that_was_stopped_is_finished_by_repeating_it_later(store, name):
    command = COMMANDS_NOW[name]
    start = store.clock()
    for writes in itertools.count():
        fresh = store_on(Namespace(store.documents._inner))
        for client_id in ("C1", "C2", "C3"):
            add_client(fresh, a_client(client_id))
        add_element(fresh, Panel(panel_id="P1", power_cap=400.0))
        add_element(fresh, Panel(panel_id="P2", power_cap=300.0))
        add_install(fresh, "panel", "P1", "C1", start - 10 * DAY)
        add_install(fresh, "panel", "P2", "C3", start - 10 * DAY, until=start - 9 * DAY)
        stopped = False
        try:
            command(store_on(Stopping(fresh.documents, writes)))
        except Stopped:
            stopped = True
        fresh.clock = lambda: datetime.now(UTC) + timedelta(hours=1)
        command(fresh)
        there = state(fresh)
        assert not command(fresh)  # nothing is left to do
        assert state(fresh) == there
        assert broken_rules(fresh) == []
        element = fresh.element("panel", "P1").value
        assert element.end_date == fresh.relations("panel", "P1").value.retired
        if not stopped:
            break
    assert writes >= 2


# two installers at once


def test_of_two_moves_exactly_one_wins_and_the_other_is_told(store):
    for before_write in range(4):  # the client's list, the history, the hours, the change itself
        fresh = store_on(Namespace(store.documents._inner))
        for client_id in ("C1", "C2", "C3"):
            add_client(fresh, a_client(client_id))
        add_element(fresh, Panel(panel_id="P1", power_cap=400.0))
        add_install(fresh, "panel", "P1", "C1", NOW - 10 * DAY)
        other = store_on(fresh.documents, "luis")

        def quicker(other=other):
            assert move_install(other, "panel", "P1", "C2", NOW - 2 * DAY)

        slow = store_on(Interrupted(fresh.documents, before_write, quicker))
        with pytest.raises(Conflict, match="somebody else was quicker: client C2 has panel P1 since"):
            move_install(slow, "panel", "P1", "C3", NOW - DAY)
        assert owners(fresh)[-1] == ("C2", NOW - 2 * DAY, None)
        assert broken_rules(fresh) == []


def with_one_panel(connected, *, had_before: bool) -> RegistryStore:
    """Return a registry with a client and a panel, which that had before, or never."""
    store = store_on(Namespace(connected))
    add_client(store, a_client("C1"))
    add_element(store, Panel(panel_id="P1", power_cap=400.0))
    if had_before:
        add_install(store, "panel", "P1", "C1", NOW - 9 * DAY, until=NOW - 8 * DAY)
    return store


@pytest.mark.parametrize("had_before", [False, True])
def test_a_client_does_not_get_an_element_while_it_is_closed(connected, had_before):
    for before_write in itertools.count():
        store = with_one_panel(connected, had_before=had_before)
        outcome = []

        def install(store=store, outcome=outcome):
            try:
                outcome.append(add_install(store, "panel", "P1", "C1", NOW - DAY))
            except (Refused, Conflict):
                outcome.append(False)

        try:
            close_client(store_on(Interrupted(store.documents, before_write, install)), "C1", NOW)
        except Refused:
            closed = False
        else:
            closed = True
        if not outcome:
            break
        assert [closed] != outcome, f"before write {before_write}"
        assert (store.client("C1").value.end_date is not None) is closed
        assert any(end is None for _, _, end in owners(store)) is not closed
    assert before_write >= 2


@pytest.mark.parametrize("had_before", [False, True])
def test_a_client_is_not_closed_while_it_gets_an_element(connected, had_before):
    for before_write in itertools.count():
        store = with_one_panel(connected, had_before=had_before)
        closings = []

        def close(store=store, closings=closings):
            closings.append(close_client(store, "C1", NOW))

        slow = store_on(Interrupted(store.documents, before_write, close))
        try:
            installed = add_install(slow, "panel", "P1", "C1", NOW - DAY)
        except (Refused, Conflict):
            installed = False
        if not closings:
            break
        assert not installed, f"before write {before_write}"
        assert all(end is not None for _, _, end in owners(store))
    assert before_write >= 2


def test_lists_of_ids_grow_over_their_documents(documents, monkeypatch):
    monkeypatch.setattr(IdList, "CHUNK", 3)
    listed = IdList(documents, "panel")
    for number in range(10):
        listed.add([f"P{number}"])
    listed.add([f"P{number}" for number in range(8, 30)])
    assert sorted(listed.all()) == sorted(f"P{number}" for number in range(30))
    IdList.add_each(documents, {"panel": ["P30", "P3"], "wind": ["W1", "W2"], "light": []})
    assert "P30" in listed.all()
    assert IdList(documents, "wind").all() == ["W1", "W2"]


def test_hours_stay_noted_until_they_can_be_marked(documents, store):
    marked: list[int] = []
    away = True

    def mark(topic, hours_ms, reason):
        if away:
            raise Unavailable("MongoDB does not answer")
        marked.extend(hours_ms)

    store.mark_dirty = mark
    assert move_install(store, "panel", "P1", "C2", NOW - timedelta(hours=30))
    away = False
    store.mark_pending_hours()  # at once, and once: each mark has the hours computed again
    first = int((NOW - timedelta(hours=30)).timestamp() * 1000) // 3_600_000 * 3_600_000
    assert {first + hour * 3_600_000 for hour in range(30)} <= set(marked)
    marked.clear()
    store.clock = lambda: NOW + timedelta(hours=1)
    store.mark_pending_hours()
    assert marked == []


def test_what_a_killed_command_noted_is_marked_once_and_once_more_when_it_is_surely_over(documents, store):
    marked: list[int] = []
    assert store.note_hours("killed", "panel", [(NOW - timedelta(hours=3), NOW)], "killed")
    store.mark_dirty = lambda topic, hours_ms, reason: marked.extend(hours_ms if reason == "killed" else ())
    store.mark_pending_hours()
    hours = sorted(marked)
    assert len(hours) >= 3
    store.mark_pending_hours()
    assert sorted(marked) == hours
    store.clock = lambda: NOW + timedelta(hours=1)
    for _ in range(2):
        store.mark_pending_hours()
        assert sorted(marked) == sorted(2 * hours)


# any sequence, by two writers

EXAMPLES = 40

SLOTS = 8
CLIENTS = ("C1", "C2")
ELEMENTS = ("P1", "P2", "P3")
INSTANTS = [NOW - (SLOTS - slot) * DAY for slot in range(SLOTS + 1)]

slots = st.integers(0, SLOTS - 1)
changes = st.one_of(
    st.tuples(
        st.just("add"), st.sampled_from(ELEMENTS), st.sampled_from(CLIENTS), slots, st.none() | st.integers(1, SLOTS)
    ),
    st.tuples(st.just("move"), st.sampled_from(ELEMENTS), st.sampled_from(CLIENTS), slots),
    st.tuples(st.just("end"), st.sampled_from(ELEMENTS), slots),
    st.tuples(st.just("retire"), st.sampled_from(ELEMENTS), slots),
    st.tuples(st.just("replace"), st.sampled_from(ELEMENTS), st.sampled_from(ELEMENTS), slots),
)


class Oracle:
    """Who has each element in each slot, by going through all of them one by one."""

    def __init__(self) -> None:
        self.periods: dict[str, list[tuple[str, int, int]]] = {one: [] for one in ELEMENTS}  # client, first, end
        self.retired: dict[str, int] = {}

    def owner(self, element: str, slot: int) -> str | None:
        return next((client for client, first, end in self.periods[element] if first <= slot < end), None)

    def period(self, element: str, slot: int) -> tuple[str, int, int] | None:
        return next((each for each in self.periods[element] if each[1] <= slot < each[2]), None)

    def apply(self, name: str, element: str, *details) -> bool | None:
        """Make a change; return whether it is allowed, None where there is nothing to change."""
        return getattr(self, name)(element, *details)

    def add(self, element: str, client: str, first: int, end: int | None) -> bool | None:
        last = SLOTS + 1 if end is None else end
        if last <= first:
            return False
        if (client, first, last) in self.periods[element]:
            return None
        out = self.retired.get(element, SLOTS + 2)
        if last > out or any(self.owner(element, slot) for slot in range(first, last)):
            return False
        self.periods[element].append((client, first, last))
        return True

    def move(self, element: str, client: str, since: int) -> bool | None:
        held = self.period(element, since)
        if held is None:
            return False
        if held[0] == client:
            return None if held[1] == since else False
        if held[1] == since:
            return False
        self.periods[element].remove(held)
        self.periods[element] += [(held[0], held[1], since), (client, since, held[2])]
        return True

    def end(self, element: str, at: int) -> bool | None:
        held = self.period(element, at)
        if held is None:
            return None if any(end == at for _, _, end in self.periods[element]) else False
        if held[1] == at:
            return False
        self.periods[element].remove(held)
        self.periods[element].append((held[0], held[1], at))
        return True

    def retire(self, element: str, at: int) -> bool | None:
        if element in self.retired:
            return None if self.retired[element] == at and element not in self.replaced else False
        return self._retire(element, at)

    def _retire(self, element: str, at: int) -> bool:
        if any(first >= at for _, first, _ in self.periods[element]):
            return False
        held = self.period(element, at)
        if held is not None:
            self.periods[element].remove(held)
            self.periods[element].append((held[0], held[1], at))
        self.retired[element] = at
        return True

    @property
    def replaced(self) -> dict[str, str]:
        return self.__dict__.setdefault("_replaced", {})

    def replace(self, element: str, other: str, at: int) -> bool | None:
        if element == other:
            return False
        if element in self.retired:
            return None if (self.retired[element], self.replaced.get(element)) == (at, other) else False
        if self.periods[other] or other in self.retired:
            return False
        if not self._retire(element, at):
            return False
        self.replaced[element] = other
        inherited = next((client for client, _, end in self.periods[element] if end == at), None)
        if inherited is not None:
            self.periods[other] = [(inherited, at, SLOTS + 1)]
        return True


def carry_out(store: RegistryStore, name: str, element: str, *details) -> bool:
    if name == "add":
        client, first, end = details
        until = None if end is None else INSTANTS[end]
        return add_install(store, "panel", element, client, INSTANTS[first], until=until)
    if name == "move":
        return move_install(store, "panel", element, details[0], INSTANTS[details[1]])
    if name == "end":
        return end_install(store, "panel", element, INSTANTS[details[0]])
    if name == "retire":
        return retire_element(store, "panel", element, INSTANTS[details[0]])
    return replace_element(store, element, Panel(panel_id=details[0], power_cap=1.0), INSTANTS[details[1]])


def attempted(store: RegistryStore, change) -> bool | None:
    """Return True where a change was made, None where there was nothing to change, False where it was refused."""
    try:
        return True if carry_out(store, *change) else None
    except (Refused, Conflict):
        return False


def prepared(connected) -> RegistryStore:
    store = store_on(Namespace(connected))
    for client_id in CLIENTS:
        add_client(store, a_client(client_id))
    for element in ELEMENTS:
        add_element(store, Panel(panel_id=element, power_cap=1.0))
    return store


class NamespacedRegistry(Registry):
    """The pipeline's look-up in a test's own namespace."""

    def __init__(self, settings, documents) -> None:
        super().__init__(settings)
        self._documents = documents


def assert_agrees(store: RegistryStore, oracle: Oracle, connection) -> None:
    assert broken_rules(store) == []
    registry = NamespacedRegistry(connection, store.documents)
    queries = [
        (element, slot, INSTANTS[slot] + offset)
        for element in ELEMENTS
        for slot in range(SLOTS + 1)
        for offset in (timedelta(0), timedelta(milliseconds=1), DAY - timedelta(milliseconds=1))
    ]
    times = np.array([round(at.timestamp() * 1000) for _, _, at in queries])
    found = registry.lookup("panel", [element for element, _, _ in queries], times)
    registry.close()
    assert found["client_id"].tolist() == [oracle.owner(element, slot) for element, slot, _ in queries]
    history = registry.history("panel", ELEMENTS)
    assert len(history) == sum(len(periods) for periods in oracle.periods.values())


@settings(max_examples=2 * EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example([("add", "P1", "C1", 1, 1), ("replace", "P2", "P1", 1), ("retire", "P1", 0), ("replace", "P2", "P1", 1)])
@given(sequence=st.lists(changes, min_size=1, max_size=12))
def test_any_sequence_of_changes_is_what_the_oracle_says(stack, connected, sequence):
    store, oracle = prepared(connected), Oracle()
    for change in sequence:
        assert attempted(store, change) == oracle.apply(*change), change
    assert_agrees(store, oracle, stack.settings)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.lists(changes, max_size=6), first=changes, second=changes, before_write=st.integers(0, 6))
def test_two_writers_at_once_leave_what_one_after_the_other_would(
    stack, connected, before, first, second, before_write
):
    store = prepared(connected)
    for change in before:
        attempted(store, change)
    interrupting = []

    def happens() -> None:
        interrupting.append(attempted(store_on(store.documents, "luis"), second))

    slow = attempted(store_on(Interrupted(store.documents, before_write, happens)), first)
    if not interrupting:
        happens()
    # the quick one was at once; the slow one before it, after it, or not at all
    for order in ([second, first], [first, second], [second]):
        oracle = Oracle()
        for change in before:
            oracle.apply(*change)
        told = {id(change): oracle.apply(*change) for change in order}
        if told[id(second)] == interrupting[0] and (told.get(id(first), False) == slow):
            try:
                assert_agrees(store, oracle, stack.settings)
            except AssertionError:
                continue
            return
    pytest.fail(f"{first} interrupted by {second}: no order explains {owners(store)}, {interrupting}, {slow}")
