"""A range of hours in parts, each computed and then replaced in Druid; after them what depends on what changed.

While Druid takes in a part the next one is computed. What is done is noted beside the lake, in `.runs/`, after each
part; a run that ends takes its note away. After a kill the same command goes on: a part that was killed half way is
done again, and gives the same rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from flink_jobs import pending
from flink_jobs.reports import Loading
from flink_jobs.runner import Subject, mark_panels, moments, parts, stale
from flink_jobs.slots import LIGHT, milliseconds
from selfgen import lake, recompute
from selfgen.settings import Settings


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
        Told how many steps are done, of how many, and which is next; each part has two, one that is only replaced one.

    Returns
    -------
    dict
        `rows` of each data source, `parts`, `resumed`: how many of them an earlier run had done; and `mended`: how many
        hours outside of the range were replaced.
    """
    note = settings.lake_dir / ".runs" / f"{kind}-{start:%Y%m%dT%H}-{end:%Y%m%dT%H}.json"
    span = (milliseconds(start), milliseconds(end))
    with lake.exclusive(settings.lake_dir, kind), Loading(settings) as loading:
        done: dict[str, Any] = {"parts": 0, "rows": {}}
        if note.exists() and not again:
            done = json.loads(note.read_text())
        resumed, rows, todo = done["parts"], Counter(done["rows"]), parts([span])

        def loaded(number: int, of_part: dict[str, int]) -> None:
            rows.update(of_part)
            pending.write_note(note, {"parts": number + 1, "rows": rows})

        for number, part in enumerate(todo):
            if number < resumed:
                continue
            low, high = moments(part)
            told = f"{low:%Y-%m-%dT%H} to {high:%Y-%m-%dT%H} UTC"
            progress(2 * number, 2 * len(todo), f"{subject.rich.NAME}: {told}")
            subject.rich.run(settings, [(low, high)])
            progress(2 * number + 1, 2 * len(todo), f"{subject.write.NAME}: {told}, into Druid")
            loading.put(subject.write.stage(settings, low, high), partial(loaded, number))
        outside = {hour for hour in recompute.hours(stale(settings, kind)) if not span[0] <= hour < span[1]}
        mend = parts(recompute.ranges(outside))
        for number, part in enumerate(mend):
            low, high = moments(part)
            told = f"{low:%Y-%m-%dT%H} to {high:%Y-%m-%dT%H} UTC"
            steps = 2 * len(todo) + len(mend)
            progress(2 * len(todo) + number, steps, f"{subject.write.NAME}: {told}, which depends on it, into Druid")
            loading.put(subject.write.stage(settings, low, high), rows.update)
        loading.wait()
        progress(2 * len(todo) + len(mend), 2 * len(todo) + len(mend), "done")
        if kind == LIGHT.kind:
            mark_panels(settings, pending.noted(settings, kind))
        pending.clear(settings, kind)
        note.unlink(missing_ok=True)
    return {"rows": dict(rows), "parts": len(todo), "resumed": resumed, "mended": len(outside)}
