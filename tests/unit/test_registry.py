from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfgen.registry import (
    Client,
    LightSensor,
    Model,
    Panel,
    Period,
    Refused,
    Relations,
    WindSensor,
    changed_spans,
    checked,
    corrected,
    decoded_relations,
    encoded,
    ended,
    from_texts,
    moment,
    moved,
    normalised,
    opened,
    problems,
    retired,
    succeeded,
    valid_at,
    with_model,
)

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def at(day: int) -> datetime:
    return NOW + day * DAY


def relations(*periods: tuple[str, int, int | None]) -> Relations:
    return Relations(
        kind="panel",
        element_id="P1",
        periods=[
            Period(client_id=client, init_date=at(first), end_date=None if end is None else at(end))
            for client, first, end in periods
        ],
    )


def told(found: Relations) -> list[tuple[str, int, int | None]]:
    return [
        (each.client_id, (each.init_date - NOW).days, None if each.end_date is None else (each.end_date - NOW).days)
        for each in found.periods
    ]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("panel", ("panel_id", "init_panel_date", "end_panel_date")),
        ("light", ("light_id", "init_sensor_date", "end_sensor_date")),
        ("wind", ("wind_id", "init_wind_date", "end_wind_date")),
    ],
)
def test_relations_are_stored_under_the_requirements_names_and_read_back(kind, names):
    site = {"address": "Roof", "latitude": 1.0, "variable_data": {"row": 3}}
    period = Period(client_id="C1", init_date=at(0), end_date=at(3), **site)
    written = Relations(kind=kind, element_id="E1", periods=[period], retired=at(3), replaced_by="E2")
    content = encoded(written)
    assert all(f'"{name}"'.encode() in content for name in names)
    assert decoded_relations(kind, content) == written


def test_periods_are_opened_moved_ended_and_retired():
    one = opened(relations(), Period(client_id="A", init_date=at(0)))
    two = moved(one, "B", at(5))
    three = ended(two, at(9))
    four = opened(three, Period(client_id="C", init_date=at(9)))
    assert told(four) == [("A", 0, 5), ("B", 5, 9), ("C", 9, None)]
    out = retired(four, at(12), "P2")
    assert told(out)[-1] == ("C", 9, 12)
    heir = succeeded(Relations(kind="panel", element_id="P2", replaces="P1"), out)
    assert told(heir) == [("C", 12, None)]
    assert succeeded(Relations(kind="panel", element_id="P3", replaces="P1"), out).periods == []


def test_a_move_is_corrected_at_both_of_its_sides():
    had = relations(("A", 1, 5), ("B", 5, 9))

    def to(since: int, until: int | None) -> list[tuple[str, int, int | None]]:
        period = Period(client_id="B", init_date=at(since), end_date=until and at(until))
        return told(corrected(had, at(6), period))

    assert to(7, 9) == [("A", 1, 7), ("B", 7, 9)]
    assert to(3, 9) == [("A", 1, 3), ("B", 3, 9)]
    assert to(5, 8) == [("A", 1, 5), ("B", 5, 8)]
    with pytest.raises(Refused, match="client A has panel P1 since"):
        to(1, 9)
    # where nobody had it in between, the one before keeps its end
    had = relations(("A", 1, 4), ("B", 5, 9))
    assert to(6, 9) == [("A", 1, 4), ("B", 6, 9)]


def test_what_is_so_already_is_the_same_object():
    had = relations(("A", 0, 5), ("B", 5, None))
    assert opened(had, had.periods[1]) is had
    assert moved(had, "B", at(5)) is had
    gone = ended(had, at(8))
    assert ended(gone, at(8)) is gone
    out = retired(gone, at(9))
    assert retired(out, at(9)) is out


def test_an_instant_belongs_to_the_period_that_begins_then():
    had = relations(("A", 0, 5), ("B", 5, 7))
    held = [valid_at(had.periods, at(day)) for day in (-1, 0, 4, 5, 6, 7)]
    assert [period and period.client_id for period in held] == [None, "A", "A", "B", "B", None]


@given(
    before=st.lists(st.sampled_from([None, "A", "B"]), min_size=6, max_size=6),
    after=st.lists(st.sampled_from([None, "A", "B"]), min_size=6, max_size=6),
)
def test_changed_spans_are_where_the_owner_differs(before, after):
    def periods(owners: list[str | None]) -> list[Period]:
        return [
            Period(client_id=owner, init_date=at(day), end_date=at(day + 1))
            for day, owner in enumerate(owners)
            if owner is not None
        ]

    spans = changed_spans(periods(before), periods(after))
    days = [
        day for day in range(-1, 8) if any(first <= at(day) and (end is None or at(day) < end) for first, end in spans)
    ]
    assert days == [day for day in range(6) if before[day] != after[day]]
    assert all(earlier[1] is not None and earlier[1] < later[0] for earlier, later in pairwise(spans))


def test_a_changed_site_is_a_changed_span():
    before = relations(("A", 0, 5))
    after = Relations(
        kind="panel", element_id="P1", periods=[Period(client_id="A", init_date=at(0), end_date=at(5), address="Roof")]
    )
    assert changed_spans(before.periods, after.periods) == [(at(0), at(5))]


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (Client(client_id="", name="x", latitude=0, longitude=0), "client_id"),
        (Client(client_id="a\x7fb", name="x", latitude=0, longitude=0), "client_id"),
        (Client(client_id="\ud800", name="x", latitude=0, longitude=0), "client_id"),
        (Client(client_id=" a", name="x", latitude=0, longitude=0), "client_id"),
        (Client(client_id="é" * 65, name="x", latitude=0, longitude=0), "client_id"),
        (Client(client_id="a", name="x" * 201, latitude=0, longitude=0), "name"),
        (Client(client_id="a", name="x\ny", latitude=0, longitude=0), "name"),
        (Client(client_id="a", name="x", latitude=-90.1, longitude=0), "latitude"),
        (Client(client_id="a", name="x", latitude=0, longitude=float("nan")), "longitude"),
        (Client(client_id="a", name="x", latitude=0, longitude=0, time_zone="../etc"), "time_zone"),
        (Client(client_id="a", name="x", latitude=0, longitude=0, open_date=date(2026, 6, 3)), "open_date"),
        (Client(client_id="a", name="x", latitude=0, longitude=0, end_date=datetime(2026, 1, 1)), "end_date"),  # noqa: DTZ001
        (Panel(panel_id="p", power_cap=float("inf")), "power_cap"),
        (Panel(panel_id="p", power_cap=1, tilt=-1), "tilt"),
        (Panel(panel_id="p", power_cap=1, live_cicle=-1), "live_cicle"),
        (Panel(panel_id="p", power_cap=1, variable_data={"x": "y" * 17_000}), "variable_data"),
        (Panel(panel_id="p", power_cap=1, variable_data={1: object()}), "variable_data"),
        (LightSensor(light_id="l", power_cap=-1), "power_cap"),
        (WindSensor(wind_id="w", sensor_price=-1), "sensor_price"),
        (relations(("a\tb", 0, None)), "client_id"),
    ],
)
def test_one_wrong_field_is_one_problem(document, field):
    found = problems(document, NOW)
    assert [problem.field for problem in found] == [field]
    assert found[0].sentence.endswith(".")
    with pytest.raises(Refused):
        checked(document, NOW)


def test_what_is_right_has_no_problem():
    assert problems(Client(client_id="Ñ 1/ü::x", name="Ibérica", latitude=-90, longitude=180), NOW) == []
    assert problems(Panel(panel_id="p", power_cap=1, tilt=90, azimuth=0, install_date=date(2026, 6, 2)), NOW) == []


def test_instants_are_kept_in_utc_and_whole_milliseconds():
    local = datetime.fromisoformat("2026-06-01T14:00:00.123456+02:00")
    assert normalised(WindSensor(wind_id="w", end_date=local)).end_date == datetime(
        2026, 6, 1, 12, 0, 0, 123_000, tzinfo=UTC
    )


def test_typed_texts_become_what_the_fields_are():
    values, found = from_texts(
        Client, {"client_id": "007", "postal_code": "08001", "latitude": "41.5", "open_date": "2026-05-31"}
    )
    assert found == []
    assert values == {"client_id": "007", "postal_code": "08001", "latitude": 41.5, "open_date": date(2026, 5, 31)}
    values, found = from_texts(Panel, {"power_cap": "lots", "variable_data": "{", "colour": "blue", "tilt": "30"})
    assert values == {"tilt": 30.0}
    assert [problem.field for problem in found] == ["power_cap", "variable_data", "colour"]


def test_an_elements_own_fields_go_before_its_models():
    model = Model(kind="panel", model="M", power_cap=400.0, tilt=20.0, variable_data={"cells": 144, "frame": "black"})
    panel = with_model(
        "panel", {"panel_id": "p", "model": "M", "tilt": 35.0, "variable_data": {"frame": "silver"}}, model
    )
    assert panel == Panel(
        panel_id="p", model="M", power_cap=400.0, tilt=35.0, variable_data={"cells": 144, "frame": "silver"}
    )
    with pytest.raises(Refused, match="power_cap is missing: give it, or a model that has it"):
        with_model("light", {"light_id": "l"}, None)
    with pytest.raises(Refused, match="power_cap is missing, and light model N is not in the catalogue: give one"):
        with_model("light", {"light_id": "l", "model": "N"}, None)


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("2026-05-31", "Europe/Madrid", "2026-05-30T22:00:00+00:00"),
        ("2026-05-31 08:30", "America/Lima", "2026-05-31T13:30:00+00:00"),
        ("2026-05-31T08:30+05:30", "Europe/Madrid", "2026-05-31T03:00:00+00:00"),
        ("2026-10-25T02:30", "Europe/Madrid", "2026-10-25T00:30:00+00:00"),  # twice: the first
    ],
)
def test_a_time_without_offset_is_by_the_clients_clock(text, zone, expected):
    assert moment(text, zone).isoformat() == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("yesterday", "is not a time"),
        ("2026-13-01", "is not a time"),
        ("2026-W05", "is not a time"),
        ("2026-03-29T02:30", "does not exist in Europe/Madrid"),
    ],
)
def test_what_is_no_time_is_refused(text, sentence):
    with pytest.raises(Refused, match=sentence):
        moment(text, "Europe/Madrid")


def test_what_is_nested_too_deeply_is_told_not_thrown() -> None:
    for text in ("[" * 5000 + "]" * 5000, '{"a":' * 5000 + "1" + "}" * 5000):
        _, [problem] = from_texts(Panel, {"variable_data": text})
        assert problem.field == "variable_data"
    deep: dict[str, object] = {}
    for _ in range(5000):
        deep = {"a": deep}
    [problem] = problems(Panel(panel_id="P1", power_cap=1.0, variable_data=deep), NOW)
    assert problem.sentence == "variable_data is too deeply nested: give a JSON object of at most 16 KiB."


def test_an_instant_beyond_the_calendar_is_refused() -> None:
    with pytest.raises(Refused, match="beyond the calendar"):
        moment("9999-12-31T23:59-10:00")


def test_empty_values_are_named_as_such() -> None:
    _, [problem] = from_texts(Client, {"client_id": ""})
    assert problem.sentence == "client_id is empty: give an id of 1 to 128 bytes."
    [problem] = problems(Client(client_id="C1", name=" ", latitude=1.0, longitude=1.0), NOW)
    assert problem.field == "name"
