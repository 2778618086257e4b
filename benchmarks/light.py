"""Light sensors: what the recommended orientation loses after 30, 90 and 365 days, beside rules of thumb.

Global light alone is given, of the typical years that come with pvlib; the loss is against the best plane by pvlib
from their measured beam and diffuse light (Hay and Davies' sky, albedo 0.2). Peers: tilt = latitude towards the
equator, and the best plane under a clear sky. And how often the loss is inside the bound that comes with the choice.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pvlib
import pyarrow as pa
from dateutil.relativedelta import relativedelta

from benchmarks.form import Figure
from flink_jobs import slots
from flink_jobs.rich_sensor_light import with_contributions
from flink_jobs.slots import LIGHT
from flink_jobs.write_sensor_light import reports
from selfgen import lake, light_history, orientation, solar
from selfgen.columns import ENRICHMENT, LIGHT_SUMS
from selfgen.settings import Settings
from selfgen.solar import ALBEDO, HOUR_MS, plane_irradiance

YEARS = {"Greensboro 36° N": "723170TYA.CSV", "Sand Point 55° N": "703165TY.csv", "Miami 26° N": "12839.tm2"}
#: Days between the starts of the windows.
STEP = 10
#: Of the hour whose computing is timed.
SENSORS = 10_000
_TURNS = np.arange(160.0, 201.0, 2.0)


class Year(NamedTuple):
    """A typical year, hour by hour, W/m²."""

    latitude: float
    longitude: float
    starts: Any
    ghi: Any
    dni: Any
    dhi: Any


def load(name: str) -> Year:
    """Return one of pvlib's typical years."""
    path = Path(pvlib.__path__[0]) / "data" / name
    if name.endswith(".tm2"):
        frame, place = pvlib.iotools.read_tmy2(path)
        frame = frame.rename(columns=str.lower)
    else:
        frame, place = pvlib.iotools.read_tmy3(path, map_variables=True)
    first = pd.Timestamp("2001-01-01", tz="UTC").value / 1e6 - place["TZ"] * HOUR_MS
    columns = (frame[column].to_numpy(float) for column in ("ghi", "dni", "dhi"))
    return Year(place["latitude"], place["longitude"], first + np.arange(8760) * HOUR_MS, *columns)


def clear(year: Year) -> Year:
    """Return the year under a clear sky."""
    times = pd.to_datetime(year.starts + HOUR_MS / 2, unit="ms", utc=True)
    sky = pvlib.location.Location(year.latitude, year.longitude).get_clearsky(times)
    return year._replace(**{name: sky[name].to_numpy() for name in ("ghi", "dni", "dhi")})


class Oracle:
    """The year's irradiation on any plane, by pvlib from measured beam and diffuse light."""

    def __init__(self, year: Year) -> None:
        self.year = year
        self.times = pd.to_datetime(year.starts + HOUR_MS / 2, unit="ms", utc=True)
        self.sun = pvlib.solarposition.get_solarposition(self.times, year.latitude, year.longitude)
        self.extra = pvlib.irradiance.get_extra_radiation(self.times).to_numpy()
        self.known: dict[tuple[float, float], float] = {}

    def plane(self, tilt: float, azimuth: float) -> Any:
        """Return W/m² hour by hour."""
        return np.nan_to_num(
            pvlib.irradiance.get_total_irradiance(
                tilt,
                azimuth,
                self.sun["zenith"].to_numpy(),
                self.sun["azimuth"].to_numpy(),
                self.year.dni,
                self.year.ghi,
                self.year.dhi,
                dni_extra=self.extra,
                model="haydavies",
                albedo=ALBEDO,
            )["poa_global"]
        )

    def energy(self, tilt: float, azimuth: float) -> float:
        """Return Wh/m² in the year."""
        if (tilt, azimuth) not in self.known:
            self.known[tilt, azimuth] = float(self.plane(tilt, azimuth).sum())
        return self.known[tilt, azimuth]

    def greatest(self) -> float:
        """Return the most that any plane catches."""
        return self.energy(*self.best())

    def best(self) -> tuple[float, float]:
        """Return the tilt and azimuth that catch most, to 1° and 2°; those that face south."""
        tilt = max(np.arange(0.0, 61.0, 4.0), key=lambda each: self.energy(each, 180.0))
        near = np.arange(max(tilt - 6, 0), tilt + 7)
        turn = max(_TURNS, key=lambda each: self.energy(tilt, each))
        planes = [(each, angle) for each in near for angle in (turn - 2, turn, turn + 2)]
        return max(planes, key=lambda plane: self.energy(*plane))


def run(_settings: Settings) -> list[Figure]:
    """Measure each typical year."""
    inside: dict[int, list[bool]] = {30: [], 90: [], 365: []}
    figures = [figure for place, name in YEARS.items() for figure in _of(place, load(name), inside)]
    bounds = [
        Figure(f"all: loss inside its 90 % bound, {days} days", round(100 * float(np.mean(of)), 1), "%")
        for days, of in inside.items()
    ]
    return [*figures, *bounds, *_hour()]


def _of(place: str, year: Year, inside: dict[int, list[bool]]) -> list[Figure]:
    oracle = Oracle(year)
    most = oracle.greatest()
    parts = orientation.contributions(year.starts, year.starts + HOUR_MS, year.ghi, year.latitude, year.longitude)

    def lost(tilt: float, azimuth: float) -> float:
        return round(max(1 - oracle.energy(tilt, azimuth) / most, 0.0) * 100, 4)

    def after(first_day: int, days: int) -> float:
        hours = (np.arange(days * 24) + first_day * 24) % 8760
        best = orientation.best(orientation.summed(year.starts[hours], parts[hours]), year.latitude, year.longitude)
        loss = lost(float(best.tilt), float(best.azimuth))
        inside[days].append(loss <= 100 * best.confidence)
        return loss

    month, season = ([after(day, days) for day in range(0, 365, STEP)] for days in (30, 90))
    thumb = lost(round(abs(year.latitude)), 180.0)
    under_clear = lost(*Oracle(clear(year)).best())
    losses = (
        ("loss, full year", after(0, 365), 0.05),
        ("loss, 30 days, median", float(np.median(month)), 0.2),
        ("loss, 30 days, worst", max(month), 1.0),
        ("loss, 90 days, worst", max(season), 0.5),
    )
    deviation, error = _energy(year, oracle)
    return [
        *(Figure(f"{place}: {what}", value, "%", peer=thumb, bar=("<=", bar)) for what, value, bar in losses),
        Figure(f"{place}: loss, clear sky only", under_clear, "%", peer=thumb),
        Figure(f"{place}: energy at 30°, 180°, from measured beam: off by", deviation, "%", bar=("<=", 3.0)),
        Figure(f"{place}: the same, hourly nRMSE", error, "%"),
    ]


def _energy(year: Year, oracle: Oracle) -> tuple[float, float]:
    """Return by how much the year's irradiation is off on a plane, %, and the hours' nRMSE, %."""
    ours = plane_irradiance(year.starts, year.starts + HOUR_MS, year.ghi, year.latitude, year.longitude, 30, 180)
    theirs = oracle.plane(30, 180)
    lit = year.ghi > 0
    error = np.sqrt(np.mean((ours - theirs)[lit] ** 2)) / theirs[lit].mean()
    return round(abs(float(ours.sum() / theirs.sum() - 1)) * 100, 3), round(float(error) * 100, 2)


def _hour() -> list[Figure]:
    """Time the computing of one hour, from readings as arrays to reports, of a lake with two years of history."""
    random = np.random.default_rng(8)
    hour = datetime(2026, 6, 15, 11, tzinfo=UTC)
    start_ms = slots.milliseconds(hour)
    ids = np.array([f"light-{number:05}" for number in range(SENSORS)])
    place = {"latitude": random.uniform(37.0, 43.0, SENSORS), "longitude": random.uniform(-8.0, 3.0, SENSORS)}
    history = pd.DataFrame({"element_id": ids, **place, "time_zone": "Europe/Madrid", "power_cap": 3000.0})
    always = pd.Series(pd.NaT, index=history.index, dtype="datetime64[ms, UTC]")
    history = history.assign(init=always, end=always, variable_data=None, tilt=None, azimuth=None)
    history = history.reindex(columns=[*history, *(c.name for c in ENRICHMENT if c.name not in history)])
    minutes = np.arange(-2, 63)
    readings = pd.DataFrame(
        {
            "element_id": np.repeat(ids, len(minutes)),
            "time": np.tile(start_ms + minutes * 60_000, SENSORS),
            LIGHT.field: random.uniform(100, 900, SENSORS * len(minutes)),
        }
    )
    timed: dict[str, float] = {}
    sun, solar.sun = solar.sun, _timed(timed, "sun", solar.sun)
    orientation.sun = solar.sun
    try:
        with TemporaryDirectory() as folder:
            lake_dir = Path(folder)
            _fill(lake_dir, history, hour, random)
            for name in ("first", "again"):
                timed["sun"] = 0.0
                began = time.perf_counter()
                made = slots.make_slots(readings, history, LIGHT, start_ms, start_ms + HOUR_MS, max_gap_s=300)
                made = with_contributions(made, readings)
                lake.replace_hour(lake_dir, LIGHT.kind, hour, pa.Table.from_pandas(made, preserve_index=False))
                light_history.replace(lake_dir, LIGHT.kind, [hour.replace(hour=0)])
                reports(lake_dir, hour, hour + slots.HOUR)
                timed[name] = time.perf_counter() - began
    finally:
        solar.sun = orientation.sun = sun
    what = f"{SENSORS} sensors, one hour of 1-min data, readings to reports"
    return [
        Figure(f"{what}: first in a process", round(timed["first"], 1), "s"),
        Figure(f"{what}: again", round(timed["again"], 1), "s"),
        Figure("the same: of it the sun's position", round(100 * timed["sun"] / timed["again"], 1), "%"),
    ]


def _timed(timed: dict[str, float], name: str, function: Any) -> Any:
    def run(*arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            timed[name] = timed.get(name, 0.0) + time.perf_counter() - began

    return run


def _fill(lake_dir: Path, sensors: pd.DataFrame, hour: datetime, random: np.random.Generator) -> None:
    """Put two years of history into the lake: a noon of each month, and the day before."""
    day = hour.replace(hour=0)
    months = [(day.replace(day=1) - relativedelta(months=back)).replace(hour=12) for back in range(1, 25)]
    for noon in [*months, day - timedelta(hours=12)]:
        parts = dict(zip(LIGHT_SUMS, random.uniform(10, 900, (len(LIGHT_SUMS), SENSORS)), strict=True))
        hours = sensors[["element_id", "latitude", "longitude"]].assign(slot_start=slots.milliseconds(noon), **parts)
        hours = hours.assign(generated=hours["clear_beam"], steady=0.0)
        lake.replace_hour(lake_dir, LIGHT.kind, noon, pa.Table.from_pandas(hours, preserve_index=False))
        light_history.replace(lake_dir, LIGHT.kind, [noon.replace(hour=0)])
