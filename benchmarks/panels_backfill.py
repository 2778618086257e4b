"""A backfill of panels, from the lake to Druid, against Druid's own ingestion of the same rows ready-made.

A thousand panels' hourly slots lie in the lake. Their reports and alarms are made (that alone), then Druid takes in
these files (that alone), then both as `selfgen panels run` does it: Druid takes in a part while the next is made. Half
of the time span again shows how it grows.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import requests

from benchmarks.form import Figure
from benchmarks.servers import own_stack
from flink_jobs import runner, write_panel
from flink_jobs.incidents import PANELS as FOLLOWED
from flink_jobs.reports import Loading, Staged, load
from flink_jobs.rich_panel import OF_PANELS
from flink_jobs.slots import PANEL, SLOT, hours_between, milliseconds, schema, with_calendar
from selfgen import lake, running_sums
from selfgen.calendar import HOUR_MS
from selfgen.clients import druid
from selfgen.columns import ENRICHMENT
from selfgen.settings import Settings
from selfgen.solar import sun

#: A year: 8.76 million rows.
PANELS, DAYS = 1000, 365
START = datetime(2026, 1, 1, tzinfo=UTC)
SERVERS = ("mongodb", "couchbase", "druid", "flink")
#: Clients, ten panels each, and what is the same of all.
PLACE = {"latitude": 40.4, "longitude": -3.7, "time_zone": "Europe/Madrid"}


def run(settings: Settings) -> list[Figure]:
    """Measure a year, and half of it."""
    with own_stack(settings, "panels_backfill", *SERVERS) as own:
        fill(own.lake_dir, START, START + timedelta(days=DAYS))
        return measure(own, DAYS)


def measure(settings: Settings, days: int) -> list[Figure]:
    """Measure a span of days, and half of it."""
    half, whole = (START + timedelta(days=span) for span in (days // 2, days))
    figures = []
    # the first jobs of a cluster are slow
    write_panel.run(settings, START, START + timedelta(hours=1))
    ready = settings.build_dir / "ready"
    with_ready = list(ready_made(settings, START, whole, ready))
    staging = sum(seconds for _, seconds in with_ready)
    rows = sum(made.rows["panel_report"] for made, _ in with_ready)
    forget(settings)
    began = time.monotonic()
    for made, _ in with_ready:
        load(settings, made)
    alone = time.monotonic() - began
    forget(settings)
    both = timed_backfill(settings, START, whole)
    forget(settings)
    both_half = timed_backfill(settings, START, half)
    figures += [
        Figure("report rows", rows, "rows", bar=("==", PANELS * days * 24)),
        Figure("making reports and alarms, alone", round(rows / staging), "rows/s"),
        Figure("Druid's ingestion of the same files, alone", round(rows / alone), "rows/s"),
        Figure("lake to Druid, both at once", round(rows / both), "rows/s", peer=round(rows / alone)),
        Figure("its time over Druid's alone", round(both / alone, 2), "×", bar=("<=", 1.3)),
        Figure("its time for twice the span", round(both / both_half, 2), "×", bar=("<=", 2.1)),
    ]
    return figures


def ready_made(settings: Settings, start: datetime, end: datetime, folder: Path) -> Iterator[tuple[Staged, float]]:
    """Yield the files of each part of a range, and how long making them took, s; they are kept in a folder."""
    for number, part in enumerate(runner.parts([(milliseconds(start), milliseconds(end))])):
        began = time.monotonic()
        made = write_panel.stage(settings, *runner.moments(part))
        seconds = time.monotonic() - began
        kept = folder / str(number)
        shutil.move(made.folder, kept)
        files = {name: [kept / file.relative_to(made.folder) for file in files] for name, files in made.files.items()}
        yield Staged(made.start, made.end, kept, files, made.rows), seconds


def timed_backfill(settings: Settings, start: datetime, end: datetime) -> float:
    """Return how long reports and alarms take from the lake to Druid, s."""
    began = time.monotonic()
    with Loading(settings) as loading:
        for part in runner.to_load([(milliseconds(start), milliseconds(end))]):
            loading.put(write_panel.stage(settings, *runner.moments(part)), lambda _rows: None)
    return time.monotonic() - began


def forget(settings: Settings) -> None:
    """Remove what is kept from day to day, and Druid's rows, so that all is made again."""
    for name in (running_sums.NAME, FOLLOWED.name):
        shutil.rmtree(settings.lake_dir / name, ignore_errors=True)
    for datasource in write_panel.DATASOURCE_NAMES:
        answer = requests.delete(f"{settings.coordinator}/druid/coordinator/v1/datasources/{datasource}", timeout=60)
        answer.raise_for_status()
        while druid.exists(settings, datasource):
            time.sleep(0.5)


def fill(folder: Path, start: datetime, end: datetime, panels: int = PANELS) -> None:
    """Put panels' slots into the lake, as `rich_panel` leaves them."""
    chance = np.random.default_rng(5)
    ids = np.array([panel_id(number) for number in range(panels)], dtype=object)
    client = np.arange(panels) // 10
    names = {"client_id": "C", "name": "Name ", "address": "Calle ", "postal_code": "28", "model": "Model "}
    texts = {name: np.array([f"{text}{one}" for one in client], dtype=object) for name, text in names.items()}
    nothing = {column.name: None for column in ENRICHMENT if column.name not in {*texts, *PLACE}}
    for hour in hours_between(start, end):
        start_ms = milliseconds(hour)
        zenith = sun(PLACE["latitude"], PLACE["longitude"], start_ms + HOUR_MS / 2).zenith
        light = max(np.cos(np.radians(float(zenith))), 0.0)
        energy = np.round(2500 * light * chance.uniform(0.7, 1.0, panels), 3)
        expected = np.full(panels, 2200 * light)
        frame = pd.DataFrame(
            {
                "element_id": ids,
                "slot_start": start_ms,
                "slot_end": start_ms + HOUR_MS,
                "generated": energy,
                "estimated": 0.0,
                "greatest": energy * 1.1,
                "completeness": 1.0,
                "samples": 60,
                "stale": 0.0,
                "daylight": int(light > 0),
                **texts,
                **nothing,
                **PLACE,
                "power_cap": 3000.0,
                "variable_data": "{}",
                "expected_gen": expected,
                "performance_ratio": energy / expected if light > 0.05 else np.nan,
                "meter_resets": 0,
                "flat": 0.1,
                "dark": 0.0,
                "tilt": 30.0,
                "azimuth": 180.0,
                "owned": 1.0,
                "unbridged_generated": energy,
                "unbridged_estimated": 0.0,
                "unbridged_resets": 0,
            }
        )
        table = pa.Table.from_pandas(with_calendar(frame), schema((*SLOT, *OF_PANELS)), preserve_index=False)
        lake.stage_hour(folder / PANEL.kind, hour, table)


def panel_id(number: int) -> str:
    """Return the id of a panel."""
    return f"panel-{number:06d}"
