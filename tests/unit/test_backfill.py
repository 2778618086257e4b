"""A range in parts: done once each, in order of time, though the run is killed in between."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flink_jobs import backfill
from flink_jobs.runner import Subject
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

    def run(self, _settings: Settings, *what: Any) -> dict[str, int]:
        [part] = what[0] if isinstance(what[0], list) else [what]
        if part[0] == self.kill_at:
            self.kill_at = None
            raise Killed
        self.did.append(part)
        return {"panel_report": 10}


@pytest.fixture
def jobs() -> Subject:
    return Subject(Job("rich_panel"), Job("write_panel"), compares=True)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(build_dir=tmp_path)


def test_parts_cover_the_range_in_order() -> None:
    found = backfill.parts(START, END)
    assert [found[0][0], found[-1][1]] == [START, END]
    assert all(one[1] == next_[0] for one, next_ in pairwise(found))
    assert max(high - low for low, high in found) <= backfill.PART
    assert backfill.parts(START, START + timedelta(hours=1)) == [(START, START + timedelta(hours=1))]


@pytest.mark.parametrize("killed", ["rich", "write"])
def test_after_a_kill_only_what_was_not_done_is_done(settings: Settings, jobs: Subject, killed: str) -> None:
    every = backfill.parts(START, END)
    getattr(jobs, killed).kill_at = every[4][0]
    with pytest.raises(Killed):
        backfill.run(settings, "panel", jobs, START, END)
    assert jobs.write.did == every[:4]
    steps: list[int] = []
    done = backfill.run(settings, "panel", jobs, START, END, progress=lambda done, _steps, _text: steps.append(done))
    assert jobs.write.did == every
    assert done == {"rows": {"panel_report": 10 * len(every)}, "parts": len(every), "resumed": 4}
    assert steps == [*range(8, 2 * len(every) + 1)]
    # another range begins at its beginning; so does this one, once it was whole
    backfill.run(settings, "panel", jobs, START, every[0][1])
    backfill.run(settings, "panel", jobs, START, END)
    assert jobs.write.did == [*every, every[0], *every]


def test_again_begins_anew(settings: Settings, jobs: Subject) -> None:
    every = backfill.parts(START, END)
    jobs.write.kill_at = every[4][0]
    with pytest.raises(Killed):
        backfill.run(settings, "panel", jobs, START, END)
    backfill.run(settings, "panel", jobs, START, END, again=True)
    assert jobs.write.did == [*every[:4], *every]
