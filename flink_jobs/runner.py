"""The runner of the hourly jobs: hours that have ended, and hours that changed, with all that depends on them.

A pass is one answer to "what is to be done now". It reads the marks first; computes the slots that they touch;
replaces in Druid these hours, and every one that depends on those that came out otherwise than before; and only then
takes the marks away, but for those that were renewed meanwhile, and moves the progress. A pass that was killed has
taken nothing away, and what it had changed is noted (`flink_jobs.pending`), so the next one does what is left, and
gives the same rows.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import Timeout

from flink_jobs import pending, reports, rich_panel, rich_sensor_light, slots, write_panel, write_sensor_light
from selfgen import lake, recompute
from selfgen.calendar import DAY_MS, HOUR_MS

if TYPE_CHECKING:
    from threading import Event

    from selfgen.clients.mongo import DirtyHour
    from selfgen.settings import Settings

#: Most hours that a pass catches up with.
CATCH_UP_HOURS = 31 * 24
#: What is staged at once: a month, so that the start of a job is little beside its work.
PART_MS = 31 * DAY_MS
#: Of which the first is shorter, so that Druid soon has something to do.
FIRST_MS = 7 * DAY_MS
#: From this on a range's whole days are parts of their own, which Druid keeps by day (`clients.druid.replace`).
WHOLE_DAYS_MS = 7 * DAY_MS


@dataclass(frozen=True)
class Subject:
    """A kind of element whose hours are computed."""

    rich: Any
    write: Any
    source: slots.Source
    compares: bool


SUBJECTS = {
    # panels' expected energy is read from the light sensors' slots
    "light": Subject(rich_sensor_light, write_sensor_light, slots.LIGHT, compares=False),
    "panel": Subject(rich_panel, write_panel, slots.PANEL, compares=True),
}


class Plan(NamedTuple):
    """What a pass does; hours by their starts, ranges half open, epoch ms."""

    marks: list[DirtyHour]
    due: range
    compute: list[recompute.Range]
    left: set[int]

    @property
    def end_ms(self) -> int:
        """Where the hours end that are computed after it."""
        return self.due.stop


class Stopped(Exception):
    """The runner was asked to stop in the middle of a pass; the next pass does it again."""


def plan(settings: Settings, kind: str, now_ms: int) -> Plan | None:
    """Return what is to be done now; None where there is nothing.

    Hours that ended `batch_settle_s` ago are due, also those without readings: silence raises alarms. The first ones
    are those that landing marked, as far back as raw readings are kept.
    """
    from selfgen.clients import mongo

    ended_ms = settled(settings, now_ms)
    marks = mongo.dirty_hours(settings, kind, ended_ms)
    next_ms = mongo.batch_progress(settings, kind)
    if next_ms is None:
        kept_ms = ended_ms - int(settings.raw_retention_days * 24) * HOUR_MS
        next_ms = max(marks[0].hour_ms, kept_ms) if marks else ended_ms - HOUR_MS
    end_ms = max(min(ended_ms, next_ms + CATCH_UP_HOURS * HOUR_MS), next_ms)
    marks = [mark for mark in marks if mark.hour_ms < end_ms]
    due = range(next_ms, end_ms, HOUR_MS)
    if not due and not marks and not pending.noted(settings, kind):
        return None
    touched = recompute.touched({*due, *(mark.hour_ms for mark in marks)}, settings.max_gap_s)
    touched = {hour for hour in touched if hour < end_ms}
    left = slots.without_readings(settings, kind, touched)
    return Plan(marks, due, recompute.ranges(touched - left), left)


def settled(settings: Settings, now_ms: int) -> int:
    """Return the end of the hours that ended `batch_settle_s` ago, epoch ms."""
    return (now_ms - round(settings.batch_settle_s * 1000)) // HOUR_MS * HOUR_MS


def run_pass(
    settings: Settings, kind: str, stop: Event, say: Callable[[str], object], now_ms: int | None = None
) -> dict[str, Any] | None:
    """Do what is to be done now for a kind of element, and return what was done; None where there was nothing.

    Raises
    ------
    Stopped
        `stop` was set meanwhile.
    """
    from selfgen.clients import mongo

    subject = SUBJECTS[kind]
    began = time.monotonic()
    jobs, datasources = (subject.rich.NAME, subject.write.NAME), subject.write.DATASOURCE_NAMES
    with alone(settings, kind, stop, say, jobs, datasources):
        slots.hand_over_marks(settings)
        todo = plan(settings, kind, time.time_ns() // 1_000_000 if now_ms is None else now_ms)
        if todo is None:
            return None
        if todo.left:
            say(f"{kind}: {len(todo.left)} hours stay as they are, because their raw readings are no longer kept")
        rows = Counter(dict.fromkeys(subject.write.DATASOURCE_NAMES, 0))
        note_moves(settings, subject.source, todo.marks)
        if todo.compute:
            say(f"{kind}: computes {_told(todo.compute)}")
            subject.rich.run(settings, [moments(part) for part in todo.compute])
        changed = pending.noted(settings, kind)
        # also where the slots stayed as they were: whose silence is told follows from the registry
        write = stale(settings, kind, recompute.hours(todo.compute))
        with reports.Loading(settings) as loading:
            for part in to_load(write):
                _check(stop)
                say(f"{kind}: replaces {_told([part])} in Druid")
                loading.put(subject.write.stage(settings, *moments(part)), rows.update)
        if kind == slots.LIGHT.kind:
            mark_panels(settings, changed)
        pending.clear(settings, kind)
        # Druid serves the new rows by now
        mongo.clear_dirty(settings, todo.marks)
        mongo.advance_batch(settings, kind, todo.end_ms)
    return {
        "kind": kind,
        "due": len(todo.due),
        "changed": sum(mark.hour_ms not in todo.due for mark in todo.marks),
        "computed": [moments(part) for part in todo.compute],
        "replaced": [moments(part) for part in write],
        "left": len(todo.left),
        "rows": dict(rows),
        "computed_to": datetime.fromtimestamp(todo.end_ms / 1000, UTC),
        "seconds": round(time.monotonic() - began, 1),
    }


def note_moves(settings: Settings, source: slots.Source, marks: Iterable[DirtyHour]) -> None:
    """Note the hours in which somebody else has an element now.

    Who is silent then may be told otherwise, and since, though the slots may come out as they were.
    """
    if moved := [moments((mark.hour_ms, mark.hour_ms))[0] for mark in marks if mark.ownership]:
        slots.note_changes(settings, source, moved)


def stale(settings: Settings, kind: str, besides: Iterable[int] = ()) -> list[recompute.Range]:
    """Return the hours that Druid has still to be given: those that depend on what changed in the lake, and these."""
    depend = pending.dependents(settings, kind, compares=SUBJECTS[kind].compares)
    return recompute.ranges({*recompute.hours(depend), *besides})


def parts(ranges: Iterable[recompute.Range]) -> list[recompute.Range]:
    """Return ranges in parts of a month at most, so that Druid takes in one while the next is made.

    A long range is cut at its first and last midnight (UTC) too.
    """
    return [
        (start, min(start + PART_MS, high))
        for whole in ranges
        for low, high in _at_midnights(whole)
        for start in range(low, high, PART_MS)
    ]


def to_load(ranges: Iterable[recompute.Range]) -> list[recompute.Range]:
    """Return ranges in parts as they are loaded: of the first one Druid is given the first days by themselves."""
    found = parts(ranges)
    if found and found[0][1] - found[0][0] > FIRST_MS:
        (low, high), *later = found
        found = [(low, low + FIRST_MS), (low + FIRST_MS, high), *later]
    return found


def _at_midnights(whole: recompute.Range) -> list[recompute.Range]:
    low, high = whole
    first, last = -(-low // DAY_MS) * DAY_MS, high // DAY_MS * DAY_MS
    if last - first < WHOLE_DAYS_MS:
        return [whole]
    return [(start, end) for start, end in ((low, first), (first, last), (last, high)) if start < end]


def mark_panels(settings: Settings, changed: list[recompute.Range]) -> None:
    """Have panels' hours computed again whose light has changed, also those that another run computes just now."""
    from selfgen.clients import mongo

    mongo.mark_dirty(mongo.database(settings), slots.PANEL.kind, recompute.hours(changed), "light")


@contextmanager
def alone(
    settings: Settings,
    kind: str,
    stop: Event,
    say: Callable[[str], object],
    jobs: Sequence[str],
    datasources: Sequence[str],
) -> Iterator[None]:
    """Wait until no other run is at work on a kind of element, and remove what killed runs of these jobs left.

    A task that Druid still has of them takes files that are gone for such without rows, and would empty its hours: it
    is ended first.

    Raises
    ------
    Stopped
        `stop` was set meanwhile.
    """
    from selfgen.clients import druid

    lock = lake.exclusive(settings.lake_dir, kind)
    told = False
    while True:
        _check(stop)
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            if not told:
                say(f"{kind}: another run is at work on the same lake; waiting for it")
            told = True
    try:
        left = [staging for name in jobs for staging in (settings.lake_dir / ".staging").glob(f"{name}-*")]
        if left:
            druid.abandon(settings, datasources)
        for staging in left:
            shutil.rmtree(staging, ignore_errors=True)
        yield
    finally:
        lock.release()


def _check(stop: Event) -> None:
    if stop.is_set():
        raise Stopped


def moments(part: recompute.Range) -> tuple[datetime, datetime]:
    """Return the edges of a range in epoch ms as moments."""
    start, end = (datetime.fromtimestamp(edge / 1000, UTC) for edge in part)
    return start, end


def _told(parts: list[recompute.Range]) -> str:
    first, last = moments((parts[0][0], parts[-1][1]))
    return f"{len(recompute.hours(parts))} hours from {first:%Y-%m-%dT%H} to {last:%Y-%m-%dT%H} UTC"
