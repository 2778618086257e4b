"""Wind alarms: each definition against scripted windows, and what must hold of all of them."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfgen.columns import names
from selfgen.thresholds import WindThresholds
from selfgen.wind_alarms import (
    FORGOTTEN_S,
    SELDOM_S,
    Kept,
    Mover,
    Progress,
    Sensor,
    Silence,
    as_far_as,
    beaufort,
    follow,
    follow_area,
    gale_severity,
    heard,
    is_overdue,
    longest_silence,
    next_look_s,
    silence,
    unheard,
)

HOUR = 3_600_000
NOON = 1_781_956_800_000  # 2026-06-20T12:00Z
DEFAULTS = WindThresholds()


def windows(gusts: Sequence[float], step_s: float = 1.0, start: int = NOON) -> list[dict[str, Any]]:
    return [
        {
            "timestamp": start + round(i * step_s * 1000),
            "wind_id": "W1",
            "client_id": "C1",
            "wind_speed": gust,
            "wind_gust": gust,
        }
        for i, gust in enumerate(gusts)
    ]


def alarms(
    observed: list[dict[str, Any]],
    own: WindThresholds = DEFAULTS,
    code: str | None = None,
    neighbours: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """Return the rows of windows one after the other, of one alarm or of all."""
    sensor: Sensor | None = None
    rows = []
    for window in observed:
        sensor, found = follow(sensor, window, own, [at for at in neighbours if at <= window["timestamp"]])
        rows += found
    return [row for row in rows if code in (None, row["code"])]


def blow(observed: list[dict[str, Any]], own: WindThresholds = DEFAULTS) -> list[dict[str, Any]]:
    return alarms(observed, own, "high_wind")


def thresholds(**own: dict[str, Any]) -> WindThresholds:
    return WindThresholds.of({"alarms": own})


# -- high wind ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("speed", "force", "severity"),
    [
        (0.0, 0, "minor"),
        (17.1, 7, "minor"),
        (17.2, 8, "minor"),
        (20.8, 9, "major"),
        (28.4, 10, "major"),
        (28.5, 11, "critical"),
        (60.0, 12, "critical"),
    ],
)
def test_severity_grows_with_beaufort(speed: float, force: int, severity: str) -> None:
    assert (beaufort(speed), gale_severity(speed)) == (force, severity)


def test_a_gale_is_raised_once_and_cleared_once() -> None:
    gusts = [5.0] * 10 + [18.0, 6.0, 19.0, 21.5] + [18.0, 15.0] * 10 + [13.0] * 61 + [5.0] * 100
    raised, cleared = blow(windows(gusts))
    assert (raised["state"], cleared["state"]) == ("raised", "cleared")
    # the third strong gust of five windows is the fourth from the start at 10 s
    assert raised["timestamp"] == NOON + 13_000
    assert raised["started_at"] == cleared["started_at"] == "2026-06-20T12:00:10Z"
    assert (raised["severity"], raised["wind_speed"]) == ("major", 21.5)
    assert "21.5 m/s (Beaufort 9): 3 of 5 windows at 17.2 m/s or more" in raised["text_alarm"]
    # the last gust above the easier threshold came at 33 s, the first calm window at 34 s
    assert cleared["timestamp"] == NOON + 94_000
    assert cleared["wind_speed"] == 21.5
    assert set(raised) == {"timestamp", *names("wind_alarm")}
    assert raised["client_id"] == "C1"


def test_two_strong_gusts_of_five_are_no_gale() -> None:
    assert blow(windows([18.0, 5.0, 18.0, 5.0, 5.0] * 20)) == []


def test_strong_gusts_far_apart_are_no_gale() -> None:
    often = windows([5.0] * 200)
    for number in (20, 51, 82, 113, 144):  # of a sensor that tells its wind each second
        often[number]["wind_gust"] = 18.0
    assert blow(often) == []
    assert len(blow(windows([18.0] * 5, step_s=20))) == 1


@pytest.mark.parametrize("step_s", [1, 30, 60, 600])
def test_a_sensor_has_gales_in_its_own_rhythm(step_s: int) -> None:
    raised, cleared = blow(windows([5.0] * 10 + [20.0] * 10 + [5.0] * 70, step_s=step_s))
    assert (raised["timestamp"] - NOON) / 1000 == 12 * step_s
    assert cleared["timestamp"] > raised["timestamp"]
    assert blow(windows([5.0] * 10 + [20.0, 5.0, 5.0, 5.0, 5.0] * 5, step_s=step_s)) == []


def test_wind_between_the_two_thresholds_neither_raises_nor_clears() -> None:
    assert blow(windows([15.0] * 500)) == []
    assert len(blow(windows([18.0] * 5 + [15.0] * 500))) == 1


def test_silence_does_not_clear_a_gale() -> None:
    gale = windows([20.0] * 5)
    after_an_hour = windows([5.0] * 4, start=NOON + HOUR)
    assert [row["state"] for row in blow(gale + after_an_hour)] == ["raised"]


def test_an_element_has_its_own_threshold() -> None:
    own = thresholds(high_wind={"gust": 10.0})
    gusts = [12.0] * 5 + [8.5] * 100
    assert [row["state"] for row in blow(windows(gusts), own)] == ["raised"]
    assert [row["state"] for row in blow(windows([*gusts, *[7.9] * 61]), own)] == ["raised", "cleared"]
    assert blow(windows(gusts)) == []


# -- thresholds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "own",
    [
        {"high_wind": {"gusts": 10}},
        {"high_wind": {"gust": -1}},
        {"high_wind": {"windows": 6, "of": 5}},
        {"implausible": {"jump": 500}},
        {"stuck": {"neighbours": 0}},
        {"no_data": {"least_s": 1e17}},  # no timer reaches so far
        {"stuck": {"windows": 10**30}},
        {"no_data": {"slots": 2}},
        {"hail": {}},
    ],
)
def test_thresholds_out_of_range_are_refused_and_stop_no_job(own: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        thresholds(**own)
    assert WindThresholds.read(json.dumps({"alarms": own})) == DEFAULTS


def test_thresholds_are_read_from_text() -> None:
    assert WindThresholds.read('{"alarms": {"no_data": {"least_s": 7}}}').no_data.least_s == 7
    for text in (None, "{}", "[1]", "{", '{"alarms": 3}'):
        assert WindThresholds.read(text) == DEFAULTS


# -- implausible -------------------------------------------------------------------------------------


def test_a_jump_is_raised_at_once_and_cleared_when_it_is_steady() -> None:
    rows = alarms(windows([5.0] * 10 + [26.0] + [5.0] * 400), code="implausible")
    raised, cleared = rows
    assert (raised["state"], raised["timestamp"], raised["wind_speed"]) == ("raised", NOON + 10_000, 26.0)
    assert "From 5.0 to 26.0 m/s in 1 s" in raised["text_alarm"]
    # the jump back at 11 s is part of the incident
    assert (cleared["state"], cleared["timestamp"]) == ("cleared", NOON + 311_000)
    assert cleared["started_at"] == raised["started_at"] == "2026-06-20T12:00:10Z"


def test_what_physics_allows_is_no_jump() -> None:
    assert alarms(windows([5.0, 25.0] * 50), code="implausible") == []
    minutes_apart = windows([5.0], start=NOON) + windows([40.0], start=NOON + 61_000)
    assert alarms(minutes_apart, code="implausible") == []


def test_changes_of_half_a_jump_keep_the_incident_open() -> None:
    restless = [5.0, 26.0] + [16.0, 5.0] * 400
    assert [row["state"] for row in alarms(windows(restless), code="implausible")] == ["raised"]
    assert len(alarms(windows([*restless, *[5.0] * 301]), code="implausible")) == 2


def test_several_jumps_can_be_asked_for() -> None:
    own = thresholds(implausible={"jumps": 2, "within_s": 30})
    assert alarms(windows([5.0] * 5 + [30.0] * 200), own, "implausible") == []
    [raised] = alarms(windows([5.0] * 5 + [30.0] * 20 + [5.0] * 5), own, "implausible")
    assert (raised["timestamp"], raised["started_at"]) == (NOON + 25_000, "2026-06-20T12:00:05Z")


def test_no_more_jumps_are_kept_than_are_asked_for() -> None:
    own = thresholds(implausible={"jumps": 3, "within_s": 366 * 86_400})
    sensor: Sensor | None = None
    for window in windows([5.0, 30.0] * 500):
        sensor, _ = follow(sensor, window, own)
    assert sensor is not None
    assert sensor.implausible.started == NOON + 1000
    assert sensor.implausible.recent == (NOON + 997_000, NOON + 998_000, NOON + 999_000)


def test_an_implausible_sensor_that_goes_on_more_seldom_is_cleared() -> None:
    seldom = windows([41.0] + [5.0 + step % 3 for step in range(20)], step_s=120, start=NOON + 10_000)
    rows = alarms(windows([5.0] * 10) + seldom[:1] + seldom[1:], code="implausible")
    assert [row["state"] for row in rows] == ["raised", "cleared"]


# -- stuck -------------------------------------------------------------------------------------------


def test_a_frozen_value_is_raised_where_the_neighbours_moved_and_cleared_when_it_moves() -> None:
    observed = windows([3.0, 4.0, *[6.5] * 700, 6.6, 6.6, 6.7, 6.9, 6.8, 7.0])
    raised, cleared = alarms(observed, code="stuck", neighbours=[NOON + 300_000])
    assert (raised["state"], raised["timestamp"]) == ("raised", NOON + 602_000)
    assert (raised["started_at"], raised["wind_speed"]) == ("2026-06-20T12:00:02Z", 6.5)
    assert "6.50 m/s for 10 min, 601 windows in a row, while 1 other sensor of the area moved" in raised["text_alarm"]
    # two equal windows in between break the row of three that moved
    assert (cleared["state"], cleared["timestamp"]) == ("cleared", NOON + (2 + 700 + 4) * 1000)
    assert (cleared["started_at"], cleared["wind_speed"]) == (raised["started_at"], 6.5)


def test_nothing_is_stuck_where_nothing_moved_in_that_span() -> None:
    calm = windows([9.0, *[0.0] * 2000])
    assert alarms(calm, code="stuck") == []
    assert alarms(calm, code="stuck", neighbours=[NOON - 1000, NOON]) == []
    [raised] = alarms(calm, code="stuck", neighbours=[NOON + 1_500_000])
    assert raised["timestamp"] == NOON + 1_500_000  # as soon as one moves


def test_what_was_not_measured_did_not_stand_still() -> None:
    before, after = windows([0.0] * 20), windows([0.0] * 20, start=NOON + 700_000)
    assert alarms(before + after, code="stuck", neighbours=[NOON + 300_000]) == []
    [raised] = alarms(before + windows([0.0] * 700, start=NOON + 700_000), code="stuck", neighbours=[NOON + 900_000])
    assert (raised["timestamp"] - NOON) / 1000 == 700 + 600


def test_a_value_that_moved_meanwhile_is_not_stuck() -> None:
    assert alarms(windows(([6.5] * 599 + [6.6]) * 3), code="stuck", neighbours=range(NOON, NOON + HOUR, 60_000)) == []


def test_several_neighbours_can_be_asked_for() -> None:
    own = thresholds(stuck={"neighbours": 2, "span_s": 60})
    observed = windows([6.5] * 100)
    assert alarms(observed, own, "stuck", [NOON + 10_000]) == []
    assert len(alarms(observed, own, "stuck", [NOON + 10_000, NOON + 20_000])) == 1


def test_a_sensor_is_not_its_own_neighbour_and_small_changes_are_no_movement() -> None:
    anchors: dict[str, float] = {}
    movers: list[Mover] = []

    def take(wind_id: str, at: int, speed: float) -> list[int]:
        nonlocal movers
        window = {"wind_id": wind_id, "timestamp": at, "wind_speed": speed}
        anchors[wind_id], movers, neighbours = follow_area(anchors.get(wind_id), movers, window, DEFAULTS.stuck)
        return neighbours

    for at, speed in enumerate([5.0, 5.5, 6.0, 6.5, 6.9]):
        assert take("A", at, speed) == []
    assert movers == []
    assert take("A", 10, 7.0) == []  # two m/s in all
    assert take("B", 10, 1.0) == [10]
    assert take("B", 11, 9.0) == [10]
    assert take("A", 12, 7.0) == [11]
    for number in range(10):
        take(f"C{number}", 20 + number, 0.0)
        take(f"C{number}", 40 + number, 8.0)
    assert [mover.wind_id for mover in movers] == ["C9", "C8", "C7", "C6", "C5", "C4"]


# -- owners ------------------------------------------------------------------------------------------


def test_an_incident_ends_with_its_owner_and_tells_the_next_nothing() -> None:
    stormy = windows([20.0] * 10)
    mine, others = stormy[:5], [window | {"client_id": "C2"} for window in stormy[5:]]
    rows = blow([*mine, *others])
    told = [(row["client_id"], row["state"], row["timestamp"]) for row in rows]
    begin = others[0]["timestamp"]
    assert told[0][:2] == ("C1", "raised")
    assert told[1] == ("C1", "cleared", begin)
    assert "somebody else's" in rows[1]["text_alarm"]
    assert rows[1]["started_at"] == rows[0]["started_at"]
    assert told[2:] == [("C2", "raised", alone["timestamp"]) for alone in blow(others)]
    assert rows[2]["started_at"] == blow(others)[0]["started_at"]


def test_an_incident_goes_on_while_it_is_not_known_whose_the_sensor_is() -> None:
    stormy = windows([20.0] * 10)
    unknown = [window | {"client_id": None} if index in (6, 7) else window for index, window in enumerate(stormy)]
    assert blow(unknown) == blow(stormy)
    later = [window | {"client_id": "C2"} for window in windows([20.0] * 2, start=NOON + 10_000)]
    [_, cleared] = blow([*stormy, *({**window, "client_id": None} for window in later), *shifted(later, 2)])[:2]
    assert (cleared["client_id"], cleared["state"]) == ("C1", "cleared")


def shifted(observed: list[dict[str, Any]], seconds: int) -> list[dict[str, Any]]:
    return [window | {"timestamp": window["timestamp"] + seconds * 1000} for window in observed]


# -- no data -----------------------------------------------------------------------------------------


def heard_all(times: Sequence[int], own: WindThresholds = DEFAULTS) -> Silence:
    state = Silence()
    for at in times:
        state, _ = heard(state, {"timestamp": at, "wind_speed": 4.0}, own.no_data)
    return state


def test_a_silent_sensor_is_raised_at_the_time_it_was_silent_too_long() -> None:
    state = heard_all(range(0, 100_000, 10_000))
    assert longest_silence(state, DEFAULTS.no_data) == 100_000
    state, event = unheard(state, 189_999, DEFAULTS.no_data)
    assert (state.doubted, event) == (None, None)
    state, event = unheard(state, 200_000, DEFAULTS.no_data)
    assert (state.doubted, event) == (200_000, None)
    state, event = unheard(state, 230_000, DEFAULTS.no_data)
    assert event is not None
    assert (event.state, event.at, event.started) == ("raised", 190_000, 90_000)
    assert unheard(state, 500_000, DEFAULTS.no_data) == (state, None)  # once


def test_nobody_is_silent_while_nobody_is_heard() -> None:
    state = heard_all(range(0, 100_000, 10_000))
    for _ in range(100):
        state, event = unheard(state, 95_000, DEFAULTS.no_data)
        assert event is None
    state, _ = unheard(state, 200_000, DEFAULTS.no_data)
    for _ in range(100):  # the others stopped as well, just then
        state, event = unheard(state, 200_000, DEFAULTS.no_data)
        assert event is None


def test_data_that_arrive_while_the_alarm_fires_end_the_doubt_or_the_incident() -> None:
    state = heard_all(range(0, 10_000, 1000))
    doubtful, _ = unheard(state, 80_000, DEFAULTS.no_data)
    arrived, event = heard(doubtful, {"timestamp": 80_000, "wind_speed": 4.0}, DEFAULTS.no_data)
    assert (arrived.doubted, event) == (None, None)
    assert unheard(arrived, 81_000, DEFAULTS.no_data) == (arrived, None)

    state, raised = unheard(doubtful, 81_000, DEFAULTS.no_data)
    assert raised is not None
    for at in (80_000, 81_000):  # the first of them is from before it fired
        state, event = heard(state, {"timestamp": at, "wind_speed": 4.0}, DEFAULTS.no_data)
        assert event is None
    state, event = heard(state, {"timestamp": 82_000, "wind_speed": 4.0}, DEFAULTS.no_data)
    assert event is not None
    assert (event.state, event.started, event.at) == ("cleared", 9_000, 82_000)


def test_a_sensor_that_becomes_slower_is_told_of_once() -> None:
    state = heard_all(range(0, 20_000, 1000))
    events = []
    at = 19_000
    for _ in range(30):
        for others in (at + 89_000, at + 89_500):
            state, event = unheard(state, others, DEFAULTS.no_data)
            events.append(event)
        at += 90_000
        state, event = heard(state, {"timestamp": at, "wind_speed": 4.0}, DEFAULTS.no_data)
        events.append(event)
    assert [event.state for event in events if event] == ["raised", "cleared"]


def test_a_sensor_of_unknown_rhythm_is_not_judged() -> None:
    state = heard_all([0, 1000, 2000])
    assert next_look_s(Sensor(2000, 4.0, {}, no_data=state), HOUR, DEFAULTS) == FORGOTTEN_S
    assert longest_silence(state, DEFAULTS.no_data) is None
    assert unheard(state, HOUR, DEFAULTS.no_data) == (state, None)


def test_progress_is_that_of_the_sensors_that_would_be_late_together() -> None:
    progress = Progress()
    assert progress.of(Kept()) is None
    progress.note(0, "A", 1000)
    progress.note(1, "B", 9000)
    one = Kept()
    assert progress.of(one) == 9000  # alone in its partition
    progress.note(0, "C", 2000)
    assert progress.of(one) == 2000  # its partition is behind
    progress.note(1, "D")  # known, not heard yet
    assert progress.of(Kept(partition=1)) == 9000
    progress.note(1, "B", 8000)
    assert progress.of(Kept(partition=1)) == 9000
    after_restart = Progress()
    after_restart.note(0, "A")
    after_restart.note(1, "B", 9000)
    assert after_restart.of(one) is None  # the others of its partition are still to be heard of
    assert after_restart.of(Kept()) == 9000


def test_when_to_look_again() -> None:
    sensor: Sensor | None = None
    for window in windows([4.0] * 10):
        sensor, _ = follow(sensor, window, DEFAULTS)
    assert sensor is not None
    last = sensor.last
    assert next_look_s(sensor, None, DEFAULTS) == 60
    assert next_look_s(sensor, last, DEFAULTS) == 60
    assert next_look_s(sensor, last, thresholds(no_data={"least_s": 86_400})) == SELDOM_S
    assert next_look_s(sensor, last + 50_000, DEFAULTS) == 10
    assert next_look_s(sensor, last + HOUR, DEFAULTS) == 5
    sensor, _ = silence(sensor, last + HOUR, DEFAULTS)
    assert next_look_s(sensor, last + HOUR, DEFAULTS) == 5
    sensor, [row] = silence(sensor, last + HOUR + 5000, DEFAULTS)
    assert next_look_s(sensor, last + HOUR, DEFAULTS) == SELDOM_S
    assert (row["code"], row["state"], row["timestamp"]) == ("no_data", "raised", last + 60_000)
    assert (row["client_id"], row["wind_speed"], row["started_at"]) == ("C1", 4.0, "2026-06-20T12:00:09Z")
    assert silence(sensor, None, DEFAULTS) == (sensor, [])


def test_a_sensor_that_is_alone_is_silent_once_all_that_was_sent_has_come_through() -> None:
    sensor: Sensor | None = None
    for window in windows([4.0] * 10):
        sensor, _ = follow(sensor, window, DEFAULTS)
    assert sensor is not None
    came = sensor.last + 7 * HOUR  # the job's clock is another than the sensor's
    kept = Kept(sensor=sensor, heard_at=came)
    assert not is_overdue(kept, sensor.last, came + 59_999, DEFAULTS)
    assert is_overdue(kept, sensor.last, came + 60_000, DEFAULTS)
    assert is_overdue(kept, None, came + 60_000, DEFAULTS)
    assert not is_overdue(kept, sensor.last + 60_000, came + 60_000, DEFAULTS)  # the others tell it
    assert not is_overdue(Kept(sensor=sensor), sensor.last, came + HOUR, DEFAULTS)
    assert next_look_s(sensor, sensor.last, DEFAULTS, 20_000) == 40
    assert next_look_s(sensor, sensor.last, DEFAULTS, 61_000) == 60  # the pipeline is behind: no hurry

    for passed in (None, came - 1, came, came + 59_999):  # what was sent since may be a window of this sensor
        far = as_far_as(kept, passed)
        assert silence(sensor, sensor.last if far is None else far, DEFAULTS) == (sensor, [])
    doubted, rows = silence(sensor, as_far_as(kept, came + 61_000), DEFAULTS)
    assert rows == []
    assert silence(doubted, as_far_as(kept, came + 61_000), DEFAULTS) == (doubted, [])  # nothing new is known
    _, [row] = silence(doubted, as_far_as(kept, came + 66_000), DEFAULTS)
    assert (row["code"], row["state"], row["timestamp"]) == ("no_data", "raised", sensor.last + 60_000)


# -- all of them -------------------------------------------------------------------------------------

OWN = thresholds(
    implausible={"clear_s": 20},
    stuck={"span_s": 10, "windows": 3},
    no_data={"intervals": 5, "least_s": 5},
    high_wind={"clear_s": 10},
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 3.0, 13.0, 15.0, 18.0, 45.0]), st.integers(1, 30)), max_size=12),
    st.lists(st.integers(0, 360), max_size=5),
    st.sets(st.integers(0, 360)),
    st.integers(1, 5),
)
def test_incidents_alternate_and_survive_restarts_and_repetition(
    stretches: list[tuple[float, int]], moves: list[int], missing: set[int], every: int
) -> None:
    every_second = windows([gust for gust, length in stretches for _ in range(length)])
    observed = [window for second, window in enumerate(every_second) if second not in missing]

    def run(restarts: bool) -> list[dict[str, Any]]:
        sensor: Sensor | None = None
        rows = []
        for index, window in enumerate(observed):
            repeated = observed[max(0, index - 3) : index] if restarts and index % every == 0 else []
            for one in [window, *repeated]:
                neighbours = [NOON + move * 1000 for move in moves if NOON + move * 1000 <= one["timestamp"]]
                sensor, found = follow(sensor, one, OWN, neighbours)
                rows += found
                if restarts:  # the state goes through JSON
                    sensor = msgspec.json.decode(msgspec.json.encode(sensor), type=Sensor)
            # the others are at the next window when it is silent
            after = observed[index + 1]["timestamp"] if index + 1 < len(observed) else window["timestamp"]
            for others in range(window["timestamp"], after, 500):
                assert sensor is not None
                sensor, found = silence(sensor, others, OWN)
                rows += found
        return rows

    whole = run(restarts=False)
    assert run(restarts=True) == whole
    for code in ("high_wind", "implausible", "stuck", "no_data"):
        rows = [row for row in whole if row["code"] == code]
        assert [row["state"] for row in rows] == (["raised", "cleared"] * len(rows))[: len(rows)]
        for raised, cleared in zip(rows[::2], rows[1::2], strict=False):
            assert raised["started_at"] == cleared["started_at"]
            assert raised["timestamp"] < cleared["timestamp"]
        for before, after in pairwise(rows):
            assert before["timestamp"] <= after["timestamp"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([1.0, 2.0, 3.0]), max_size=60))
def test_stuck_agrees_with_looking_back_over_all_windows(speeds: list[float]) -> None:
    """The oracle: no state, the whole past at each window."""
    observed, moved = windows(speeds), NOON + 7_000
    expected, is_open = [], False
    for index in range(len(speeds)):
        run = 1
        while run <= index and speeds[index - run] == speeds[index]:
            run += 1
        moving = 0
        while moving <= index and (moving == index or speeds[index - moving] != speeds[index - moving - 1]):
            moving += 1
        first = index - run + 1
        neighbour = NOON + first * 1000 < moved <= NOON + index * 1000
        if not is_open and run >= 11 and neighbour:
            is_open = True
            expected.append((index, "raised"))
        elif is_open and moving >= 3:
            is_open = False
            expected.append((index, "cleared"))
    found = alarms(observed, OWN, "stuck", [moved])
    assert [((row["timestamp"] - NOON) // 1000, row["state"]) for row in found] == expected
