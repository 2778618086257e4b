"""Days of replaced hours are noted before, and summed up after, whatever fails in between."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flink_jobs import day_sums, pending, reports
from flink_jobs.reports import Staged
from selfgen.calendar import DAY_MS, HOUR_MS
from selfgen.clients import druid
from selfgen.settings import Settings

START = datetime(2026, 1, 10, tzinfo=UTC)
START_MS = round(START.timestamp() * 1000)
DAY = timedelta(days=1)

Days = list[tuple[datetime, datetime]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, build_dir=tmp_path)


@pytest.fixture
def summed(monkeypatch: pytest.MonkeyPatch) -> Days:
    """Give the ranges that a Druid that does not run is asked to sum up."""
    summed: Days = []

    def roll_up(_settings: Settings, datasource: str, start: datetime, end: datetime) -> druid.Replacement:
        assert datasource == "panel_day"
        summed.append((start, end))
        return druid.Replacement("t1", 10, 1.0)

    monkeypatch.setattr(druid, "roll_up", roll_up)
    return summed


def note(settings: Settings, start_ms: int, end_ms: int) -> None:
    pending.note_days(settings, "panel_report", start_ms, end_ms)


@pytest.mark.parametrize("fails", [False, True])
def test_days_are_noted_before_hours_of_them_are_replaced(settings, tmp_path, monkeypatch, fails):
    found = []

    def replace(settings: Settings, datasource: str, *_: object, **__: object) -> None:
        found.append((datasource, pending.noted(settings, "panel_day")))
        if fails:
            raise druid.DruidError("away")

    monkeypatch.setattr(druid, "replace", replace)
    hours = (START + timedelta(hours=23), START + timedelta(hours=25))
    panels = {"panel_report": [], "panel_alarm": []}
    made = Staged(*hours, tmp_path / "staged", panels, dict.fromkeys(panels, 0))
    two_days = [(START_MS, START_MS + 2 * DAY_MS)]
    if fails:
        with pytest.raises(druid.DruidError):
            reports.load(settings, made)
    else:
        reports.load(settings, made)
        assert found[1] == ("panel_alarm", two_days)
    assert found[0] == ("panel_report", two_days)
    assert pending.noted(settings, "panel_day") == two_days


def test_what_nothing_is_summed_up_of_is_not_noted(settings, tmp_path, monkeypatch, summed):
    monkeypatch.setattr(druid, "replace", lambda *_, **__: None)
    reports.load(settings, Staged(START, START + DAY, tmp_path / "staged", {"sensor_report": []}, {"sensor_report": 0}))
    assert pending.noted(settings, "panel_day") == []
    note(settings, START_MS, START_MS + DAY_MS)
    assert day_sums.make(settings, "light") == 0
    assert summed == []
    assert day_sums.make(settings, "panel") == 10
    assert summed == [(START, START + DAY)]
    assert day_sums.make(settings, "panel") == 0


@given(hours=st.sets(st.integers(0, 24 * 100), max_size=20))
def test_each_day_is_summed_up_once_and_no_other(tmp_path_factory, hours):
    settings = Settings(_env_file=None, build_dir=tmp_path_factory.mktemp("build"))
    summed: Days = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(druid, "roll_up", lambda _s, _d, *days: summed.append(days) or druid.Replacement("t1", 1, 1.0))
        for hour in hours:
            note(settings, START_MS + hour * HOUR_MS, START_MS + (hour + 1) * HOUR_MS)
        assert day_sums.make(settings, "panel") == len(summed)
    days = [start + n * DAY for start, end in summed for n in range((end - start) // DAY)]
    assert sorted(days) == sorted({START + (hour // 24) * DAY for hour in hours})
    assert all(end - start <= timedelta(days=31) for start, end in summed)
    assert pending.noted(settings, "panel_day") == []


def test_what_fails_stays_noted_and_is_done_by_the_next(settings, monkeypatch, summed):
    note(settings, START_MS, START_MS + 70 * DAY_MS)
    works = druid.roll_up

    def second_fails(*asked: object) -> druid.Replacement:
        if summed:
            raise druid.DruidError("away")
        return works(*asked)

    with monkeypatch.context() as patch:
        patch.setattr(druid, "roll_up", second_fails)
        with pytest.raises(druid.DruidError):
            day_sums.make(settings, "panel")
    [(first, edge)] = summed
    assert (first, pending.noted(settings, "panel_day")) == (
        START,
        [(round(edge.timestamp() * 1000), START_MS + 70 * DAY_MS)],
    )
    day_sums.make(settings, "panel")
    assert [summed[0][0], *(end for _, end in summed)] == [*(start for start, _ in summed), START + 70 * DAY]
    assert pending.noted(settings, "panel_day") == []


def test_it_stops_between_two_months(settings, summed):
    note(settings, START_MS, START_MS + 70 * DAY_MS)
    stop = threading.Event()
    day_sums.make(settings, "panel", stop, lambda _text: stop.set())
    assert len(summed) == 1
    day_sums.make(settings, "panel", stop)
    assert len(summed) == 1
    assert pending.noted(settings, "panel_day") != []
