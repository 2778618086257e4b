"""One reading that comes half a year late, of a thousand panels: how long until all that depends on it is mended.

The lake and Druid hold the hours of half a year. A reading of one minute of the first day arrives; `batch watch`'s pass
computes the hours that it touches, and replaces in Druid all that depend on them: the sums of the rest of the year,
what is compared with them, the alarms. The rows of all other panels must be what they were, and so must the panel's own
before.
"""

from __future__ import annotations

import sys
import threading
import time
from datetime import timedelta

import numpy as np
import pandas as pd

from benchmarks import panels_backfill, panels_hour
from benchmarks.form import Figure
from benchmarks.panels_backfill import PANELS, START, panel_id
from benchmarks.servers import own_stack, register
from flink_jobs import pending, rich_panel, runner
from flink_jobs.slots import HOUR, PANEL, milliseconds
from selfgen import running_sums
from selfgen.clients import druid, mongo
from selfgen.energy import accumulators
from selfgen.settings import Settings

DAYS = 182
LATE = START + 12 * HOUR + timedelta(minutes=17)
#: Whose reading comes late.
WHOSE = panel_id(123)


def run(settings: Settings) -> list[Figure]:
    """Measure half a year."""
    with own_stack(settings, "panels_late", *panels_backfill.SERVERS) as own:
        return measure(own, DAYS)


def measure(settings: Settings, days: int) -> list[Figure]:
    """Measure a reading that comes so many days late."""
    end = START + timedelta(days=days)
    ids = [panel_id(number) for number in range(PANELS)]
    panels_backfill.fill(settings.lake_dir, START, end)
    register(settings, PANEL.kind, ids)
    mongo.ensure_collections(settings)
    around = LATE.replace(minute=0)
    panels_hour.insert(settings, ids, around - 4 * HOUR, 8 * 60)
    database = mongo.database(settings)
    identity = mongo.reading_id(PANEL.kind, milliseconds(LATE), WHOSE)
    late = database["topic"].find_one_and_delete({"_id": identity})
    assert late  # noqa: S101 - it was inserted
    rich_panel.run(settings, [(around - 2 * HOUR, around + 2 * HOUR)])
    panels_backfill.timed_backfill(settings, START, end)
    pending.clear(settings, PANEL.kind)
    database["dirty_hours"].delete_many({})
    mongo.advance_batch(settings, PANEL.kind, milliseconds(end))
    before = expected(settings, days)

    database["topic"].insert_one(late)
    mongo.mark_dirty(database, PANEL.kind, [milliseconds(around)], "landed")
    began = time.monotonic()
    now_ms = milliseconds(end) + round(settings.batch_settle_s * 1000)
    done = runner.run_pass(settings, PANEL.kind, threading.Event(), lambda text: print(text, file=sys.stderr), now_ms)
    seconds = time.monotonic() - began
    assert done  # noqa: S101 - an hour was marked

    found = pd.DataFrame(
        druid.query(
            settings,
            "SELECT panel_id, COUNT(*) AS n, SUM(power_gen) AS energy, SUM(acum_year) AS sums, SUM(acum_day) AS days "
            "FROM panel_report GROUP BY panel_id",
        )
    ).set_index("panel_id")
    after = expected(settings, days)
    replaced = sum((high - low) // HOUR for low, high in done["replaced"])
    others = [one for one in ids if one != WHOSE]
    same = np.isclose(found.loc[others], before.loc[others], rtol=1e-9).all(axis=1)
    return [
        Figure("panels", PANELS, "panels"),
        Figure("days late", days, "days"),
        Figure("hours replaced in Druid", replaced, "hours"),
        Figure("rows replaced in Druid", done["rows"]["panel_report"], "rows"),
        Figure("from arrival to the last row", round(seconds, 1), "s", bar=("<=", 180)),
        Figure("other panels whose rows changed", int((~same).sum()), "panels", bar=("==", 0)),
        Figure("its own rows as they must be", int(np.isclose(found.loc[WHOSE], after.loc[WHOSE], rtol=1e-9).all()), "",
               bar=("==", 1)),
        Figure("its energy changed by", abs(round(after.loc[WHOSE, "energy"] - before.loc[WHOSE, "energy"], 3)), "Wh",
               bar=(">=", 0.001)),
    ]  # fmt: skip


def expected(settings: Settings, days: int) -> pd.DataFrame:
    """Return what the lake's slots give of each panel: rows, energy, the sum of its sums of the year and the day."""
    slots = running_sums.slots(settings.lake_dir, PANEL.kind, START, START + timedelta(days=days))
    sums = accumulators(slots)[["acum_year", "acum_day"]]
    of_panel = slots[["element_id", "power_gen"]].join(sums).groupby("element_id")
    found = of_panel.agg(
        n=("power_gen", "size"), energy=("power_gen", "sum"), sums=("acum_year", "sum"), days=("acum_day", "sum")
    )
    return found.rename_axis("panel_id")
