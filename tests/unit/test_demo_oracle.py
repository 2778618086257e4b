"""The demonstration's independent computation, checked by hand-made cases; it must stay independent of the system."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from selfgen.demo import oracle
from selfgen.simulation.batch import Message

NOON = pd.Timestamp("2026-06-01T12:00Z")


def power(*samples: tuple[float, float]) -> pd.Series:
    """Return a series of (minutes after noon, W)."""
    return pd.Series([watts for _, watts in samples], index=[NOON + pd.Timedelta(minutes=m) for m, _ in samples])


def test_constant_power_is_its_energy():
    every_minute = power(*((minute, 600.0) for minute in range(121)))
    energy = oracle.hourly_energy(every_minute, "UTC")
    assert energy[NOON] == pytest.approx(600)
    assert energy[NOON + pd.Timedelta(hours=1)] == pytest.approx(600)


def test_a_gap_over_five_minutes_counts_nothing_and_five_minutes_count():
    energy = oracle.hourly_energy(power((0, 120.0), (5, 120.0), (11, 120.0), (12, 120.0)), "UTC")
    assert energy.sum() == pytest.approx(120 * 6 / 60)


def test_a_ramp_over_a_border_is_split_by_its_line():
    energy = oracle.hourly_energy(power((58, 0.0), (62, 240.0)), "UTC")
    assert energy[NOON] == pytest.approx(120 / 2 * 2 / 60)
    assert energy[NOON + pd.Timedelta(hours=1)] == pytest.approx((120 + 240) / 2 * 2 / 60)


def test_night_power_below_zero_counts_zero():
    assert oracle.hourly_energy(power((0, -3.0), (1, -3.0)), "UTC").sum() == 0


def test_hours_are_those_of_the_clock():
    every_minute = power(*((minute, 60.0) for minute in range(61)))
    energy = oracle.hourly_energy(every_minute, "Asia/Kathmandu")
    assert energy[NOON + pd.Timedelta(minutes=15)] == pytest.approx(45)
    assert energy[NOON - pd.Timedelta(minutes=45)] == pytest.approx(15)


def test_a_missing_row_counts_whole():
    row = {"panel_id": "p", "start": NOON, "energy": 5.0}
    assert oracle.energy_difference(pd.DataFrame([row]), pd.DataFrame([row])) == 0
    assert oracle.energy_difference(pd.DataFrame([row])[:0], pd.DataFrame([row])) == 5


def message(ms: int, outcome: str = "landed", key: bytes = b"w1") -> Message:
    return Message("wind", key, json.dumps({"wind_speed": 1}).encode(), ms, outcome)


def test_wind_counts_only_seconds_that_every_sensor_left_behind():
    messages = [message(ms) for ms in range(0, 10_000, 500)]
    messages += [message(ms, key=b"w2") for ms in range(0, 6_000, 500)]
    messages += [message(0, "duplicate"), message(1, "malformed_json")]
    assert oracle.wind_readings(messages, 2000) == (3 * 2 * 2, 3000)
    assert oracle.wind_readings([], 2000) == (0, 0)
