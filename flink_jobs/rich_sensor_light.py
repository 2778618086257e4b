"""RichSensorLight: raw light readings of MongoDB → irradiation by slot, with place and owner → the lake.

splits of the range ─► readings, as arrays ─► irradiation by slot ─► enrichment ─► beam and sky ─► Parquet, by hour
    ─► sums of what was measured so far, by day
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from flink_jobs.reports import arguments
from flink_jobs.slots import LIGHT, Range, hours_between, run_rich
from selfgen import lake, light_history
from selfgen.columns import LIGHT_SUMS, Column
from selfgen.settings import Settings

NAME = "rich_sensor_light"

#: What a light sensor's slots carry beside every slot's columns, such as their part in the year's light.
OF_LIGHT = (
    *(Column(name, "double", f"Light: {name.replace('_', ' ')}", "Wh/m²") for name in LIGHT_SUMS),
    Column("possible", "double", "Most that is possible", "W/m²"),
    Column("dark", "double", "Share of samples with light while the sun is down"),
    Column("owned", "double", "The owner's share of the slot"),
    Column("steady", "double", "The light has the shape of a clear sky's"),
)


def with_contributions(slots: pd.DataFrame, _readings: pd.DataFrame) -> pd.DataFrame:
    """Add what the slots' light adds to the sums from which panels' best orientation follows, and what is possible."""
    from selfgen import horizon
    from selfgen.orientation import contributions
    from selfgen.solar import possible

    span = slots["slot_start"], slots["slot_end"]
    place = tuple(slots[name].astype("float64") for name in ("latitude", "longitude"))
    behind = horizon.profiles(slots["variable_data"])
    parts = contributions(*span, slots["generated"], *place, completeness=slots["completeness"], horizons=behind)
    return slots.assign(**dict(zip(LIGHT_SUMS, parts.T, strict=True)), possible=possible(*span, *place))


def run(settings: Settings, ranges: Sequence[Range]) -> None:
    """Make the slots of ranges of UTC hours `[start, end)`; run again, it gives the same."""
    with lake.exclusive(settings.lake_dir, LIGHT.kind):
        run_rich(settings, NAME, LIGHT, ranges, OF_LIGHT, with_contributions)
        days = {hour.replace(hour=0) for start, end in ranges for hour in hours_between(start, end)}
        light_history.replace(settings.lake_dir, LIGHT.kind, days)


def main() -> None:
    """Run for the hours of the command line."""
    settings, start, end = arguments(__doc__)
    run(settings, [(start, end)])


if __name__ == "__main__":
    main()
