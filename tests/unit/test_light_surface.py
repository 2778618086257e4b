"""A year's energy on planes of all kinds: one surface for each sensor, owner, place and local day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from flink_jobs.slots import LIGHT, with_calendar
from flink_jobs.write_sensor_light import OF_DAY, surfaces, with_best
from selfgen import lake, light_history, orientation
from selfgen.advice import SURFACE_AZIMUTHS, SURFACE_TILTS, Roof, advise, energy_surface
from selfgen.columns import ENRICHMENT, LIGHT_SUMS, names
from selfgen.solar import HOUR_MS
from tests.unit.test_solar import load

HOUR = timedelta(hours=1)
PLANES = len(SURFACE_TILTS) * len(SURFACE_AZIMUTHS)
#: In Madrid the day before the clock goes forward begins at 23:00 UTC, the next two at 22:00.
START = datetime(2026, 3, 28, tzinfo=UTC)
END = START + 72 * HOUR
MADRID = {"time_zone": "Europe/Madrid", "latitude": 40.4, "longitude": -3.7}
KATHMANDU = {"time_zone": "Asia/Kathmandu", "latitude": 27.7, "longitude": 85.3}


def test_the_surface_is_what_an_installer_is_advised() -> None:
    year = load("723170TYA.CSV")
    place = year.latitude, year.longitude
    parts = orientation.contributions(year.starts, year.starts + HOUR_MS, year.ghi, *place)
    sums = np.stack([orientation.summed(year.starts[:hours], parts[:hours]) for hours in (0, 2000, 8760)])
    latitude = np.full(3, place[0])
    found = energy_surface(orientation.expected_year(sums, latitude, np.full(3, place[1])).light, latitude)
    assert found.shape == (3, len(SURFACE_TILTS), len(SURFACE_AZIMUTHS))
    for sensor in range(3):
        for row, column in ((0, 0), (3, 6), (9, 3)):
            tilt, azimuth = float(SURFACE_TILTS[row]), float(SURFACE_AZIMUTHS[column])
            told = advise(sums[sensor], *place, Roof((tilt, tilt), (azimuth, azimuth))).told
            assert found[sensor, row, column] == pytest.approx(told["yearly_kwh_per_kwp"], rel=1e-9)
    np.testing.assert_allclose(found[:, 0], found[:, 0, :1].repeat(len(SURFACE_AZIMUTHS), axis=1))  # flat is flat


def slots_of(light_id: str, client_id: str, place: dict[str, object], hours: list[datetime]) -> pd.DataFrame:
    period = dict.fromkeys(column.name for column in ENRICHMENT) | {"client_id": client_id, "name": "Ana"} | place
    starts = [round(hour.timestamp() * 1000) for hour in hours]
    slots = with_calendar(pd.DataFrame({"element_id": light_id, "slot_start": starts, **period}))
    return slots.assign(**dict.fromkeys(LIGHT_SUMS, 100.0), generated=200.0, steady=0.0, variable_data=None)


def between(first: datetime, last: datetime) -> list[datetime]:
    return [first + HOUR * number for number in range(round((last - first) / HOUR))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a lake of three days of a sensor that moved, one that sleeps at night, one elsewhere, one nobody knows."""
    moved = START + 36 * HOUR
    daylight = [hour for hour in between(START, END) if 8 <= hour.hour <= 16]
    # Kathmandu's slots begin at a quarter past: 5:45 ahead
    quarter = [hour + timedelta(minutes=15) for hour in between(START, END)]
    nowhere = {"time_zone": None, "latitude": np.nan, "longitude": np.nan}
    slots = pd.concat(
        [
            slots_of("moves", "a", MADRID, between(START, moved + HOUR)),
            slots_of("moves", "b", MADRID | {"latitude": 41.4}, between(moved, END)),
            slots_of("sleeps", "a", MADRID, daylight),
            slots_of("far", "c", KATHMANDU, quarter),
            slots_of("unknown", "d", nowhere, between(START, END)),
        ]
    )
    made = tmp_path_factory.mktemp("lake")
    schema = pa.Schema.from_pandas(slots[[*OF_DAY, *LIGHT_SUMS, "generated", "steady"]], preserve_index=False)
    for hour, rows in slots.groupby(slots["slot_start"] // HOUR_MS):
        table = pa.Table.from_pandas(rows, schema, preserve_index=False)
        lake.replace_hour(made, LIGHT.kind, datetime.fromtimestamp(hour * 3600, UTC), table)
    light_history.replace(made, LIGHT.kind, [START + 24 * HOUR * day for day in range(3)])
    return made


def rows_of(folder: Path, *parts: tuple[datetime, datetime]) -> pd.DataFrame:
    found = pd.concat([some for part in parts for some in surfaces(folder, *part)])
    return found.sort_values(["timestamp", "light_id", "client_id", "tilt", "azimuth"], ignore_index=True)


def test_each_owner_and_place_has_one_surface_a_local_day(folder: Path) -> None:
    found = rows_of(folder, (START, END))
    assert {"timestamp", *names("light_surface")} <= set(found)
    days = found.groupby(["light_id", "client_id", "local_date", "timestamp"])
    assert (days.size() == PLANES).all()
    assert not found.duplicated(["light_id", "timestamp", "client_id", "tilt", "azimuth"]).any()

    def first(light_id: str, client_id: str) -> dict[str, datetime]:
        of = found[(found["light_id"] == light_id) & (found["client_id"] == client_id)]
        starts = of.groupby("local_date")["timestamp"].first()
        return {str(day): datetime.fromtimestamp(start / 1000, UTC) for day, start in starts.items()}

    day = 24 * HOUR
    midnights = {"2026-03-28": START, "2026-03-29": START + 23 * HOUR, "2026-03-30": START + 46 * HOUR}
    assert first("moves", "a") == {name: midnights[name] for name in ("2026-03-28", "2026-03-29")}
    rest = {"2026-03-30": START + 46 * HOUR, "2026-03-31": START + 70 * HOUR}
    assert first("moves", "b") == {"2026-03-29": START + 36 * HOUR} | rest
    mornings = [START + number * day + 8 * HOUR for number in range(3)]
    assert list(first("sleeps", "a").values()) == mornings
    assert len(first("far", "c")) == 4
    assert set(found["light_id"]) == {"moves", "sleeps", "far"}


def test_pieces_give_the_rows_of_the_whole(folder: Path) -> None:
    edges = [START + HOUR * number for number in (0, 1, 23, 24, 37, 50, 72)]
    pieces = list(pairwise(edges))
    pd.testing.assert_frame_equal(rows_of(folder, *pieces), rows_of(folder, (START, END)))
    assert not list(surfaces(folder, START + 2 * HOUR, START + 5 * HOUR))
    assert not list(surfaces(folder, END + 48 * HOUR, END + 50 * HOUR))


def test_it_is_the_energy_of_what_was_measured_before_the_day(folder: Path) -> None:
    found = rows_of(folder, (START, END)).query("light_id == 'sleeps' and local_date == '2026-03-30'")
    hours = [hour for hour in between(START, START + 48 * HOUR) if 8 <= hour.hour <= 16]
    starts = np.array([hour.timestamp() * 1000 for hour in hours])
    sums = orientation.summed(starts, np.full((len(hours), len(LIGHT_SUMS)), 100.0))
    told = advise(sums, 40.4, -3.7, Roof((30.0, 30.0), (180.0, 180.0))).told
    here = found.query("tilt == 30 and azimuth == 180")
    assert here["energy"].item() == pytest.approx(told["yearly_kwh_per_kwp"])
    assert found["relative"].max() == 1.0
    np.testing.assert_allclose(found["relative"], found["energy"] / found["energy"].max())


def test_a_sensor_s_horizon_is_heeded(tmp_path: Path) -> None:
    """In the east all is hidden up to 60°, so that panels look to the west."""
    sensors = pd.DataFrame({"element_id": ["a", "b"], "latitude": 40.4, "longitude": -3.7})
    hidden = '{"horizon": [[0, 0], [20, 60], [160, 60], [180, 0]]}'
    found = with_best(sensors.assign(variable_data=[None, hidden]), light_history.History(tmp_path), START)
    assert found["optimal_azimuth"].tolist()[0] == pytest.approx(180, abs=3)
    assert 195 < found["optimal_azimuth"].tolist()[1] < 260
