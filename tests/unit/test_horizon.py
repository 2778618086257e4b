"""What hides the sun: against pvlib from measured beam and diffuse light, minute by minute."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pvlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfgen import horizon, orientation
from selfgen.advice import Roof, advise
from selfgen.registry import LightSensor, problems
from selfgen.solar import ALBEDO, HOUR_MS, ac_power, plane_irradiance, producible, usual_temperature
from tests.unit.test_solar import load

YEAR = load("723170TYA.CSV")
PLACE = YEAR.latitude, YEAR.longitude
#: A hill in the south-east that takes the morning, a house in the south-west.
HILL: horizon.Profile = (
    (0.0, 0.0),
    (60.0, 5.0),
    (90.0, 35.0),
    (150.0, 40.0),
    (165.0, 0.0),
    (220.0, 0.0),
    (250.0, 15.0),
)


@cache
def behind(profile: horizon.Profile) -> np.ndarray:
    """Return the share of each hour of the year in which the sun is behind a profile, by pvlib, each 4 min."""
    moments = (YEAR.starts[:, np.newaxis] + (np.arange(15) + 0.5) * HOUR_MS / 15).ravel()
    found = pvlib.solarposition.ephemeris(pd.to_datetime(moments, unit="ms", utc=True), *PLACE)
    azimuth, elevation = found["azimuth"].to_numpy(), found["elevation"].to_numpy()
    limit = np.full(len(azimuth), np.nan)
    ring = [*profile, (profile[0][0] + 360, profile[0][1])]
    for (first, low), (last, high) in pairwise(ring):
        for turn in (0, 360):
            here = (azimuth + turn >= first) & (azimuth + turn <= last)
            limit[here] = low + (high - low) * (azimuth[here] + turn - first) / (last - first)
    return (elevation < limit).reshape(-1, 15).mean(axis=1)


def seen(profile: horizon.Profile) -> tuple[np.ndarray, np.ndarray]:
    """Return the beam, and what a horizontal sensor sees, where a horizon hides the sun."""
    zenith = pvlib.solarposition.ephemeris(pd.to_datetime(YEAR.starts + HOUR_MS / 2, unit="ms", utc=True), *PLACE)
    beam = YEAR.dni * (1 - behind(profile))
    lost = (YEAR.dni - beam) * np.clip(np.cos(np.radians(zenith["zenith"].to_numpy())), 0, None)
    return beam, np.clip(YEAR.ghi - lost, 0.0, None)


def oracle(profile: horizon.Profile, tilt: float, azimuth: float) -> np.ndarray:
    """Return the irradiance on a plane by pvlib, hour by hour."""
    times = pd.to_datetime(YEAR.starts + HOUR_MS / 2, unit="ms", utc=True)
    sun = pvlib.solarposition.ephemeris(times, *PLACE)
    beam, horizontal = seen(profile)
    return np.nan_to_num(
        pvlib.irradiance.get_total_irradiance(
            tilt,
            azimuth,
            sun["zenith"].to_numpy(),
            sun["azimuth"].to_numpy(),
            beam,
            horizontal,
            YEAR.dhi,
            dni_extra=pvlib.irradiance.get_extra_radiation(times).to_numpy(),
            model="haydavies",
            albedo=ALBEDO,
        )["poa_global"]
    )


def sums_of(profile: horizon.Profile, told: horizon.Profile, hours: np.ndarray) -> np.ndarray:
    _, light = seen(profile)
    given = YEAR.starts[hours], YEAR.starts[hours] + HOUR_MS, light[hours], *PLACE
    parts = orientation.contributions(*given, horizons=[told] * len(hours))
    return orientation.summed(YEAR.starts[hours], parts)


@pytest.mark.parametrize(("tilt", "azimuth"), [(30, 180), (20, 240), (45, 120)])
def test_the_year_on_a_plane_is_that_of_pvlib_from_beam_and_diffuse_light(tilt: int, azimuth: int) -> None:
    _, light = seen(HILL)
    ours = plane_irradiance(YEAR.starts, YEAR.starts + HOUR_MS, light, *PLACE, tilt, azimuth, [HILL] * 8760)
    theirs = oracle(HILL, tilt, azimuth)
    assert ours.sum() == pytest.approx(theirs.sum(), rel=0.02)
    # hours with the sun behind the hill are diffuse light alone
    hidden = (behind(HILL) == 1) & (YEAR.ghi > 100)
    assert hidden.sum() > 300
    assert ours[hidden].sum() == pytest.approx(theirs[hidden].sum(), rel=0.03)
    free = plane_irradiance(YEAR.starts, YEAR.starts + HOUR_MS, light, *PLACE, tilt, azimuth)
    assert abs(free[hidden].sum() / theirs[hidden].sum() - 1) > abs(ours[hidden].sum() / theirs[hidden].sum() - 1)
    energy = producible(
        YEAR.starts, YEAR.starts + HOUR_MS, light, *PLACE, tilt, azimuth, 1000.0, horizons=[HILL] * 8760
    )
    power = ac_power(theirs, usual_temperature(np.full(8760, PLACE[0])), np.full(8760, 1000.0))
    assert energy.sum() == pytest.approx(power.sum(), rel=0.02)


def test_the_best_plane_turns_away_from_what_hides_the_sun() -> None:
    most = max(oracle(HILL, tilt, turn).sum() for tilt in range(10, 46, 5) for turn in range(170, 251, 10))

    def lost(told: horizon.Profile, hours: np.ndarray) -> float:
        best = orientation.best(sums_of(HILL, told, hours), *PLACE, [told])
        return float(1 - oracle(HILL, float(best.tilt), float(best.azimuth)).sum() / most)

    assert lost(HILL, np.arange(8760)) <= 0.002
    # after a month in which the sun was seldom seen before noon, the other months' mornings are known to be so too
    known, unknown = zip(
        *((lost(HILL, np.arange(720) + start), lost((), np.arange(720) + start)) for start in range(0, 8000, 1460)),
        strict=True,
    )
    assert np.mean(known) < 0.5 * np.mean(unknown)
    assert max(known) <= 0.01
    best = orientation.best(sums_of(HILL, HILL, np.arange(8760)), *PLACE, [HILL])
    assert 190 < best.azimuth < 250
    told = advise(sums_of(HILL, HILL, np.arange(8760)), *PLACE, Roof(), HILL).told
    assert told["best"]["azimuth"] == best.azimuth


@given(st.lists(st.tuples(st.integers(0, 359), st.floats(0, 90)), min_size=1, max_size=12, unique_by=lambda p: p[0]))
def test_the_horizon_goes_straight_between_its_pairs_and_past_north(pairs: list[tuple[int, float]]) -> None:
    profile = horizon.checked([list(pair) for pair in pairs])
    for azimuth, elevation in profile:
        for off, expected in ((0.01, True), (-0.01, False)):
            assert horizon.in_sight([90 - elevation - off], [azimuth], [profile]) == [expected]
    assert horizon.in_sight([80.0], [17.0], [()]) == [True]
    north = np.interp(0.0, [pair[0] for pair in profile], [pair[1] for pair in profile], period=360)
    assert horizon.in_sight([90 - north - 1e-6] * 2, [0.0, 360.0], [profile] * 2).tolist() == [True, True]


def test_many_sensors_at_once_are_as_each_alone() -> None:
    hours = np.arange(1000)
    horizons: list[horizon.Profile] = [HILL, (), HILL, ((0.0, 30.0),)]
    sums = np.stack([sums_of(told, told, hours) if told else sums_of(((0.0, 0.0),), (), hours) for told in horizons])
    latitude, longitude = np.full(4, PLACE[0]), np.array([PLACE[1], PLACE[1], PLACE[1] + 3, PLACE[1]])
    together = orientation.best(sums, latitude, longitude, horizons)
    for row, told in enumerate(horizons):
        alone = orientation.best(sums[row], latitude[row], longitude[row], [told])
        np.testing.assert_allclose([each[row] for each in together], alone, rtol=1e-6)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["90"], "90 is no azimuth:elevation pair: write degrees, such as 180:12.5"),
        (["south:10"], "south:10 is no azimuth:elevation pair"),
        (["360:10"], "azimuth is 0 to below 360 degrees clockwise from north, not 360"),
        (["90:95"], "elevation is 0 to 90 degrees, not 95"),
        (["90:nan"], "elevation is 0 to 90 degrees, not nan"),
        (["90:5", "90:6"], "has several at 90"),
    ],
)
def test_what_is_no_horizon_is_said(pairs: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        horizon.typed(pairs)


@pytest.mark.parametrize("value", ["90:5", [90, 5], [[90]], [[90, "x"]], {"90": 5}, [[0, 1]] * 2, [[-1, 2]], None])
def test_the_registry_refuses_what_is_no_horizon(value: Any) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    sensor = LightSensor(light_id="L", power_cap=1.0, variable_data={"horizon": value})
    [found] = problems(sensor, now)
    assert found.field == "variable_data"
    assert "horizon" in found.sentence
    assert not problems(LightSensor(light_id="L", power_cap=1.0, variable_data={"horizon": [[90, 5]]}), now)
    assert horizon.of(json.dumps({"horizon": value})) == ()  # what came there otherwise hides nothing


def test_a_horizon_is_read_from_a_sensor_s_data() -> None:
    assert horizon.of('{"horizon": [[180, 3], [90, 12.5]], "alarms": {}}') == ((90.0, 12.5), (180.0, 3.0))
    for text in (None, "", "{}", '"horizon"', "horizon", '{"horizons": 1}'):
        assert horizon.of(text) == ()
    assert horizon.profiles(["{}", None, float("nan")]) == [(), (), ()]
