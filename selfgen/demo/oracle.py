"""What the reports must say, computed from the produced messages with plain pandas and none of the system's code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from selfgen.simulation.batch import Message

MAX_GAP_S = 300.0


def series(messages: Iterable[Message], topic: str, field: str) -> dict[str, pd.Series]:
    """Return each element's readings of a field, by event time (UTC), of the messages that count."""
    found: dict[str, dict[int, float]] = {}
    for message in messages:
        if message.topic == topic and message.outcome == "landed":
            value = json.loads(message.value)[field]
            found.setdefault(message.key.decode(), {})[message.event_ms] = float(value)
    return {
        element: pd.Series(values.values(), index=pd.to_datetime(list(values), unit="ms", utc=True)).sort_index()
        for element, values in found.items()
    }


def local_hours(zone: str, start: pd.Timestamp, end: pd.Timestamp) -> pd.DatetimeIndex:
    """Return the instants of `[start, end]` at which a clock of `zone` shows a full hour or its day begins."""
    quarters: pd.DatetimeIndex = pd.date_range(start.floor("15min"), end.ceil("15min"), freq="15min")
    clock = quarters.tz_convert(zone)
    begins = clock.date != (quarters - pd.Timedelta("1ms")).tz_convert(zone).date
    return pd.DatetimeIndex(quarters[(clock.minute == 0) | begins])


def hourly_energy(power: pd.Series, zone: str) -> pd.Series:
    """Return energy (Wh) by local hour: the trapezoid rule between readings at most `MAX_GAP_S` apart."""
    power = power.clip(lower=0)
    times = pd.DatetimeIndex(power.index)
    borders = local_hours(zone, times[0] - pd.Timedelta("2h"), times[-1] + pd.Timedelta("2h"))
    every = pd.DatetimeIndex(times.union(borders))
    seconds = every.as_unit("ns").asi8 / 1e9
    known = times.as_unit("ns").asi8 / 1e9
    watts = np.interp(seconds, known, power.to_numpy())
    pieces = (watts[1:] + watts[:-1]) / 2 * np.diff(seconds) / 3600
    before = np.searchsorted(known, seconds[:-1], side="right") - 1
    inside = (before >= 0) & (before < len(known) - 1)
    gap = np.where(inside, known[np.minimum(before + 1, len(known) - 1)] - known[np.maximum(before, 0)], np.inf)
    slot = borders[np.searchsorted(borders, every[:-1], side="right") - 1]
    return pd.Series(np.where(gap <= MAX_GAP_S, pieces, 0.0), index=slot).groupby(level=0).sum()


def panel_energy(messages: Iterable[Message], zones: Mapping[str, str]) -> pd.DataFrame:
    """Return panel_id, start (UTC), energy (Wh) of every local hour of every panel."""
    parts = [
        hourly_energy(power, zones[panel]).rename("energy").rename_axis("start").reset_index().assign(panel_id=panel)
        for panel, power in series(messages, "panel", "power").items()
    ]
    return pd.concat(parts, ignore_index=True)


def energy_difference(reported: pd.DataFrame, computed: pd.DataFrame) -> float:
    """Return the sum of absolute differences, Wh; a row that only one side has counts whole.

    Parameters
    ----------
    reported, computed : DataFrame
        `panel_id`, `start` (UTC), `energy` (Wh).
    """
    both = reported.merge(computed, on=["panel_id", "start"], how="outer", suffixes=("_reported", "_computed"))
    difference = both["energy_reported"].fillna(0) - both["energy_computed"].fillna(0)
    return float(difference.abs().sum())


def wind_readings(messages: Iterable[Message], delay_ms: int) -> tuple[int, int]:
    """Return how many distinct wind readings are in the seconds that every sensor has left behind, and up to when.

    A second is left behind once each sensor has sent something `delay_ms` after its end.
    """
    by_sensor: dict[bytes, set[int]] = {}
    for message in messages:
        if message.topic == "wind" and message.outcome == "landed":
            by_sensor.setdefault(message.key, set()).add(message.event_ms)
    if not by_sensor:
        return 0, 0
    until = (min(max(times) for times in by_sensor.values()) - delay_ms - 1) // 1000 * 1000
    return sum(time < until for times in by_sensor.values() for time in times), until
