"""When the job of wind alarms looks at a sensor: its state and timers without Flink, by a clock that the test moves."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest

from flink_jobs.write_sensor_wind import ALARM_COLUMNS, GROUPS, alarm_function, group_of
from selfgen.settings import get_settings
from selfgen.wind_alarms import FORGOTTEN_S, SELDOM_S, Progress

DAY_S = 86_400
START_S = 1_781_956_800  # 2026-06-20T12:00Z


class State:
    """The map state of the group at hand."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def get(self, wind_id: str) -> str | None:
        return self._kept.get(wind_id)

    def put(self, wind_id: str, text: str) -> None:
        self._kept[wind_id] = text

    def remove(self, wind_id: str) -> None:
        del self._kept[wind_id]

    def items(self) -> Iterable[tuple[str, str]]:
        return self._kept.items()

    @property
    def _kept(self) -> dict[str, str]:
        return self._job.states[self._job.key]


class Job:
    """The keyed function; each second a window comes of the sensor `other`, so that silence is the sensor's own."""

    def __init__(self) -> None:
        self.now_s = START_S
        self.rows: list[dict[str, Any]] = []
        self.states: dict[int, dict[str, str]] = defaultdict(dict)
        self.timers: set[tuple[int, int]] = set()
        self.least_s = 60
        self.periods = pd.DataFrame({"end": pd.to_datetime([None], utc=True)})
        self.key = 0
        self.looks: Counter[str] = Counter()
        self.start()

    def start(self) -> None:
        """Start, or start again with what Flink has kept."""
        self._function = alarm_function(get_settings())
        self._function.state = State(self)
        self._function.looks = {}
        look = self._function._look
        self._function._look = lambda wind_id, *rest: self.looks.update([wind_id]) or look(wind_id, *rest)
        self._function.progress = Progress()
        self._function.passage = Mock(passed_ms=lambda: None)
        self._function.registry = Mock(
            variable_data=lambda _kind, ids, _times: [self.own() for _ in ids], history=lambda *_: self.periods
        )
        self._function.counts = {"raised": Mock(), "cleared": Mock()}
        timers = Mock(
            current_processing_time=lambda: self.now_s * 1000,
            register_processing_time_timer=lambda at: self.timers.add((at, self.key)),
            delete_processing_time_timer=lambda at: self.timers.discard((at, self.key)),
        )
        self._context = Mock(timer_service=lambda: timers, get_current_key=lambda: self.key)

    @property
    def known(self) -> set[str]:
        return {wind_id for kept in self.states.values() for wind_id in kept}

    def hear(self, wind_id: str, gust: float = 4.0, partition: int = 0) -> None:
        self.key = group_of(wind_id)
        window = {"timestamp": self.now_s * 1000, "wind_id": wind_id, "wind_speed": gust, "wind_gust": gust}
        self._note(self._function.process_element((window, partition, json.dumps(self.own()), []), self._context))

    def own(self) -> dict[str, Any]:
        return {"alarms": {"no_data": {"least_s": self.least_s}}}

    def pass_time(self, seconds: int, *heard: str, step_s: int = 1) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += step_s
            while self.timers and min(self.timers)[0] <= self.now_s * 1000:
                at, self.key = min(self.timers)
                self.timers.remove((at, self.key))
                self._note(self._function.on_timer(at, self._context))
            for wind_id in ("other", *heard):
                self.hear(wind_id)

    def _note(self, rows: Any) -> None:
        self.rows += [dict(zip(ALARM_COLUMNS, row, strict=True)) for row in rows]


@pytest.fixture
def job() -> Job:
    return Job()


def test_a_shorter_silence_is_in_force_with_the_next_window(job):
    job.least_s = DAY_S
    job.pass_time(20, "W1")
    job.least_s = 60
    job.pass_time(1, "W1")
    job.pass_time(70)
    [row] = job.rows
    assert (row["wind_id"], row["code"], row["state"]) == ("W1", "no_data", "raised")


def test_a_shorter_silence_is_in_force_for_a_sensor_that_is_silent_already(job):
    job.least_s = DAY_S
    job.pass_time(20, "W1")
    job.pass_time(100)
    assert job.rows == []
    job.least_s = 60
    job.pass_time(round(SELDOM_S) + 10)
    [row] = job.rows
    assert (row["wind_id"], row["timestamp"]) == ("W1", (START_S + 80) * 1000)


def test_a_group_has_one_timer_however_often_its_sensors_are_heard(job):
    for least_s in (600, 60, 6000, 60):
        job.least_s = least_s
        job.pass_time(100, "W1")
    assert Counter(group for _, group in job.timers) == Counter({group_of("W1"), group_of("other")})
    looks = job.looks["W1"]
    job.pass_time(600, "W1")
    assert job.looks["W1"] - looks <= 600 / 60 + 1


def test_sensors_of_one_group_are_told_apart(job):
    sensors = [f"W{number}" for number in range(3 * GROUPS)]
    assert max(Counter(map(group_of, sensors)).values()) > 1
    job.pass_time(20, *sensors)
    job.pass_time(30, *sensors[1::2])
    job.pass_time(70, *sensors[2::2])
    told = Counter((row["wind_id"], row["state"]) for row in job.rows)
    silent = {sensors[0], *sensors[1::2]}
    assert {key for key in told if key[1] == "raised"} >= {(wind_id, "raised") for wind_id in silent}
    assert set(told.values()) == {1}


@pytest.mark.parametrize("heard_again", [True, False])
def test_what_was_to_be_looked_at_is_looked_at_after_a_restart(job, heard_again):
    job.pass_time(20, "W1", "W2", "W3")
    job.pass_time(30)
    job.start()
    job.pass_time(5, *["W3"] * heard_again)
    job.pass_time(40)
    told = {(row["wind_id"], row["state"]) for row in job.rows}
    assert told == {("W1", "raised"), ("W2", "raised"), *[("W3", "raised")] * (not heard_again)}
    job.start()
    job.pass_time(5, "W1")
    job.pass_time(7 * 86_400 + 60, step_s=60)
    assert [row["state"] for row in job.rows if row["wind_id"] == "W2"] == ["raised"]
    assert [row["state"] for row in job.rows if row["wind_id"] == "W1"] == ["raised", "cleared", "raised"]


@pytest.mark.parametrize("restarted", [False, True])
def test_who_falls_silent_with_its_partition_is_behind_also_after_a_restart(job, restarted):
    for _ in range(20):
        for wind_id in ("behind", "behind too"):
            job.hear(wind_id, partition=1)
        job.pass_time(1)
    job.pass_time(30)
    if restarted:
        job.start()
        # one of them is looked at long before the other
        job.timers = {(at, group) for at, group in job.timers if group != group_of("behind too")}
    job.pass_time(300)
    assert job.rows == []


def test_an_id_that_was_heard_once_is_forgotten_after_one_look(job):
    job.hear("mistyped")
    job.pass_time(round(FORGOTTEN_S) + 60, step_s=60)
    assert (job.looks["mistyped"], job.known) == (1, {"other"})
    assert job.rows == []


def test_an_open_incident_is_not_forgotten(job):
    job.pass_time(20, "W1")
    job.pass_time(3 * round(FORGOTTEN_S), step_s=300)
    assert [row["state"] for row in job.rows] == ["raised"]
    job.pass_time(10, "W1")
    assert [row["state"] for row in job.rows] == ["raised", "cleared"]


def test_what_is_open_of_a_sensor_that_nobody_has_any_more_is_cleared_once(job):
    job.pass_time(20, "W1")
    for _ in range(5):
        job.hear("W1", gust=20.0)
        job.pass_time(1)
    job.pass_time(100)
    assert [(row["code"], row["state"]) for row in job.rows] == [("high_wind", "raised"), ("no_data", "raised")]
    job.periods = pd.DataFrame({"end": pd.to_datetime([job.now_s], unit="s", utc=True)})
    job.pass_time(round(SELDOM_S) + 10)
    cleared = job.rows[2:]
    assert [(row["code"], row["state"]) for row in cleared] == [("high_wind", "cleared"), ("no_data", "cleared")]
    for raised, row in zip(job.rows, cleared, strict=False):
        assert row["started_at"] == raised["started_at"]
        assert row["severity"] == raised["severity"]
        assert row["timestamp"] > raised["timestamp"]
        assert "Nobody has the sensor any more" in row["text_alarm"]
    looks = job.looks["W1"]
    job.pass_time(round(FORGOTTEN_S) + 600, step_s=300)
    assert (job.rows[4:], job.looks["W1"] - looks, job.known) == ([], 1, {"other"})


def test_a_gale_that_is_open_when_a_sensor_of_unknown_rhythm_is_given_up_is_cleared(job):
    for _ in range(3):
        job.hear("W1", gust=20.0)
        job.pass_time(1)
    job.periods = pd.DataFrame({"end": pd.to_datetime([job.now_s], unit="s", utc=True)})
    job.pass_time(2 * round(SELDOM_S) + 10)
    assert [(row["code"], row["state"]) for row in job.rows] == [("high_wind", "raised"), ("high_wind", "cleared")]


def test_an_open_incident_of_a_sensor_that_is_nobodys_and_still_heard_is_cleared_by_its_windows(job):
    job.periods = pd.DataFrame({"end": pd.to_datetime([START_S], unit="s", utc=True)})
    for _ in range(1500):
        job.hear("W1", gust=20.0)
        job.pass_time(1)
    assert [(row["code"], row["state"]) for row in job.rows] == [("high_wind", "raised")]
