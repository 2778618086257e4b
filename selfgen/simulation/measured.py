"""Real measurements as if they came from a fleet's own devices, on the days before a given hour.

Power is that of a real plant (NREL SERF East, Golden, Colorado: AC power, 1 min, 18 and 19 March 2022),
scaled to each panel's rating. Irradiance is a day of 1-min values (NREL Solar Radiation Research Laboratory,
20 January 2022) for every other light sensor, and three days of 5-min values (NREL RMIS weather station,
1–3 January 2022) for the rest. Wind is of those same three days, 5 min. All come with `pvanalytics`.

What was measured at a wall-clock time is sent at that wall-clock time of each client. Days alternate from
element to element. Nothing is interpolated: minutes that were not measured are not sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from selfgen.registry import Client, Kind
from selfgen.simulation.batch import Batch, Encoder, Times, offsets_ms
from selfgen.simulation.disorder import USUAL, Disorder, Mixer
from selfgen.simulation.fleet import KINDS, Fleet
from selfgen.simulation.noise import Floats
from selfgen.simulation.truth import Fault, FaultKind, Truth

#: DC rating of the measured plant, W: its greatest AC power over 104 days of summer (the package's 15-min
#: series) is 5 426 W, which an inverter and wiring of usual efficiency (0.9) deliver from 6 kW.
PLANT_RATING_W = 6000.0

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
_MINUTES_A_DAY = 1440


#: Fields that an element sends, by kind.
FIELDS: dict[Kind, tuple[str, ...]] = {
    "panel": ("power",),
    "light": ("irradiance",),
    "wind": ("wind_speed", "wind_direction", "temperature"),
}


class Days:
    """Measured days of one instrument: values by minute of the day; NaN where nothing was measured.

    Attributes
    ----------
    values
        Field → array of shape (days, 1440).
    every
        Interval of the instrument, minutes.
    """

    def __init__(self, frame: pd.DataFrame, every: int) -> None:
        index = pd.DatetimeIndex(frame.index)
        day = (index.normalize() - index[0].normalize()).days.to_numpy()
        minute = index.hour.to_numpy() * 60 + index.minute.to_numpy()
        self.every = every
        self.values: dict[str, Floats] = {}
        for name in frame.columns:
            table = np.full((int(day[-1]) + 1, _MINUTES_A_DAY), np.nan)
            table[day, minute] = frame[name].to_numpy(float)
            self.values[str(name)] = table

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def bridged(self, intervals: int = 2) -> Days:
        """Return the days, one after the other without end, with gaps of so many intervals filled from both sides.

        A direction stays as it was before the gap.
        """
        filled = copy(self)
        filled.values = {name: self._bridge(name, table, intervals) for name, table in self.values.items()}
        return filled

    def _bridge(self, name: str, table: Floats, intervals: int) -> Floats:
        measured = table[:, :: self.every]
        series = pd.Series(np.tile(measured.ravel(), 3))
        missing = series.isna()
        length = missing.groupby((~missing).cumsum()).transform("sum")
        filled = series.ffill() if name == "wind_direction" else series.interpolate()
        series = series.where(length > intervals, filled)
        result = table.copy()
        result[:, :: self.every] = series.to_numpy()[measured.size : 2 * measured.size].reshape(measured.shape)
        return result


def data_file(package: str, name: str) -> Path:
    """Return the path of a data set that comes with a package, without importing the package."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{package}, which brings {name}, is not installed")
    return Path(spec.origin).parent / "data" / name


def _read(name: str) -> pd.DataFrame:
    frame = pd.read_csv(data_file("pvanalytics", name), index_col=0)
    # wall clock, as it was measured: the offset of the source's own zone does not matter here
    frame.index = pd.to_datetime(frame.index.str.slice(0, 19) if "-" in str(frame.index[0]) else frame.index)
    return frame


@cache
def power_days() -> Days:
    """Return AC power of the measured plant as a share of its rating: 2 days, 1 min."""
    frame = _read("serf_east_1min_ac_power.csv")
    frame.columns = pd.Index(["power"])
    return Days(frame / PLANT_RATING_W, every=1)


@cache
def weather_days() -> Days:
    """Return `irradiance` (W/m²), `wind_speed` (m/s), `wind_direction`, `temperature` (°C): 3 days, 5 min."""
    frame = _read("rmis_weather_data.csv").rename(
        columns={
            "Global Horizontal": "irradiance",
            "Wind Speed": "wind_speed",
            "Wind Direction": "wind_direction",
            "Ambient Temperature": "temperature",
        }
    )
    frame = frame[["irradiance", "wind_speed", "wind_direction", "temperature"]]
    # at rest, an anemometer reads slightly below zero and a vane slightly left of north
    frame["wind_speed"] = frame["wind_speed"].clip(lower=0)
    frame["wind_direction"] = frame["wind_direction"].round(1) % 360
    # the fourth day misses values
    return Days(frame[: pd.Timestamp("2022-01-03 23:59")], every=5)


@cache
def light_days() -> Days:
    """Return global horizontal `irradiance`, W/m²: 1 day, 1 min."""
    frame = _read("midc_bms_ghi_20220120.csv")
    frame.columns = pd.Index(["irradiance"])
    return Days(frame, every=1)


def source(kind: Kind, number: int) -> Days:
    """Return the measured days that the element of this place in its fleet replays."""
    if kind == "panel":
        return power_days()
    if kind == "light" and number % 2 == 0:
        return light_days()
    return weather_days()


class Replay:
    """The measured values of a fleet's elements of one kind, at any time; `bridged` over what was missed shortly."""

    def __init__(self, fleet: Fleet, kind: Kind, *, bridged: bool = False) -> None:
        self.kind = kind
        self.owners: list[Client] = fleet.owners(kind)
        measured = [source(kind, number) for number in range(len(self.owners))]
        self.sources = [days.bridged() for days in measured] if bridged else measured
        self.every = np.array([days.every for days in self.sources])
        self.scale = np.array([panel.power_cap for panel in fleet.panels]) if kind == "panel" else None

    def at(self, times_ms: Times) -> dict[str, Floats]:
        """Return the values at full minutes, by field; shape (times, elements), NaN where not measured."""
        values = {name: np.full((len(times_ms), len(self.owners)), np.nan) for name in FIELDS[self.kind]}
        zones = {client.time_zone for client in self.owners}
        walls = {zone: times_ms + offsets_ms(times_ms, zone) for zone in zones}
        for number, (client, days) in enumerate(zip(self.owners, self.sources, strict=True)):
            day, within = np.divmod(walls[client.time_zone], DAY_MS)
            for name, column in values.items():
                column[:, number] = days.values[name][(day + number) % len(days), within // MINUTE_MS]
        if self.scale is not None:
            values["power"] *= self.scale
        return values


def replay(
    fleet: Fleet,
    until: datetime,
    days: int,
    seed: int = 0,
    *,
    truth: Truth | None = None,
    topics: tuple[Kind, ...] = KINDS,
    disorder: Disorder = USUAL,
) -> Iterator[Batch]:
    """Return the measured messages of the `days` before `until`, hour by hour, as they would arrive.

    Parameters
    ----------
    fleet
        Whose elements send them.
    until
        A full UTC hour; no event time is at or after it.
    days
        Length, in days of 24 hours.
    seed
        The same arguments give the same bytes.
    truth
        Is given the faults, and the counts as batches are handed out.
    topics
        Which topics to replay.
    disorder
        How much is sent twice, late, or broken.

    Raises
    ------
    ValueError
        `until` is no full hour, or days is below 1.
    """
    end_ms = int(until.timestamp() * 1000)
    if end_ms % HOUR_MS or days < 1:
        raise ValueError(f"a replay ends at a full UTC hour and lasts a day or more: {until}, {days} days")
    truth = truth if truth is not None else Truth()
    faults = [fault for fault in replay_faults(fleet, until, days) if fault.topic in topics]
    truth.faults += faults
    mixer = Mixer(disorder, seed, truth)
    parts = [(Replay(fleet, kind), Encoder(fleet, kind)) for kind in topics if fleet.elements(kind)]
    ids = {kind: fleet.ids(kind) for kind in topics}
    for hour_ms in range(end_ms - days * DAY_MS, end_ms, HOUR_MS):
        times = np.arange(hour_ms, hour_ms + HOUR_MS, MINUTE_MS)
        readings = []
        for part, encoder in parts:
            values = part.at(times)
            keep = ~np.isnan(values[FIELDS[part.kind][0]])
            for fault in faults:
                if fault.topic == part.kind:
                    number = ids[part.kind].index(fault.element_id)
                    inside = fault.covers(times)
                    if fault.kind == "dropped":
                        keep[inside, number] = False
                    elif fault.kind == "stuck" and inside.any():
                        first = part.at(np.array(fault.span_ms[:1]))
                        for name, column in values.items():
                            column[inside, number] = first[name][0, number]
            readings.append(encoder.encode(times, values, keep))
        yield mixer.mix(in_order(Batch.concat(readings)), hour_ms + HOUR_MS)
    yield mixer.mix(Batch.concat([]), None)


def in_order(readings: Batch) -> Batch:
    """Return readings by event time; those of one time stay in their order."""
    return readings.take(np.argsort(readings.event_ms, kind="stable"))


#: Faults of every replay: what happens to which element (its place), on the last daylight hours that fit.
_PLAYED: tuple[tuple[FaultKind, Kind, int], ...] = (
    ("dropped", "panel", 1),
    ("stuck", "panel", 3),
    ("dropped", "light", 1),
)
#: First local hours of a three-hour span of daylight, best first.
_DAYLIGHT_STARTS = (11, 10, 12, 9, 13)
_FAULT_HOURS = 3


def replay_faults(fleet: Fleet, until: datetime, days: int) -> list[Fault]:
    """Return the faults of a replay: two panels' and a light sensor's, 3 daylight hours each."""
    begin = until - timedelta(days=days)
    faults = []
    for kind, topic, number in _PLAYED:
        if number >= len(fleet.elements(topic)):
            continue
        start = _daylight(begin, until, fleet.owners(topic)[number].time_zone)
        end = start + timedelta(hours=_FAULT_HOURS)
        faults.append(Fault(kind, topic, fleet.ids(topic)[number], start, end))
    return faults


def _daylight(begin: datetime, until: datetime, zone: str) -> datetime:
    """Return the start of the last span of daylight hours that lies between two times."""
    last = pd.Timestamp(until).tz_convert(zone).normalize().tz_localize(None)
    candidates = [
        (last - pd.Timedelta(days=back) + pd.Timedelta(hours=hour)).tz_localize(zone).tz_convert("UTC")
        for back in (0, 1)
        for hour in _DAYLIGHT_STARTS
    ]
    fitting: list[Any] = [
        start for start in candidates if begin <= start and start + pd.Timedelta(hours=_FAULT_HOURS) <= until
    ]
    chosen: datetime = fitting[0].to_pydatetime()
    return chosen.astimezone(UTC)
