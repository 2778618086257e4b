"""A range of hours in parts, each computed and then replaced in Druid: after a kill the same command goes on.

What is done is noted beside the lake, in `.runs/`, after each part; a run that ends takes its note away. A part that
was killed half way is done again, and gives the same rows.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from flink_jobs.runner import Subject
from flink_jobs.slots import Range
from selfgen import lake
from selfgen.settings import Settings

#: Hours of a part: a month, so that the start of its two jobs is little beside their work.
PART = timedelta(days=31)


def parts(start: datetime, end: datetime) -> list[Range]:
    """Return a range of hours in parts, in order of time: a part refers only to itself and to those before it."""
    edges = [*_steps(start, end), end]
    return list(pairwise(edges))


def _steps(start: datetime, end: datetime) -> Iterator[datetime]:
    while start < end:
        yield start
        start += PART


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

    Parameters
    ----------
    again : bool
        Begin anew, though an earlier run had done a part of it.
    progress : callable
        Told how many steps are done, of how many, and which is next; each part has two.

    Returns
    -------
    dict
        `rows` of each data source, `parts`, and `resumed`: how many of them an earlier run had done.
    """
    note = settings.lake_dir / ".runs" / f"{kind}-{start:%Y%m%dT%H}-{end:%Y%m%dT%H}.json"
    with lake.exclusive(settings.lake_dir, kind):
        done: dict[str, Any] = {"parts": 0, "rows": {}}
        if note.exists() and not again:
            done = json.loads(note.read_text())
        resumed, rows, todo = done["parts"], Counter(done["rows"]), parts(start, end)
        for number, (low, high) in enumerate(todo):
            if number < resumed:
                continue
            told = f"{low:%Y-%m-%dT%H} to {high:%Y-%m-%dT%H} UTC"
            progress(2 * number, 2 * len(todo), f"{subject.rich.NAME}: {told}")
            subject.rich.run(settings, [(low, high)])
            progress(2 * number + 1, 2 * len(todo), f"{subject.write.NAME}: {told}, into Druid")
            rows.update(subject.write.run(settings, low, high))
            _write(note, {"parts": number + 1, "rows": rows})
        progress(2 * len(todo), 2 * len(todo), "done")
        note.unlink(missing_ok=True)
    return {"rows": dict(rows), "parts": len(todo), "resumed": resumed}


def _write(note: Path, done: dict[str, Any]) -> None:
    note.parent.mkdir(exist_ok=True)
    unfinished = note.with_suffix(".unfinished")
    with unfinished.open("w") as file:
        json.dump(done, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(note)
