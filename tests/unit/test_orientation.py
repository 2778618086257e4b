"""Where to point panels, from global light alone: what the choice loses against measured beam and diffuse light."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.light import Oracle
from selfgen import orientation
from selfgen.columns import LIGHT_SUMS
from selfgen.solar import HOUR_MS
from tests.unit.test_solar import YEARS, Year, from_beam_and_diffuse, load


@pytest.fixture(scope="module", params=YEARS)
def year(request: pytest.FixtureRequest) -> Year:
    return load(request.param)


def test_what_the_choice_loses_after_a_month_three_and_a_year(year: Year) -> None:
    most = Oracle(year).greatest()
    parts = orientation.contributions(year.starts, year.starts + HOUR_MS, year.ghi, year.latitude, year.longitude)
    inside = []

    def lost(first_day: int, days: int) -> float:
        hours = (np.arange(days * 24) + first_day * 24) % 8760
        sums = orientation.summed(year.starts[hours], parts[hours])
        chosen = orientation.best(sums, year.latitude, year.longitude)
        loss = 1 - from_beam_and_diffuse(year, float(chosen.tilt), float(chosen.azimuth)).sum() / most
        inside.append(loss <= chosen.confidence)
        return float(loss)

    assert lost(0, 365) <= 0.0005
    month = [lost(day, 30) for day in range(0, 365, 61)]
    assert np.median(month) <= 0.002
    assert max(month) <= 0.01
    assert max(lost(day, 90) for day in range(0, 365, 91)) <= 0.005
    assert np.mean(inside) >= 0.85


def test_the_choice_catches_what_the_surface_has_at_its_top_and_the_bound_shrinks(year: Year) -> None:
    parts = orientation.contributions(year.starts, year.starts + HOUR_MS, year.ghi, year.latitude, year.longitude)
    bounds = []
    for days in (0, 10, 40, 150, 365):
        hours = np.arange(days * 24)
        sums = orientation.summed(year.starts[hours], parts[hours])
        best = orientation.best(sums, year.latitude, year.longitude)
        planes = orientation.surface(orientation.expected_year(sums, year.latitude, year.longitude).light)
        tilt = planes.max(axis=1).argmax()
        here = planes[int(best.tilt), round(float(best.azimuth) / 2) % len(orientation.AZIMUTHS)]
        assert here >= planes.max() * (1 - 1e-4)
        assert best.tilt == pytest.approx(orientation.TILTS[tilt], abs=1)
        assert best.gain_vs_horizontal == pytest.approx(here / planes[0, 0] - 1, abs=2e-4)
        bounds.append(float(best.confidence))
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] < 0.02
    assert bounds[-1] < 0.001


def test_many_sensors_at_once_are_as_each_alone() -> None:
    places = [(40.4, -3.7), (-33.9, 151.2), (0.1, 10.0), (69.6, 18.9), (27.7, 85.3)]
    parts = [orientation.contributions(STARTS, STARTS + HOUR_MS, GHI, *place) for place in places]
    shares = np.array([1.0, 0.5, 0.0, 1.0, 2.0])[:, np.newaxis, np.newaxis, np.newaxis]
    sums = np.stack([orientation.summed(STARTS, part) for part in parts]) * shares
    latitude, longitude = np.array(places).T
    together = orientation.best(sums, latitude, longitude)
    for row, place in enumerate(places):
        np.testing.assert_allclose(orientation.best(sums[row], *place), [each[row] for each in together], rtol=1e-6)
    starts = np.repeat(STARTS[:50], 5)
    given = starts, starts + HOUR_MS, np.repeat(GHI[:50], 5), np.tile(latitude, 50), np.tile(longitude, 50)
    at_once = orientation.contributions(*given)
    alone = parts[1][:50]
    np.testing.assert_allclose(at_once[1::5], alone)


@pytest.mark.parametrize(("latitude", "towards"), [(51.5, 180), (-33.9, 0), (69.6, 180)])
def test_without_any_measurement_it_faces_the_equator(latitude: float, towards: float) -> None:
    none = np.zeros((12, 24, len(LIGHT_SUMS)))
    best = orientation.best(none, latitude, 0.0)
    assert abs((best.azimuth - towards + 180) % 360 - 180) <= 2
    assert abs(latitude) - 35 < best.tilt < abs(latitude)
    assert orientation.best(none, 0.0, 0.0).tilt <= 4


START = 1_767_225_600_000  # 2026-01-01
STARTS = START + np.arange(24 * 40) * HOUR_MS
GHI = np.random.default_rng(1).uniform(-5, 900, len(STARTS))
PARTS = orientation.contributions(STARTS, STARTS + HOUR_MS, GHI, 40.4, -3.7)


@pytest.mark.parametrize(("latitude", "longitude"), [(40.0, 180.0), (40.0, -180.0), (90.0, 10.0), (-90.0, 180.0)])
def test_the_edges_of_the_map_are_places_too(latitude: float, longitude: float) -> None:
    none = np.zeros((12, 24, len(LIGHT_SUMS)))
    beside, found = (orientation.best(none, latitude * near, longitude * near) for near in (0.9999, 1.0))
    np.testing.assert_allclose(found.tilt, beside.tilt, atol=2)
    hours = np.arange(24) * HOUR_MS
    assert np.isfinite(orientation.contributions(hours, hours + HOUR_MS, np.full(24, 100.0), latitude, longitude)).all()


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.lists(st.integers(0, len(STARTS) - 1), max_size=20))
def test_hours_add_up_in_any_order_and_computed_again(random: object, again: list[int]) -> None:
    order = list(range(len(STARTS)))
    random.shuffle(order)  # type: ignore[attr-defined]
    total = sum(orientation.summed(STARTS[piece], PARTS[piece]) for piece in np.array_split(order, 7))
    for hour in again:  # taken out, and put back
        total = total - orientation.summed(STARTS[[hour]], PARTS[[hour]])
        total = total + orientation.summed(STARTS[[hour]], PARTS[[hour]])
    whole = orientation.summed(STARTS, PARTS)
    np.testing.assert_allclose(total, whole, atol=1e-6)
    np.testing.assert_allclose(
        orientation.surface(orientation.expected_year(total, 40.4, -3.7).light),
        orientation.surface(orientation.expected_year(whole, 40.4, -3.7).light),
        rtol=1e-9,
    )


def test_gaps_count_neither_as_light_nor_as_clear_sky() -> None:
    ghi = np.full(len(STARTS), 300.0)
    ghi[5::7] = np.nan
    parts = orientation.contributions(STARTS, STARTS + HOUR_MS, ghi, 40.4, -3.7)
    assert (parts[5::7] == 0).all()
    assert parts[:, 4].sum() > 0


def test_night_and_nothing_add_nothing() -> None:
    night = STARTS[:3]
    assert not orientation.contributions(night, night + HOUR_MS, [0.0, 5.0, np.nan], 40.4, -3.7).any()
    assert orientation.contributions([], [], [], [], []).shape == (0, len(LIGHT_SUMS))
    noon = STARTS[12]
    assert not orientation.contributions(noon, noon + HOUR_MS, 500.0, np.nan, -3.7).any()
    assert not orientation.contributions(noon, noon + HOUR_MS, 100.0, 40.4, -3.7, completeness=0.2).any()
    half = orientation.contributions(noon, noon + HOUR_MS, 250.0, 40.4, -3.7, completeness=0.5)
    np.testing.assert_allclose(half * 2, orientation.contributions(noon, noon + HOUR_MS, 500.0, 40.4, -3.7))
