"""A range of hours in parts: all are computed, then they and what depends on what changed are replaced in Druid.

While Druid takes in a part the next one is made. What is done is noted beside the lake, in `.runs/`, after each
part; a run that ends takes its note away. After a kill the same command goes on: a part that was killed half way is
done again, and gives the same rows.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from flink_jobs import pending
from flink_jobs.reports import Loading
from flink_jobs.runner import SUBJECTS, Subject, mark_panels, moments, note_moves, parts, settled, stale, to_load
from flink_jobs.slots import LIGHT, hand_over_marks, milliseconds
from selfgen import lake, recompute
from selfgen.settings import Settings

if TYPE_CHECKING:
    from selfgen.clients.mongo import DirtyHour


def run_and_unmark(
    settings: Settings,
    kind: str,
    start: datetime,
    end: datetime,
    *,
    again: bool = False,
    progress: Callable[[int, int, str], object] = lambda done, steps, text: None,
) -> dict[str, Any]:
    """As `run`; afterwards `batch watch` need not compute these hours again.

    They are no longer marked as changed, but for those that were marked meanwhile, and those at the range's edges,
    which touch slots outside of it. Where the runner had not come further than into the range, or never ran, it goes
    on from its end; hours before the range that nobody computed are marked.
    """
    from selfgen.clients import mongo

    with lake.exclusive(settings.lake_dir, kind):
        hand_over_marks(settings)
        marked, span = mongo.dirty_hours(settings, kind, milliseconds(end)), (milliseconds(start), milliseconds(end))
        marks = _within(settings, marked, [span])
        note_moves(settings, SUBJECTS[kind].source, marks)
        done = run(settings, kind, SUBJECTS[kind], start, end, again=again, progress=progress)
        # parts that an earlier run had computed were so before these marks were read
        mongo.clear_dirty(settings, _within(settings, marks, parts([span])[done["resumed"] :]))
        next_ms = mongo.batch_progress(settings, kind)
        end_ms = min(milliseconds(end), settled(settings, time.time_ns() // 1_000_000))
        if milliseconds(start) <= (milliseconds(start) if next_ms is None else next_ms) < end_ms:
            mongo.advance_batch(settings, kind, end_ms)
    return done


def _within(settings: Settings, marks: Iterable[DirtyHour], ranges: Iterable[recompute.Range]) -> list[DirtyHour]:
    """Return the marks of hours that touch no slot outside of ranges."""
    hours = {*recompute.hours(ranges)}
    return [mark for mark in marks if recompute.touched([mark.hour_ms], settings.max_gap_s) <= hours]


def run(
    settings: Settings,
    kind: str,
    subject: Subject,
    start: datetime,
    end: datetime,
    *,
    again: bool = False,
    progress: Callable[[int, int, str], object] = lambda done, steps, text: None,
) -> dict[str, Any]:
    """Compute the hours `[start, end)` and replace them in Druid; go on where a run of the same range was killed.

    Hours after the range whose reports depend on slots that came out otherwise than they were in the lake (differences,
    running sums, alarms) are replaced too, as far as they are in the lake.

    Parameters
    ----------
    again : bool
        Begin anew, though an earlier run had done a part of it.
    progress : callable
        Told how many steps are done, of how many, and which is next: each part is computed, and then replaced.

    Returns
    -------
    dict
        `rows` of each data source, `parts`, `resumed`: how many of them an earlier run had computed; and `mended`: how
        many hours outside of the range were replaced.
    """
    note = settings.lake_dir / ".runs" / f"{kind}-{start:%Y%m%dT%H}-{end:%Y%m%dT%H}.json"
    span = (milliseconds(start), milliseconds(end))
    with lake.exclusive(settings.lake_dir, kind), Loading(settings) as loading:
        done: dict[str, Any] = {"computed": 0}
        if note.exists() and not again:
            done = json.loads(note.read_text())
        resumed, todo = done["computed"], parts([span])
        for number, part in enumerate(todo[resumed:], resumed):
            progress(number, len(todo) + len(to_load([span])), f"{subject.rich.NAME}: {_told(part)}")
            subject.rich.run(settings, [moments(part)])
            pending.write_note(note, {"computed": number + 1})

        # only now: what meters counted in an outage is told by the part in which they are heard again
        changed = [list(part) for part in pending.noted(settings, kind)]
        depend = recompute.hours(stale(settings, kind))
        write = to_load(recompute.ranges({*recompute.hours([span]), *depend}))
        if (done.get("changed"), done.get("parts")) != (changed, len(write)):
            done = {"written": 0, "rows": {}}
        written, rows = done["written"], Counter(done["rows"])
        state = {"computed": len(todo), "changed": changed, "parts": len(write)}

        def loaded(number: int, of_part: dict[str, int]) -> None:
            rows.update(of_part)
            pending.write_note(note, {**state, "written": number + 1, "rows": rows})

        steps = len(todo) + len(write)
        for number, part in enumerate(write[written:], written):
            progress(len(todo) + number, steps, f"{subject.write.NAME}: {_told(part)}, into Druid")
            loading.put(subject.write.stage(settings, *moments(part)), partial(loaded, number))
        loading.wait()
        progress(steps, steps, "done")
        if kind == LIGHT.kind:
            mark_panels(settings, pending.noted(settings, kind))
        pending.clear(settings, kind)
        note.unlink(missing_ok=True)
    mended = sum(not span[0] <= hour < span[1] for hour in depend)
    return {"rows": dict(rows), "parts": len(todo), "resumed": resumed, "mended": mended}


def _told(part: recompute.Range) -> str:
    low, high = moments(part)
    return f"{low:%Y-%m-%dT%H} to {high:%Y-%m-%dT%H} UTC"
