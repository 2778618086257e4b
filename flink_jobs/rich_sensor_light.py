"""RichSensorLight: raw light readings of MongoDB → irradiation by slot, with place and owner → the lake.

splits of the range ─► readings, as arrays ─► irradiation by slot ─► enrichment ─► producible energy ─► Parquet
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from flink_jobs.reports import arguments
from flink_jobs.slots import LIGHT, Range, run_rich
from selfgen.columns import DATASOURCES
from selfgen.settings import Settings

NAME = "rich_sensor_light"

#: What a light sensor's slots carry beside every slot's columns.
PRODUCIBLE = tuple(
    column
    for column in DATASOURCES["sensor_report"]
    if column.name in {"producible_gen", "optimal_tilt", "optimal_azimuth", "gain_vs_horizontal"}
)


def with_producible(slots: pd.DataFrame, _readings: pd.DataFrame) -> pd.DataFrame:
    """Add what a panel of the sensor's `power_cap` would have produced in its best orientation, Wh."""
    from selfgen.solar import best_orientation, producible

    slots = slots.assign(**{column.name: float("nan") for column in PRODUCIBLE})
    for (latitude, longitude), rows in slots.groupby(["latitude", "longitude"]):
        best = best_orientation(latitude, longitude)
        slots.loc[rows.index, ["optimal_tilt", "optimal_azimuth", "gain_vs_horizontal"]] = tuple(best)
    placed = slots[slots["latitude"].notna()]
    slots.loc[placed.index, "producible_gen"] = producible(
        placed["slot_start"],
        placed["slot_end"],
        placed["generated"],
        placed["latitude"],
        placed["longitude"],
        placed["optimal_tilt"],
        placed["optimal_azimuth"],
        placed["power_cap"],
        completeness=placed["completeness"],
    )
    return slots


def run(settings: Settings, ranges: Sequence[Range]) -> None:
    """Make the slots of ranges of UTC hours `[start, end)`; run again, it gives the same."""
    run_rich(settings, NAME, LIGHT, ranges, PRODUCIBLE, with_producible)


def main() -> None:
    """Run for the hours of the command line."""
    settings, start, end = arguments(__doc__)
    run(settings, [(start, end)])


if __name__ == "__main__":
    main()
