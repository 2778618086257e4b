"""An installer's advice, as people read it: text, a heat map in the terminal, and the same as a picture."""

from __future__ import annotations

import calendar
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfgen.orientation import AZIMUTHS, TILTS

Float64 = npt.NDArray[np.float64]

#: From a plane that catches a half of what the best does, or less, to the best.
_LEAST = 0.5
#: Above it the colours are pale enough for black letters.
_PALE = 0.7
_RAMP = np.array([(48, 18, 59), (62, 100, 220), (27, 190, 180), (160, 230, 60), (250, 186, 57), (190, 40, 10)])
_STEP_TILT, _STEP_AZIMUTH = 10, 20
_SCALE, _MARGIN = 6, 60


def show(told: dict[str, Any], surface: Float64, out: Console) -> None:
    """Print the advice for one sensor."""
    best, here = told["best"], told["here"]
    out.rule(f"{told['light_id']}  {told['latitude']:.4f}, {told['longitude']:.4f}")
    lines = [
        f"measured so far: {told['measured']:.0%} of a year's light"
        + ("" if told["measured"] > 0 else "; all that follows is what is usual at the latitude"),
        f"best: tilt {best['tilt']:.0f}°, azimuth {best['azimuth']:.0f}° ({best['gain_vs_horizontal']:+.1%} against "
        f"lying flat); in nine cases of ten it loses less than {best['confidence']:.2%} of the year",
        f"here: tilt {here['tilt']:g}°, azimuth {here['azimuth']:g}°, {here['costs']:.1%} less than the best",
        f"a year: {told['yearly_kwh_per_kwp']:,.0f} kWh per kWp, "
        "between {:,.0f} and {:,.0f} in nine cases of ten".format(*told["range_kwh_per_kwp"]),
    ]
    for line in lines:
        out.print(line, highlight=False)
    out.print(_months(told["monthly_kwh_per_kwp"]))
    out.print(_off(told["off"]))
    out.print(heat_map(surface))


def _months(monthly: list[float]) -> Table:
    table = Table("month", "kWh per kWp", "")
    for name, energy in zip(calendar.month_abbr[1:], monthly, strict=True):
        table.add_row(name, f"{energy:.0f}", "█" * round(30 * energy / max(monthly)))
    return table


def _off(rows: list[dict[str, float]]) -> Table:
    ways = ("flatter", "steeper", "anticlockwise", "clockwise")
    table = Table("off by", *ways, title="less than the best")
    for row in rows:
        table.add_row(f"{row['degrees']:.0f}°", *(f"{row[way]:.1%}" for way in ways))
    return table


def heat_map(surface: Float64) -> Text:
    """Return the energy of planes in % of the best one's, tilt down, azimuth across."""
    columns = range(0, len(AZIMUTHS), _STEP_AZIMUTH // 2)
    text = Text("tilt " + "".join(f"{AZIMUTHS[column]:>4.0f}" for column in columns) + "  azimuth, °\n")
    for row in range(0, len(TILTS), _STEP_TILT):
        text.append(f"{TILTS[row]:>3.0f}° ")
        for column in columns:
            share = surface[row, column]
            red, green, blue = _colours(share)
            ink = "black" if share > _PALE else "white"
            text.append(f"{100 * share:>4.0f}", f"{ink} on rgb({red},{green},{blue})")
        text.append("\n")
    text.append("% of the best plane's energy")
    return text


def picture(surface: Float64, told: dict[str, Any], path: Path) -> None:
    """Write the heat map as a picture, tilt upwards, azimuth to the right.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    from PIL import Image, ImageDraw

    pixels = _colours(surface[::-1]).astype(np.uint8)
    width, height = len(AZIMUTHS) * _SCALE, len(TILTS) * _SCALE
    whole = Image.new("RGB", (width + 2 * _MARGIN, height + 2 * _MARGIN), "white")
    whole.paste(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR), (_MARGIN, _MARGIN))
    draw = ImageDraw.Draw(whole)
    for azimuth in range(0, 361, 45):
        x = _MARGIN + azimuth / 2 * _SCALE
        draw.text((x, _MARGIN + height + 8), f"{azimuth}°", fill="black", anchor="ma")
    for tilt in range(0, 91, 15):
        draw.text((_MARGIN - 8, _MARGIN + height - (tilt + 0.5) * _SCALE), f"{tilt}°", fill="black", anchor="rm")
    for share in (0.95, 0.9, 0.8, 0.7, 0.6):
        _contour(draw, surface, share, height)
    for plane, name in ((told["best"], "best"), (told["here"], "here")):
        x, y = _MARGIN + plane["azimuth"] / 2 * _SCALE, _MARGIN + height - (plane["tilt"] + 0.5) * _SCALE
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), outline="black", width=2)
        if name == "best" or told["here"]["costs"] > 0:
            draw.text((x + 8, y), name, fill="black", anchor="lm")
    title = f"{told['light_id']}: a year's energy, lines at 95, 90, 80, 70 and 60 % of the best plane's"
    draw.text((_MARGIN, _MARGIN / 2), title, fill="black", anchor="lm")
    axes = "azimuth, clockwise from north; tilt upwards"
    draw.text((_MARGIN + width / 2, height + _MARGIN + 35), axes, fill="black", anchor="mm")
    whole.save(path, "PNG")


def _contour(draw: Any, surface: Float64, share: float, height: int) -> None:
    """Mark the borders between planes that catch a share of the best one's energy and those that do not."""
    inside = surface >= share
    for row, column in np.argwhere(inside[:, 1:] != inside[:, :-1]):
        x, y = _MARGIN + (column + 1) * _SCALE, _MARGIN + height - (row + 1) * _SCALE
        draw.line((x, y, x, y + _SCALE), fill="black")
    for row, column in np.argwhere(inside[1:] != inside[:-1]):
        x, y = _MARGIN + column * _SCALE, _MARGIN + height - (row + 1) * _SCALE
        draw.line((x, y, x + _SCALE, y), fill="black")


def _colours(share: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return red, green and blue, (..., 3), of shares of the best."""
    place = (np.clip(np.asarray(share, np.float64), _LEAST, 1.0) - _LEAST) / (1 - _LEAST)
    at = np.linspace(0, 1, len(_RAMP))
    return np.stack([np.interp(place, at, _RAMP[:, colour]) for colour in range(3)], axis=-1).round().astype(np.int64)
