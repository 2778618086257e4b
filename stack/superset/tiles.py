"""Map tiles that need no internet: land and provinces, drawn from the outlines that Superset's country maps come with.

`/selfgen/tiles/{z}/{x}/{y}.png`, 256 pixels, web Mercator. Runs in Superset's environment.
"""

from __future__ import annotations

import json
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from flask import Blueprint, Response, abort
from PIL import Image, ImageDraw

import superset

OUTLINES = Path(superset.__file__).parent / "static" / "assets"
SEA, LAND, BORDER = "#e8eef2", "#ffffff", "#b8c4cc"
SIZE = 256
#: Drawn so many times larger, then shrunk: smooth lines.
SCALE = 2
DEEPEST = 12
#: Borders of provinces are drawn from here on: further out they would cover the land.
NEAR = 3
DAY_S = 86_400
_READING = Lock()

blueprint = Blueprint("selfgen_tiles", __name__)


class Outlines(NamedTuple):
    """Rings of all land, their points one after another in the unit square of web Mercator."""

    points: np.ndarray  # (points, 2)
    starts: np.ndarray  # (rings,) index of each ring's first point
    boxes: np.ndarray  # (rings, 4) left, top, right, bottom


def outlines() -> Outlines:
    """Return the outlines of all countries; of the many tiles that a first map asks for at once, one reads them."""
    with _READING:
        return _read()


@lru_cache(maxsize=1)
def _read() -> Outlines:
    """Read 200 files, 2 s."""
    rings = []
    for path in sorted(OUTLINES.glob("*.geojson")):
        for feature in json.loads(path.read_text())["features"]:
            shape = feature["geometry"] or {"type": "Polygon", "coordinates": []}
            polygons = shape["coordinates"] if shape["type"] == "MultiPolygon" else [shape["coordinates"]]
            rings += [mercator(np.array(ring)[:, :2]) for polygon in polygons for ring in polygon[:1]]
    starts = np.cumsum([0, *map(len, rings)])
    boxes = np.array([[*ring.min(axis=0), *ring.max(axis=0)] for ring in rings])
    return Outlines(np.concatenate(rings).astype(np.float32), starts, boxes)


def mercator(degrees: np.ndarray) -> np.ndarray:
    """Return places (longitude, latitude) in the unit square, x to the east, y to the south."""
    longitude, latitude = degrees[:, 0], np.radians(degrees[:, 1].clip(-85.05, 85.05))
    return np.column_stack([(longitude + 180) / 360, (1 - np.arcsinh(np.tan(latitude)) / np.pi) / 2])


@lru_cache(maxsize=1000)
def draw(z: int, x: int, y: int) -> bytes:
    """Return a tile as PNG."""
    land = outlines()
    side = SIZE * SCALE
    image = Image.new("RGB", (side, side), SEA)
    pen = ImageDraw.Draw(image)
    left, top, width = x / 2**z, y / 2**z, 1 / 2**z
    boxes = land.boxes
    seen = (boxes[:, 0] < left + width) & (boxes[:, 2] > left) & (boxes[:, 1] < top + width) & (boxes[:, 3] > top)
    for ring in np.flatnonzero(seen):
        points = (land.points[land.starts[ring] : land.starts[ring + 1]] - (left, top)) * (side / width)
        whole = points.round().astype(int)
        kept = whole[np.append(True, (np.diff(whole, axis=0) != 0).any(axis=1))]
        if len(kept) > 2:
            pen.polygon(kept.ravel().tolist(), fill=LAND, outline=BORDER if z >= NEAR else LAND)
    file = BytesIO()
    image.resize((SIZE, SIZE), Image.Resampling.LANCZOS).save(file, "PNG")
    return file.getvalue()


@blueprint.get("/selfgen/tiles/<int:z>/<int:x>/<int:y>.png")
def tile(z: int, x: int, y: int) -> Response:
    """Answer with a tile; it shows nothing of anybody, so it asks for no login."""
    if z > DEEPEST or max(x, y) >= 2**z:
        abort(404)
    return Response(draw(z, x, y), mimetype="image/png", headers={"Cache-Control": f"public, max-age={DAY_S}"})
