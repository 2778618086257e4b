"""RichPanel: raw panel readings of MongoDB → energy by slot, with place and owner → the lake.

splits of the range ─► readings, as arrays ─► energy by slot ─► enrichment valid at the time ─► expected energy, by the
    light sensors' slots in the lake ─► what meters counted over gaps that span hours ─► Parquet, by hour
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from flink_jobs.reports import arguments
from flink_jobs.rich_sensor_light import OF_LIGHT
from flink_jobs.slots import LIGHT, PANEL, SLOT, Range, run_rich, schema
from selfgen import lake
from selfgen.columns import Column
from selfgen.settings import Settings

NAME = "rich_panel"

#: What a panel's slots carry beside every slot's columns.
OF_PANELS = (
    Column("expected_gen", "double", "Expected energy", "Wh"),
    Column("performance_ratio", "double", "Performance ratio"),
    Column("meter_resets", "long", "Times that the meter began anew"),
    Column("flat", "double", "Share of samples at the greatest"),
    Column("dark", "double", "Share of samples with power while the sun is down"),
    Column("tilt", "double", "Tilt", "°"),
    Column("azimuth", "double", "Azimuth", "°"),
    Column("owned", "double", "The owner's share of the slot"),
    Column("unbridged_generated", "double", "Energy without that of gaps over hours", "Wh"),
    Column("unbridged_estimated", "double", "Of it, spread over gaps", "Wh"),
    Column("unbridged_resets", "long", "Times that the meter began anew, but in gaps over hours"),
)


def light_slots(settings: Settings, slots: pd.DataFrame) -> pd.DataFrame:
    """Return the light sensors' slots in the lake that start when these do."""
    from selfgen.expected import LIGHT as COLUMNS

    start, end = (
        pd.Timestamp(edge, unit="ms", tz="UTC") for edge in (slots["slot_start"].min(), slots["slot_end"].max())
    )
    table = lake.read(
        settings.lake_dir,
        LIGHT.kind,
        start.floor("h").to_pydatetime(),
        end.ceil("h").to_pydatetime(),
        list(COLUMNS),
        schema=schema((*SLOT, *OF_LIGHT)),
    )
    return table.to_pandas() if table.num_columns else pd.DataFrame({name: [] for name in COLUMNS})


def spread_weights(settings: Settings, slots: pd.DataFrame) -> np.ndarray:
    """Return by what a meter's backlog is spread over slots that have the columns of their periods."""
    from selfgen.expected import shape

    return shape(slots, light_slots(settings, slots))


def run(settings: Settings, ranges: Sequence[Range]) -> None:
    """Make the slots of ranges of UTC hours `[start, end)`; run again, it gives the same.

    Light sensors' hours come first: what panels should have made is read from them.
    """

    def with_expected(slots: pd.DataFrame, _readings: pd.DataFrame | None) -> pd.DataFrame:
        from selfgen.expected import expected_energy, performance_ratio

        expected = expected_energy(slots, light_slots(settings, slots))
        return slots.assign(expected_gen=expected, performance_ratio=performance_ratio(slots, expected))

    run_rich(settings, NAME, PANEL, ranges, OF_PANELS, with_expected, partial(spread_weights, settings))


def main() -> None:
    """Run for the hours of the command line."""
    settings, start, end = arguments(__doc__)
    run(settings, [(start, end)])


if __name__ == "__main__":
    main()
