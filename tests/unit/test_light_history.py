"""What light sensors measured before a day: sums in the lake, whatever the order in which its hours were computed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfgen import lake, light_history, orientation
from selfgen.columns import LIGHT_SUMS

HOUR = timedelta(hours=1)
FIRST = datetime(2026, 1, 30, tzinfo=UTC)
HOURS = [FIRST + HOUR * number for number in range(5, 96, 13)]
SENSORS = pd.DataFrame(
    {"element_id": ["l1", "l2", "l2"], "latitude": [40.4, 27.7, 40.4], "longitude": [-3.7, 85.3, -3.7]}
)
SCHEMA = pa.schema(
    [
        ("element_id", pa.string()),
        *((name, pa.float64()) for name in ("latitude", "longitude", *LIGHT_SUMS, "generated", "steady")),
        ("slot_start", pa.int64()),
    ]
)


def write(folder: Path, hour: datetime, seed: int) -> pd.DataFrame:
    """Put an hour of light into the lake: three sensors, one of which moved, some of which are silent."""
    random = np.random.default_rng(seed)
    slots = SENSORS[random.random(len(SENSORS)) < 0.8].assign(slot_start=round(hour.timestamp() * 1000))
    slots[list(LIGHT_SUMS)] = random.uniform(0, 900, (len(slots), len(LIGHT_SUMS)))
    slots = slots.assign(generated=0.95 * (slots["clear_beam"] + slots["clear_sky"]), steady=1.0)
    lake.replace_hour(folder, "light", hour, pa.Table.from_pandas(slots, SCHEMA, preserve_index=False))
    return slots


def expected(slots: list[pd.DataFrame], day: datetime) -> np.ndarray:
    """Return the sums of all hours before a day, by `orientation.summed` of the whole."""
    every = pd.concat(slots)
    every = every[every["slot_start"] < day.timestamp() * 1000]
    key = ["element_id", "latitude", "longitude"]
    groups = dict(iter(every.groupby(key)))
    none = every.iloc[:0]
    parts = [groups.get(tuple(sensor), none) for sensor in SENSORS[key].itertuples(index=False)]
    return np.stack([orientation.summed(part["slot_start"], part[list(LIGHT_SUMS)].to_numpy()) for part in parts])


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(HOURS), again=st.lists(st.sampled_from(HOURS), max_size=4), cut=st.integers(1, 6))
def test_sums_of_hours_in_any_order_and_computed_again_are_those_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, order: list[datetime], again: list[datetime], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("lake")
    slots = {}
    for number, part in enumerate((order[:cut], order[cut:], again)):
        for hour in part:
            slots[hour] = write(folder, hour, hash((hour, number)) % 2**32)
        light_history.replace(folder, "light", {hour.replace(hour=0) for hour in part})
    history = light_history.History(folder)
    for day in range(0, 7, 2):
        moment = FIRST + timedelta(days=day)
        found = history.before(moment, SENSORS)
        assert not found[..., len(LIGHT_SUMS) :].any()  # no three hours in a row
        np.testing.assert_allclose(found[..., : len(LIGHT_SUMS)], expected(list(slots.values()), moment), rtol=1e-12)


def test_what_was_measured_long_ago_and_in_other_years(tmp_path: Path) -> None:
    days = [
        datetime(2023, 12, 31, 11, tzinfo=UTC),
        datetime(2024, 1, 1, 11, tzinfo=UTC),
        datetime(2025, 1, 1, 11, tzinfo=UTC),
    ]
    slots = [write(tmp_path, hour, number) for number, hour in enumerate(days)]
    light_history.replace(tmp_path, "light", [day.replace(hour=0) for day in days])
    history = light_history.History(tmp_path)

    def before(day: datetime, sensors: pd.DataFrame) -> np.ndarray:
        return history.before(day, sensors)[..., : len(LIGHT_SUMS)]

    january = datetime(2026, 1, 20, tzinfo=UTC)
    np.testing.assert_allclose(before(january, SENSORS), expected(slots[1:], january))
    np.testing.assert_allclose(before(january - timedelta(days=30), SENSORS), expected(slots, january))
    assert not before(datetime(2028, 6, 1, tzinfo=UTC), SENSORS).any()


def test_the_level_of_clear_skies_is_of_the_months_before_by_sensor_and_place(tmp_path: Path) -> None:
    """A sensor sees 0.9 of the model in January, and 0.7 in February of the day on which it moved."""
    share = {datetime(2026, 1, 10, tzinfo=UTC): 0.9, datetime(2026, 2, 10, tzinfo=UTC): 0.7}
    sensors = SENSORS[SENSORS["element_id"] == "l2"]
    for day, seen in share.items():
        for hour in range(6, 18):
            place = sensors[:1] if day.month == 1 or hour < 12 else sensors[1:]
            slots = place.assign(slot_start=round((day + hour * HOUR).timestamp() * 1000), steady=1.0)
            slots = slots.assign(**dict.fromkeys(LIGHT_SUMS, 400.0), generated=seen * 800.0)
            table = pa.Table.from_pandas(slots, SCHEMA, preserve_index=False)
            lake.replace_hour(tmp_path, "light", day + hour * HOUR, table)
    light_history.replace(tmp_path, "light", share)
    asked = [(sensors[:1], 1), (sensors[:1], 2), (sensors[:1], 3), (sensors[:1], 8), (sensors[1:], 3)]
    slots = pd.concat(
        [
            of.assign(slot_start=round(datetime(2026, month, 20, 12, tzinfo=UTC).timestamp() * 1000))
            for of, month in asked
        ]
    )
    near, next_to = (1 + np.cos(np.pi / 6)) / 2, (1 + np.cos(np.pi / 3)) / 2
    march = (0.9 * 12 * next_to + 0.7 * 6 * near) / (12 * next_to + 6 * near)
    # of nothing, of January, of both, of the other half of the year, of the four hours at the new place
    found = light_history.ClearLevels(tmp_path).of(slots)
    np.testing.assert_allclose(found, [np.nan, 0.9, march, np.nan, np.nan])
