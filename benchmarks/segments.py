"""Reports in Druid: a month of 1 000 panels in segments of several lengths and partitionings, asked the same.

The rows are made by DuckDB, which keeps them, and written as files that Druid takes in by the project's own task.
Nothing is cached in Druid.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from benchmarks.form import Figure
from benchmarks.servers import own_stack
from selfgen.clients import druid
from selfgen.columns import DATASOURCES, names
from selfgen.derived import derived
from selfgen.settings import Settings

DATASOURCE = "panel_report"
PANELS, CLIENTS, AREAS = 1_000, 100, 40
START, DAYS = datetime(2025, 1, 1, tzinfo=UTC), 31
#: How often a question is asked, each time with a client and an area drawn anew.
TURNS = 10

#: What people ask of rows: {rows} is the source's name, {client} and {area} one of each.
QUESTIONS = {
    "energy of all": "SELECT SUM(power_gen) FROM {rows}",
    "energy of a company": "SELECT SUM(power_gen) FROM {rows} WHERE client_id = '{client}'",
    "distribution by company": "SELECT client, SUM(power_gen) FROM {rows} GROUP BY 1 ORDER BY 2 DESC LIMIT 100",
    "table by company": "SELECT client, SUM(power_gen), SUM(expected_gen), AVG(completeness), SUM(diff_last_year)"
    " FROM {rows} GROUP BY 1 ORDER BY 2 DESC LIMIT 100",
    "daily evolution by company": "SELECT TIME_FLOOR(__time, 'P1D'), client, SUM(power_gen) FROM {rows} GROUP BY 1, 2",
    "daily evolution of a company": "SELECT TIME_FLOOR(__time, 'P1D'), SUM(power_gen), SUM(expected_gen) FROM {rows}"
    " WHERE client_id = '{client}' GROUP BY 1",
    "distribution by area": "SELECT area, SUM(power_gen) FROM {rows} GROUP BY 1 ORDER BY 2 DESC LIMIT 100",
    "daily evolution of an area": "SELECT TIME_FLOOR(__time, 'P1D'), SUM(power_gen) FROM {rows}"
    " WHERE postal_code = '{area}' GROUP BY 1",
}


@dataclass(frozen=True)
class Layout:
    """How a source is kept: the length of its segments, and their secondary partitioning."""

    granularity: str
    partitions: dict[str, Any]

    @property
    def name(self) -> str:
        """What people call it."""
        dimensions = ", ".join(self.partitions.get("partitionDimensions", []))
        size = self.partitions.get("targetRowsPerSegment")
        return f"{self.granularity.lower()}" + (f" by {dimensions}, {size:,} rows" if dimensions else "")


def _range(rows: int, *dimensions: str) -> dict[str, Any]:
    return {"type": "range", "partitionDimensions": list(dimensions), "targetRowsPerSegment": rows}


#: What compaction makes of rows (druid_specs/compaction/).
COMPACTED = Layout("MONTH", _range(250_000, "client_id"))
LAYOUTS = (
    Layout("DAY", {"type": "dynamic"}),
    Layout("MONTH", {"type": "dynamic"}),
    COMPACTED,
    Layout("MONTH", _range(250_000, "postal_code")),
)


# -- the rows ----------------------------------------------------------------------------------------

#: Values of some columns, of the panel `p`, the UTC hour `t` and the energy `e`; all others are drawn.
_VALUES = {
    "panel_id": "'P' || lpad(p::VARCHAR, 5, '0')",
    "client_id": f"'C' || lpad((p % {CLIENTS})::VARCHAR, 4, '0')",
    "name": f"'Company ' || (p % {CLIENTS})",
    "apell_1": "''",
    "apell_2": "''",
    "address": f"'Street ' || (p % {CLIENTS}) || ', 1'",
    "postal_code": f"lpad((28000 + p % {AREAS})::VARCHAR, 5, '0')",
    "client_type": "CASE WHEN p % 3 = 0 THEN 'home' ELSE 'company' END",
    "model": "'Model ' || (p % 7)",
    "manufacture_date": "'2020-01-01'",
    "install_date": "'2021-01-01'",
    "latitude": f"40 + (p % {CLIENTS}) / 100.0",
    "longitude": f"-3 - (p % {CLIENTS}) / 100.0",
    "time_zone": "'Europe/Madrid'",
    "local_time": "strftime(t + INTERVAL 1 HOUR, '%Y-%m-%dT%H:%M:%S+01:00')",
    "local_date": "strftime(t + INTERVAL 1 HOUR, '%Y-%m-%d')",
    "power_gen": "e",
    "expected_gen": "round(e * 1.1, 3)",
    "performance_ratio": "CASE WHEN e > 0 THEN round(0.8 + random() * 0.2, 4) END",
    "completeness": "1.0",
    "samples": "60",
}
_DRAWN = {"long": "60", "string": "''", "double": "round(e * (0.5 + random()), 3)"}

#: What Druid derives of these (`selfgen.derived`).
_DERIVED = {
    "client": "name || ' (' || client_id || ')'",
    "province": "'Madrid'",
    "area": "postal_code || ' Madrid'",
    "local_clock": "epoch_ms(__time + INTERVAL 1 HOUR)",
    "local_month": "local_date[:7]",
    "judged_gen": "performance_ratio * expected_gen * completeness",
    "judged_expected": "CASE WHEN performance_ratio IS NOT NULL THEN expected_gen * completeness END",
}


def make(folder: Path, start: datetime, days: int) -> tuple[duckdb.DuckDBPyConnection, list[Path]]:
    """Return a database with the rows as Druid stores them, and a file for each month of them as they are written."""
    database = duckdb.connect(str(folder / "reports.duckdb"), config={"threads": 2, "memory_limit": "2GB"})
    columns = (f'{_VALUES.get(it.name, _DRAWN[it.type])} AS "{it.name}"' for it in DATASOURCES[DATASOURCE])
    made_of_them = (f'{_DERIVED[it.name]} AS "{it.name}"' for it in derived(DATASOURCE))
    database.execute("SELECT setseed(0.42)")
    database.execute("CREATE SCHEMA druid")
    database.execute(
        f"""
        CREATE TABLE druid.{DATASOURCE} AS SELECT *, {", ".join(made_of_them)} FROM (
          SELECT t AS __time, {", ".join(columns)} FROM (
            SELECT t, p, round(greatest(0, sin((hour(t) - 6) / 12.0 * pi())) * (300 + p % 50) * random(), 3) AS e
            FROM (SELECT unnest(generate_series(TIMESTAMP '{start:%Y-%m-%d}', TIMESTAMP '{start:%Y-%m-%d}'
                  + INTERVAL {days * 24 - 1} HOUR, INTERVAL 1 HOUR)) AS t), range({PANELS}) AS r(p)))
        """
    )
    files = []
    months = database.execute(f"SELECT DISTINCT date_trunc('month', __time) AS m FROM druid.{DATASOURCE} ORDER BY m")
    for (month,) in months.fetchall():
        files.append(folder / f"{month:%Y-%m}.csv.gz")
        database.execute(
            f"COPY (SELECT {written()} FROM druid.{DATASOURCE} WHERE date_trunc('month', __time) = ?)"
            f" TO '{files[-1]}' (FORMAT csv, HEADER, COMPRESSION gzip)",
            [month],
        )
    return database, files


def written() -> str:
    """Return the columns of a row as the batch jobs write it."""
    return ", ".join(['epoch_ms(__time) AS "timestamp"', *(f'"{name}"' for name in names(DATASOURCE))])


def take_in(
    settings: Settings, name: str, files: list[Path], start: datetime, days: int, layout: Layout
) -> druid.Replacement:
    """Take files in under a name with a layout, by the project's task; fail unless all rows are there then."""
    end = start + timedelta(days=days)
    spec = druid.replace_spec(DATASOURCE, files, start, end, f"{name}-{time.time():.0f}")
    spec["spec"]["dataSchema"]["dataSource"] = name
    spec["spec"]["ioConfig"]["inputFormat"] = {"type": "csv", "findColumnsFromHeader": True}
    taken = druid.run_task(settings, laid_out(spec, layout), start, end, timeout=1800)
    if taken.rows != PANELS * days * 24:
        raise AssertionError(f"{taken.rows} rows of {PANELS * days * 24}")
    return taken


def laid_out(spec: dict[str, Any], layout: Layout) -> dict[str, Any]:
    """Have a batch task write segments of a layout; return it."""
    schema, tuning = spec["spec"]["dataSchema"], spec["spec"]["tuningConfig"]
    schema["granularitySpec"]["segmentGranularity"] = layout.granularity
    ranged = layout.partitions["type"] == "range"
    tuning |= {"partitionsSpec": layout.partitions, "forceGuaranteedRollup": ranged, "maxNumConcurrentSubTasks": 2}
    return spec


# -- the measurement ---------------------------------------------------------------------------------


def run(settings: Settings) -> list[Figure]:
    """Take a month in, in every layout, and ask them in turns."""
    with own_stack(settings, "segments", "druid") as own:
        database, (month,) = make(own.build_dir, START, DAYS)
        database.close()
        layouts = {f"month_{number}": layout for number, layout in enumerate(LAYOUTS)}
        rows = {name: take_in(own, name, [month], START, DAYS, layout).rows for name, layout in layouts.items()}
        took = _asked(own, layouts)
        return [
            figure
            for name, layout in layouts.items()
            for figure in _figures(layout.name, took[name], stored_bytes(own, name) / rows[name])
        ]


def _asked(settings: Settings, names: Iterable[str]) -> dict[str, dict[str, list[float]]]:
    """Return how long each question took of each name, ms: all of each in turn, after one turn that does not count."""
    draw, took = random.Random(7), {name: {question: list[float]() for question in QUESTIONS} for name in names}
    for turn in range(TURNS + 1):
        client, area = f"C{draw.randrange(CLIENTS):04d}", f"{28000 + draw.randrange(AREAS):05d}"
        for (question, sql), name in product(QUESTIONS.items(), took):
            began = time.perf_counter()
            druid.query(settings, sql.format(rows=name, client=client, area=area))
            if turn:
                took[name][question].append(1000 * (time.perf_counter() - began))
    return took


def _figures(layout: str, took: dict[str, list[float]], size: float) -> Iterator[Figure]:
    every = [one for of_question in took.values() for one in of_question]
    yield Figure(f"{layout}: all questions, median", round(float(np.median(every)), 1), "ms")
    yield Figure(f"{layout}: energy of a company, 95 of 100 within", p95(took["energy of a company"]), "ms")
    yield Figure(f"{layout}: a row", round(size, 1), "bytes")


def p95(took: list[float]) -> float:
    """Return the 95th percentile."""
    return round(float(np.percentile(took, 95)), 1)


def stored_bytes(settings: Settings, name: str) -> int:
    """Return the size of a data source's segments."""
    sql = 'SELECT SUM("size") AS n FROM sys.segments WHERE datasource = %(name)s AND is_active = 1'
    return int(druid.query(settings, sql, {"name": name})[0]["n"])
