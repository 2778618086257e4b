"""What an installer is told of a roof, against what pvlib makes of the measured light of typical years."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from selfgen import orientation
from selfgen.advice import Roof, advise, roof
from selfgen.cli.advised import picture, show
from selfgen.solar import HOUR_MS, ac_power
from tests.unit.test_solar import from_beam_and_diffuse, load

YEAR = load("723170TYA.CSV")
PLACE = (YEAR.latitude, YEAR.longitude)
PARTS = orientation.contributions(YEAR.starts, YEAR.starts + HOUR_MS, YEAR.ghi, *PLACE)


def measured(days: int) -> np.ndarray:
    return orientation.summed(YEAR.starts[: days * 24], PARTS[: days * 24])


@pytest.mark.parametrize(("days", "within"), [(365, 0.04), (60, 0.15)])
def test_the_year_s_energy_is_pvlib_s_from_measured_beam_diffuse_and_temperature(days: int, within: float) -> None:
    told = advise(measured(days), *PLACE, Roof()).told
    plane = from_beam_and_diffuse(YEAR, told["here"]["tilt"], told["here"]["azimuth"])
    energy = ac_power(plane, YEAR.temperature, np.ones(8760))
    assert told["yearly_kwh_per_kwp"] == pytest.approx(energy.sum(), rel=within)
    low, high = told["range_kwh_per_kwp"]
    assert low < energy.sum() < high
    month = np.minimum((YEAR.starts - YEAR.starts[0]) / HOUR_MS / 730.5, 11).astype(int)
    assert told["monthly_kwh_per_kwp"] == pytest.approx(np.bincount(month, energy), rel=4 * within)
    assert sum(told["monthly_kwh_per_kwp"]) == pytest.approx(told["yearly_kwh_per_kwp"])


def test_a_roof_that_allows_the_best_plane_costs_nothing_and_others_what_the_light_says() -> None:
    sums = measured(365)
    free = advise(sums, *PLACE, Roof()).told
    assert free["here"]["costs"] == pytest.approx(0, abs=1e-12)
    assert advise(sums, *PLACE, roof("0-60", "90-270")).told == free
    assert advise(sums, *PLACE, roof("0-60", "170-10")).told == free  # past north
    for tilt, azimuth in (("10", "270"), ("90", "0"), ("37.5", "133")):
        told = advise(sums, *PLACE, roof(tilt, azimuth)).told["here"]
        assert (told["tilt"], told["azimuth"]) == (float(tilt), float(azimuth))
        lost = 1 - from_beam_and_diffuse(YEAR, float(tilt), float(azimuth)).sum() / most()
        assert told["costs"] == pytest.approx(lost, abs=0.012)
    west = advise(sums, *PLACE, roof(None, "240-330")).told["here"]
    assert west["azimuth"] == 240
    assert 5 < west["tilt"] < free["best"]["tilt"]
    steep = advise(sums, *PLACE, roof("50-70", "300-220")).told["here"]
    assert (steep["tilt"], steep["azimuth"]) == (50, free["best"]["azimuth"])


def most() -> float:
    best = orientation.best(measured(365), *PLACE)
    return float(from_beam_and_diffuse(YEAR, float(best.tilt), float(best.azimuth)).sum())


def test_being_off_by_twice_the_angle_costs_about_four_times() -> None:
    [ten, twenty] = advise(measured(365), *PLACE, Roof()).told["off"]
    for way in ("flatter", "steeper", "anticlockwise", "clockwise"):
        assert 0.001 < ten[way] < 0.03
        assert twenty[way] == pytest.approx(4 * ten[way], rel=0.35)


@pytest.mark.parametrize(
    ("tilt", "azimuth", "said"),
    [
        ("steep", None, "steep is no tilt: write degrees"),
        ("-5", None, "-5 is no tilt"),
        ("95", None, "95° is out of range: it is 0 to 90°"),
        ("40-20", None, "ends before it begins"),
        (None, "south", "south is no azimuth"),
        (None, "361", "out of range: it is 0 to 360°"),
    ],
)
def test_what_is_no_roof_is_said(tilt: str | None, azimuth: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        roof(tilt, azimuth)


def test_it_is_shown_and_drawn(tmp_path: Path) -> None:
    found = advise(np.zeros((12, 24, 6)), 51.5, -0.1, roof("30", "270"))
    told = {"light_id": "l1", "latitude": 51.5, "longitude": -0.1, **found.told}
    text = io.StringIO()
    show(told, found.surface, Console(file=text, width=120))
    lines = text.getvalue()
    assert "here: tilt 30°, azimuth 270°" in lines
    assert "measured so far: 0% of a year's light; all that follows is what is usual" in lines
    assert f"{told['yearly_kwh_per_kwp']:,.0f} kWh per kWp" in lines
    assert " 100" in lines[lines.index("tilt ") :]
    picture(found.surface, told, tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as drawn:
        assert drawn.format == "PNG"
        south, north = drawn.getpixel((60 + 90 * 6, 60 + 40 * 6)), drawn.getpixel((60 + 2, 60 + 2))
    assert south != north
