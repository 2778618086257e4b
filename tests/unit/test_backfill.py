"""A range in parts: done once each, in order of time, though the run is killed; then what depends on what changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow as pa
import pytest
from dateutil.relativedelta import relativedelta
from typer.testing import CliRunner

from flink_jobs import backfill, pending, reports, runner
from flink_jobs.reports import Staged
from flink_jobs.runner import Subject
from flink_jobs.slots import HOUR, PANEL, hours_between, milliseconds
from selfgen import lake
from selfgen.cli import app
from selfgen.clients import mongo
from selfgen.settings import Settings

START = datetime(2025, 1, 1, tzinfo=UTC)
END = datetime(2026, 1, 1, tzinfo=UTC)


class Killed(BaseException):
    pass


class Job:
    """Notes what it was run for; the process ends when it is run for `kill_at`."""

    def __init__(self, name: str) -> None:
        self.NAME = name
        self.did: list[tuple[datetime, datetime]] = []
        self.kill_at: datetime | None = None

    def run(self, settings: Settings, ranges: list[tuple[datetime, datetime]]) -> None:
        """Have each hour changed."""
        [part] = ranges
        self._do(part)
        pending.add(settings, "panel", [milliseconds(hour) for hour in hours_between(*part)])

    def stage(self, _settings: Settings, *part: datetime) -> Staged:
        self._do(part)
        return Staged(*part, Path("none"), {}, {"panel_report": 10})

    def _do(self, part: Any) -> None:
        if part[0] == self.kill_at:
            self.kill_at = None
            raise Killed
        self.did.append(part)


@pytest.fixture
def jobs() -> Subject:
    return Subject(Job("rich_panel"), Job("write_panel"), PANEL, compares=True)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(build_dir=tmp_path)


EVERY = [runner.moments(part) for part in runner.parts([(milliseconds(START), milliseconds(END))])]
LOADED = [runner.moments(part) for part in runner.to_load([(milliseconds(START), milliseconds(END))])]


def test_parts_cover_the_range_in_order() -> None:
    assert [EVERY[0][0], EVERY[-1][1]] == [START, END]
    assert all(one[1] == next_[0] for one, next_ in pairwise(EVERY))
    assert max(high - low for low, high in EVERY) <= timedelta(days=31)
    assert runner.parts([(0, 3_600_000)]) == [(0, 3_600_000)]


def test_a_long_range_is_cut_at_midnights() -> None:
    hour, day = 3_600_000, 86_400_000
    assert runner.parts([(-hour, 7 * day + hour)]) == [(-hour, 0), (0, 7 * day), (7 * day, 7 * day + hour)]
    assert runner.parts([(-hour, 7 * day - hour)]) == [(-hour, 7 * day - hour)]
    assert runner.parts([(0, 8 * day)]) == [(0, 8 * day)]


def test_druid_is_given_the_first_days_soon_and_then_months() -> None:
    day = 86_400_000
    assert runner.to_load([]) == []
    assert runner.to_load([(0, 7 * day)]) == [(0, 7 * day)]
    assert runner.to_load([(0, 8 * day)]) == [(0, 7 * day), (7 * day, 8 * day)]
    assert LOADED[2:] == EVERY[1:]
    assert LOADED[:2] == [(START, START + timedelta(days=7)), (START + timedelta(days=7), EVERY[0][1])]


def test_while_druid_takes_in_a_part_the_next_one_is_made(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    making, order = Event(), []

    def load(_settings: Settings, made: Staged) -> dict[str, int]:
        assert made.start != START or making.wait(10)
        order.append(made.start)
        return made.rows

    monkeypatch.setattr(reports, "load", load)
    with reports.Loading(settings) as loading:
        for start, end in EVERY[:3]:
            loading.put(Staged(start, end, Path("none"), {}, {}), lambda _rows: None)
            making.set()
    assert order == [start for start, _ in EVERY[:3]]


def test_nothing_is_loaded_after_an_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_settings: Settings, _made: Staged) -> dict[str, int]:
        raise RuntimeError("Druid is away")

    told: list[object] = []
    monkeypatch.setattr(reports, "load", fails)
    made = Staged(*EVERY[0], Path("none"), {}, {})
    with reports.Loading(settings) as loading:
        loading.put(made, told.append)
        with pytest.raises(RuntimeError, match="away"):
            loading.put(made, told.append)
    assert told == []


@pytest.mark.parametrize("killed", ["rich", "write"])
def test_after_a_kill_only_what_was_not_done_is_done(settings: Settings, jobs: Subject, killed: str) -> None:
    every = EVERY
    getattr(jobs, killed).kill_at = (EVERY if killed == "rich" else LOADED)[4][0]
    with pytest.raises(Killed):
        backfill.run(settings, "panel", jobs, START, END)
    assert jobs.rich.did == (every[:4] if killed == "rich" else every)
    assert jobs.write.did == ([] if killed == "rich" else LOADED[:4])
    assert pending.noted(settings, "panel")
    steps: list[int] = []
    done = backfill.run(settings, "panel", jobs, START, END, progress=lambda done, _steps, _text: steps.append(done))
    assert (jobs.rich.did, jobs.write.did) == (every, LOADED)
    resumed = 4 if killed == "rich" else len(every)
    assert done == {"rows": {"panel_report": 10 * len(LOADED)}, "parts": len(every), "resumed": resumed, "mended": 0}
    assert pending.noted(settings, "panel") == []
    assert steps == [*range(4 if killed == "rich" else len(every) + 4, len(every) + len(LOADED) + 1)]
    # this one begins at its beginning, once it was whole
    backfill.run(settings, "panel", jobs, START, END)
    assert jobs.write.did == [*LOADED, *LOADED]


def test_what_depends_on_the_range_is_replaced_too_as_far_as_it_was_computed(settings: Settings, jobs: Subject) -> None:
    december = datetime(2025, 12, 10, 5, tzinfo=UTC)
    later = END + timedelta(days=20)
    for hour in hours_between(december - timedelta(days=2), later):
        lake.replace_hour(settings.lake_dir, "panel", hour, pa.table({}))
    done = backfill.run(settings, "panel", jobs, december, december + HOUR)
    assert jobs.rich.did == [(december, december + HOUR)]
    replaced = {hour for part in jobs.write.did for hour in hours_between(*part)}
    assert min(replaced) == december
    assert done["mended"] == len(replaced) - 1
    for depends in (END - HOUR, december + timedelta(days=1), december + relativedelta(months=1)):
        assert depends in replaced
    assert max(replaced) < later
    # a run that changes nothing leaves everything else alone
    jobs.rich.run = lambda *_: None
    assert backfill.run(settings, "panel", jobs, december, december + HOUR)["mended"] == 0


def test_what_a_killed_run_has_changed_is_mended_by_another(settings: Settings, jobs: Subject) -> None:
    for hour in hours_between(START, START + timedelta(days=3)):
        lake.replace_hour(settings.lake_dir, "panel", hour, pa.table({}))
    jobs.write.kill_at = START
    with pytest.raises(Killed):
        backfill.run(settings, "panel", jobs, START, START + HOUR)
    jobs.rich.run = lambda *_: None
    other = START + timedelta(days=2)
    done = backfill.run(settings, "panel", jobs, other, other + HOUR)
    assert done["mended"] == 71
    assert jobs.write.did == [(START, START + timedelta(days=3))]


def test_a_part_that_changes_an_earlier_one_is_computed_before_that_is_replaced(
    settings: Settings, jobs: Subject
) -> None:
    """What a meter counted in an outage over the parts' border is told by the later part."""
    jobs.rich.run = lambda _settings, ranges: events.append(("rich", ranges[0]))
    stage = jobs.write.stage
    jobs.write.stage = lambda settings, *part: (events.append(("write", part)), stage(settings, *part))[1]
    events: list[tuple[str, Any]] = []
    backfill.run(settings, "panel", jobs, START, END)
    assert events == [*(("rich", part) for part in EVERY), *(("write", part) for part in LOADED)]


def test_what_was_replaced_before_a_kill_is_replaced_again_if_the_lake_changed_since(
    settings: Settings, jobs: Subject
) -> None:
    jobs.write.kill_at = LOADED[4][0]
    with pytest.raises(Killed):
        backfill.run(settings, "panel", jobs, START, END)
    pending.add(settings, "panel", [milliseconds(END + 40 * HOUR)])
    backfill.run(settings, "panel", jobs, START, END)
    assert jobs.write.did == [*LOADED[:4], *LOADED]


def test_the_past_of_who_had_a_silent_element_is_told_anew(
    settings: Settings, jobs: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slots come out as they were, but incidents after the range followed from whose the element was."""
    end = START + timedelta(days=4)
    moved = START + timedelta(days=1)
    for number in range(12):
        lake.replace_hour(settings.lake_dir, "panel_incidents", START + timedelta(days=number), pa.table({"x": [1]}))
    for hour in hours_between(START, START + timedelta(days=12)):
        lake.replace_hour(settings.lake_dir, "panel", hour, pa.table({"x": [1]}))
    marks = [mongo.DirtyHour("panel", milliseconds(moved), 1, ownership=True)]
    cleared: list[mongo.DirtyHour] = []
    monkeypatch.setattr(jobs.rich, "run", lambda *_: None)
    monkeypatch.setitem(runner.SUBJECTS, "panel", jobs)
    monkeypatch.setattr(backfill, "hand_over_marks", lambda _: None)
    monkeypatch.setattr(mongo, "dirty_hours", lambda *_: marks)
    monkeypatch.setattr(mongo, "clear_dirty", lambda _, done: cleared.extend(done))
    monkeypatch.setattr(mongo, "batch_progress", lambda *_: milliseconds(END))
    backfill.run_and_unmark(settings, "panel", START, end)
    assert cleared == marks
    assert max(lake.hours(settings.lake_dir, "panel_incidents")) == moved
    assert max(end for _, end in jobs.write.did) == START + timedelta(days=12)


def test_again_begins_anew(settings: Settings, jobs: Subject) -> None:
    jobs.write.kill_at = LOADED[4][0]
    with pytest.raises(Killed):
        backfill.run(settings, "panel", jobs, START, END)
    backfill.run(settings, "panel", jobs, START, END, again=True)
    assert jobs.write.did == [*LOADED[:4], *LOADED]


def test_hours_that_are_not_over_are_not_computed() -> None:
    told = CliRunner().invoke(app, ["panels", "run", "--from", "2026-01-01T00", "--to", "2999-01-01T00"])
    assert told.exit_code == 1
    assert "the hours to 2999-01-01T00 UTC are not over yet: give --to" in " ".join(told.output.split())
