"""WriteSensorLight: the lake's slots of light sensors → reports, alarms, surfaces → Druid, replacing those hours.

lake ─► slots, and the sums of what was measured before their UTC day ─► best orientation ─► producible energy
    ─► sensor_report
    ─► once a local day, a year's energy on planes of all kinds ─► light_surface
    ─► incidents, from those open at the day's beginning ─► sensor_alarm
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from flink_jobs import incidents, slots
from flink_jobs.incidents import LIGHTS
from flink_jobs.reports import Staged, Work, arguments, load
from flink_jobs.reports import stage as stage_files
from flink_jobs.slots import LIGHT, milliseconds
from selfgen import lake
from selfgen.calendar import DAY_MS
from selfgen.columns import DATASOURCES, names
from selfgen.settings import Settings

if TYPE_CHECKING:
    from selfgen.light_history import History

NAME = "write_sensor_light"
DATASOURCE_NAMES = REPORT, ALARM, SURFACE = "sensor_report", "sensor_alarm", "light_surface"

#: The lake's columns under the reports' names.
NAMES = {"element_id": "light_id", "generated": "irradiation", "slot_start": "timestamp"}
BEST = ("optimal_tilt", "optimal_azimuth", "gain_vs_horizontal", "confidence")
#: Sensors whose best orientation is found at once: so many fit in the processor's cache and little memory.
AT_ONCE = 500
PLACE = ["element_id", "latitude", "longitude"]
#: Best orientations of a UTC day, kept in the lake: `LAKE/light_orientations/date=YYYY-MM-DD/hour=00/data.parquet`.
ORIENTATIONS = "light_orientations"
KEPT = pa.schema(
    [
        ("element_id", pa.string()),
        ("latitude", pa.float64()),
        ("longitude", pa.float64()),
        ("variable_data", pa.string()),
        *((name, pa.float64()) for name in BEST),
    ]
)
#: What is read of a slot for the surface of its day; a sensor that moves has one for each owner and place.
OF_DAY = [
    *PLACE,
    "slot_start",
    "variable_data",
    *(column.name for column in DATASOURCES[SURFACE] if column in slots.SLOT),
]
LONGEST_DAY = timedelta(hours=25)

#: Hours of reports that a worker makes in one go.
SPLIT_HOURS = 7 * 24


def reports(
    folder: Path,
    start: datetime,
    end: datetime,
    where: pc.Expression | None = None,
    staging: Path | None = None,
) -> pd.DataFrame:
    """Return the rows of sensor_report, with `timestamp`, of slots that start in the UTC hours `[start, end)`.

    Its best orientation is that of everything measured before the slot's UTC day. What is found of a day is left in
    `staging`, where that is given, for the holder of the lake's lock to keep for the day's other hours.
    """
    from selfgen.light_history import History

    history, parts, low = History(folder), [], start
    while low < end:
        high = min(low.replace(hour=0) + timedelta(days=1), end)
        table = lake.read(folder, LIGHT.kind, low, high, where=where)
        if table.num_rows:
            parts.append(_of_day(table.to_pandas(), history, low.replace(hour=0), staging))
        low = high
    return pd.concat(parts) if parts else pd.DataFrame(columns=["timestamp", *names("sensor_report")])


def _of_day(table: pd.DataFrame, history: History, day: datetime, staging: Path | None) -> pd.DataFrame:
    from selfgen import horizon
    from selfgen.solar import producible

    sensors = table[[*PLACE, "variable_data"]].drop_duplicates(PLACE, keep="last").dropna(subset=PLACE)
    found = _best_of_day(sensors, history, day, staging).drop(columns="variable_data")
    table = table.merge(found, on=PLACE, how="left", validate="many_to_one")
    energy = producible(
        table["slot_start"],
        table["slot_end"],
        table["generated"],
        *(table[name] for name in ("latitude", "longitude", "optimal_tilt", "optimal_azimuth", "power_cap")),
        completeness=table["completeness"],
        horizons=horizon.profiles(table["variable_data"]),
    )
    placed = table["optimal_tilt"].notna() & table["power_cap"].notna()
    return table.assign(producible_gen=np.where(placed, energy, np.nan)).rename(columns=NAMES)


def _best_of_day(sensors: pd.DataFrame, history: History, day: datetime, staging: Path | None) -> pd.DataFrame:
    """Return `with_best`'s; sensors whose best orientation is kept for the day are not asked for it."""
    key = [*PLACE, "variable_data"]
    table = lake.read(history.folder, ORIENTATIONS, day, day + lake.HOUR)
    if not table.num_columns:
        found = with_best(sensors, history, day)
    else:
        kept = table.to_pandas()
        known = sensors.merge(kept, on=key, how="left", indicator=True)
        new = known.loc[known["_merge"] == "left_only", key]
        if new.empty:
            return known.drop(columns="_merge")
        found = pd.concat([kept, with_best(new, history, day)], ignore_index=True)
    if staging is not None:
        lake.stage_hour(staging, day, pa.Table.from_pandas(found, KEPT, preserve_index=False))
    return sensors.merge(found, on=key, how="left")


def with_best(sensors: pd.DataFrame, history: History, day: datetime) -> pd.DataFrame:
    """Add sensors' best orientation (`BEST`) from what they measured at their place before a UTC day.

    Parameters
    ----------
    sensors : DataFrame
        `PLACE`, each once, and `variable_data`, JSON text, in which their horizon stands.
    """
    from selfgen import horizon
    from selfgen.orientation import best

    parts = []
    for first in range(0, len(sensors), AT_ONCE):
        some = sensors[first : first + AT_ONCE]
        place = some["latitude"].to_numpy(), some["longitude"].to_numpy(), horizon.profiles(some["variable_data"])
        found = best(history.before(day, some), *place)
        parts.append(some.assign(**dict(zip(BEST, found, strict=True))))
    return pd.concat(parts) if parts else sensors.assign(**dict.fromkeys(BEST, np.nan))


def surfaces(folder: Path, start: datetime, end: datetime) -> Iterator[pd.DataFrame]:
    """Yield the rows of light_surface, with `timestamp`, of local days whose first slot starts in `[start, end)`.

    A year's energy on each plane is that of everything measured before the slot's UTC day, as in sensor_report. The day
    of a sensor that changes owner or place has a first slot at each.
    """
    from selfgen.light_history import History

    # a slot is its day's first if the lake has none before it in that day
    table = lake.read(folder, LIGHT.kind, start - LONGEST_DAY, end, OF_DAY)
    if not table.num_rows:
        return
    slots_of = table.to_pandas().dropna(subset=PLACE).sort_values("slot_start", kind="stable")
    first = slots_of.drop_duplicates([*PLACE, "client_id", "local_date"])
    first = first[first["slot_start"] >= milliseconds(start)]
    history = History(folder)
    for day, of_day in first.groupby(first["slot_start"] // DAY_MS * DAY_MS):
        moment = pd.Timestamp(day, unit="ms", tz="UTC").to_pydatetime()
        for row in range(0, len(of_day), AT_ONCE):
            yield _with_surface(of_day[row : row + AT_ONCE], history, moment)


def _with_surface(sensors: pd.DataFrame, history: History, day: datetime) -> pd.DataFrame:
    from selfgen import horizon
    from selfgen.advice import SURFACE_AZIMUTHS, SURFACE_TILTS, energy_surface
    from selfgen.orientation import expected_year

    place = sensors["latitude"].to_numpy(), sensors["longitude"].to_numpy(), horizon.profiles(sensors["variable_data"])
    energy = energy_surface(expected_year(history.before(day, sensors), *place).light, place[0])
    tilt, azimuth = np.meshgrid(SURFACE_TILTS, SURFACE_AZIMUTHS, indexing="ij")
    best = energy.max(axis=(-2, -1), keepdims=True)
    return (
        sensors.loc[sensors.index.repeat(tilt.size)]
        .assign(
            tilt=np.tile(tilt.ravel(), len(sensors)),
            azimuth=np.tile(azimuth.ravel(), len(sensors)),
            energy=energy.ravel(),
            relative=(energy / best).ravel(),
        )
        .rename(columns=NAMES)
    )


def frames(settings: Settings, registry: Any, folder: Path, piece: Work) -> Iterator[pd.DataFrame]:
    """Yield the rows of a piece of work; what is to be kept in the lake is left in the folder."""
    datasource, start, end = piece
    if datasource == ALARM:
        return iter([incidents.alarms(settings, registry, LIGHTS, start, end, folder / LIGHTS.name)])
    if datasource == SURFACE:
        return surfaces(settings.lake_dir, start, end)
    return iter([reports(settings.lake_dir, start, end, staging=folder / ORIENTATIONS)])


def work(start: datetime, end: datetime) -> list[Work]:
    """Return what a worker does in one go: the alarms of the range, one after the other; the other rows of a week."""
    edges = slots.splits([(start, end)], SPLIT_HOURS)
    weeks = [[datetime.fromtimestamp(edge / 1000, UTC) for edge in span] for span in edges]
    return [(ALARM, start, end), *((name, low, high) for name in (REPORT, SURFACE) for low, high in weeks)]


def stage(settings: Settings, start: datetime, end: datetime) -> Staged:
    """Make the reports and alarms of the UTC hours `[start, end)`; the lake's lock is held."""
    keep = partial(_keep, settings.lake_dir)
    return stage_files(settings, NAME, start, end, DATASOURCE_NAMES, work(start, end), frames, keep)


def _keep(folder: Path, staging: Path) -> None:
    for name in (LIGHTS.name, ORIENTATIONS):
        lake.adopt(folder, name, staging)


def run(settings: Settings, start: datetime, end: datetime) -> dict[str, int]:
    """Replace the reports, alarms and surfaces of the UTC hours `[start, end)`; return the rows of each data source."""
    with lake.exclusive(settings.lake_dir, LIGHT.kind):
        return load(settings, stage(settings, start, end))


def main() -> None:
    """Run for the hours of the command line."""
    run(*arguments(__doc__))


if __name__ == "__main__":
    main()
