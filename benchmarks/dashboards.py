"""Reports in Druid: a year of 1 000 panels, each chart's query beside DuckDB, 20 analysts at once, bytes per row.

The rows (8.76 million) are made by DuckDB, which keeps them, and written as files that Druid takes in by the project's
own task. First one month is taken in with several granularities and partitionings and asked the same; then the year,
as compaction leaves it. Nothing is cached, in Druid or in DuckDB.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from benchmarks.form import Figure
from benchmarks.servers import own_stack
from selfgen.clients import druid
from selfgen.columns import DATASOURCES
from selfgen.settings import Settings

DATASOURCE = "panel_report"
PANELS, CLIENTS, AREAS = 1_000, 100, 40
START, DAYS = datetime(2025, 1, 1, tzinfo=UTC), 365
ANALYSTS, ANALYSTS_S = 20, 120
#: How often a chart's query is asked, each time with a filter drawn anew.
TURNS = 20
CHART_MS = 500

#: What Company history and Area history ask: {time} is the range, {client} and {area} one of each.
CHARTS = {
    "energy of a year": "SELECT SUM(power_gen) AS e FROM panel_report WHERE {time}",
    "energy of a company": "SELECT SUM(power_gen) AS e FROM panel_report WHERE {time} AND client_id = '{client}'",
    "distribution by company": "SELECT name, SUM(power_gen) AS e FROM panel_report WHERE {time} GROUP BY 1"
    " ORDER BY e DESC LIMIT 100",
    "table by company": "SELECT name, SUM(power_gen) AS e, SUM(expected_gen) AS x, AVG(completeness) AS c,"
    " SUM(diff_last_year) AS d FROM panel_report WHERE {time} GROUP BY 1 ORDER BY e DESC LIMIT 100",
    "monthly evolution by company": "SELECT {month} AS m, name, SUM(power_gen) AS e FROM panel_report WHERE {time}"
    " GROUP BY 1, 2",
    "monthly evolution of a company": "SELECT {month} AS m, SUM(power_gen) AS e, SUM(expected_gen) AS x"
    " FROM panel_report WHERE {time} AND client_id = '{client}' GROUP BY 1",
    "distribution by area": "SELECT postal_code, SUM(power_gen) AS e FROM panel_report WHERE {time} GROUP BY 1"
    " ORDER BY e DESC LIMIT 100",
    "daily evolution of an area": "SELECT {day} AS d, SUM(power_gen) AS e FROM panel_report"
    " WHERE {time} AND postal_code = '{area}' GROUP BY 1",
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


LAYOUTS = (
    Layout("DAY", {"type": "dynamic"}),
    Layout("MONTH", {"type": "dynamic"}),
    Layout("MONTH", _range(250_000, "client_id")),
    Layout("MONTH", _range(250_000, "postal_code")),
)

#: What compaction makes of it (druid_specs/compaction/).
COMPACTED = Layout("MONTH", _range(250_000, "client_id"))


# -- the rows ----------------------------------------------------------------------------------------


def make(folder: Path, start: datetime, days: int) -> tuple[duckdb.DuckDBPyConnection, list[Path]]:
    """Return a database with the rows, and a file of them for each month."""
    database = duckdb.connect(str(folder / "reports.duckdb"), config={"threads": 2})
    values = {
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
    columns = []
    for column in DATASOURCES[DATASOURCE]:
        other = "60" if column.type == "long" else "''" if column.type == "string" else "round(e * (0.5 + random()), 3)"
        columns.append(f'{values.get(column.name, other)} AS "{column.name}"')
    database.execute("SELECT setseed(0.42)")
    database.execute(
        f"""
        CREATE TABLE {DATASOURCE} AS SELECT epoch_ms(t) AS "timestamp", t AS __time, {", ".join(columns)} FROM (
          SELECT t, p, round(greatest(0, sin((hour(t) - 6) / 12.0 * pi())) * (300 + p % 50) * random(), 3) AS e
          FROM (SELECT unnest(generate_series(TIMESTAMP '{start:%Y-%m-%d}', TIMESTAMP '{start:%Y-%m-%d}'
                + INTERVAL {days * 24 - 1} HOUR, INTERVAL 1 HOUR)) AS t), range({PANELS}) AS r(p))
        """
    )
    files = []
    months = database.execute(f"SELECT DISTINCT date_trunc('month', __time) AS m FROM {DATASOURCE} ORDER BY m")
    for (month,) in months.fetchall():
        files.append(folder / f"{month:%Y-%m}.csv.gz")
        database.execute(
            f"COPY (SELECT * EXCLUDE (__time) FROM {DATASOURCE} WHERE date_trunc('month', __time) = ?)"
            f" TO '{files[-1]}' (FORMAT csv, HEADER, COMPRESSION gzip)",
            [month],
        )
    return database, files


def json_bytes(database: duckdb.DuckDBPyConnection, folder: Path, rows: int = 50_000) -> float:
    """Return the bytes of a row as a line of JSON, as the batch jobs write it."""
    file = folder / "rows.json"
    database.execute(f"COPY (SELECT * EXCLUDE (__time) FROM {DATASOURCE} USING SAMPLE {rows} ROWS) TO '{file}'")
    return file.stat().st_size / rows


def take_in(
    settings: Settings, name: str, files: list[Path], start: datetime, days: int, layout: Layout
) -> druid.Replacement:
    """Take files in under a name with a layout, by the project's task."""
    end = start + timedelta(days=days)
    spec = druid.replace_spec(DATASOURCE, files, start, end, f"{name}-{time.time():.0f}")
    spec["spec"]["dataSchema"]["dataSource"] = name
    spec["spec"]["ioConfig"]["inputFormat"] = {"type": "csv", "findColumnsFromHeader": True}
    return druid.run_task(settings, laid_out(spec, layout), start, end, timeout=900)


def laid_out(spec: dict[str, Any], layout: Layout) -> dict[str, Any]:
    """Have a batch task write segments of a layout; return it."""
    schema, tuning = spec["spec"]["dataSchema"], spec["spec"]["tuningConfig"]
    schema["granularitySpec"]["segmentGranularity"] = layout.granularity
    ranged = layout.partitions["type"] == "range"
    tuning |= {"partitionsSpec": layout.partitions, "forceGuaranteedRollup": ranged, "maxNumConcurrentSubTasks": 2}
    return spec


# -- the questions -----------------------------------------------------------------------------------


def questions(name: str, days: int, draw: random.Random, *, of_druid: bool) -> Iterator[tuple[str, str]]:
    """Return each chart's query for a client and an area drawn at random."""
    values = {
        "client": f"C{draw.randrange(CLIENTS):04d}",
        "area": f"{28000 + draw.randrange(AREAS):05d}",
        "time": f"__time >= TIMESTAMP '{START:%Y-%m-%d}'"
        f" AND __time < TIMESTAMP '{START + timedelta(days=days):%Y-%m-%d}'",
        "month": "TIME_FLOOR(__time, 'P1M')" if of_druid else "date_trunc('month', __time)",
        "day": "TIME_FLOOR(__time, 'P1D')" if of_druid else "date_trunc('day', __time)",
    }
    for chart, sql in CHARTS.items():
        yield chart, sql.format(**values).replace(f"FROM {DATASOURCE}", f'FROM "{name if of_druid else DATASOURCE}"')


def ask(run: Callable[[str], Any], name: str, days: int, turns: int, *, of_druid: bool) -> dict[str, list[float]]:
    """Return how long each chart's query took, ms, asked in turns after one turn that does not count."""
    draw, took = random.Random(7), dict[str, list[float]]()
    for turn in range(turns + 1):
        for chart, sql in questions(name, days, draw, of_druid=of_druid):
            began = time.perf_counter()
            run(sql)
            if turn:
                took.setdefault(chart, []).append(1000 * (time.perf_counter() - began))
    return took


def p95(took: list[float]) -> float:
    """Return the 95th percentile."""
    return round(float(np.percentile(took, 95)), 1)


def agree(settings: Settings, database: duckdb.DuckDBPyConnection, name: str, days: int) -> None:
    """Fail unless both give the same answers."""
    for (chart, ours), (_, theirs) in zip(
        questions(name, days, random.Random(1), of_druid=True),
        questions(name, days, random.Random(1), of_druid=False),
        strict=True,
    ):
        energy = sum(row["e"] for row in druid.query(settings, ours))
        expected = database.execute(f"SELECT SUM(e) FROM ({theirs})").fetchall()[0][0]
        if abs(energy - expected) > 1e-6 * abs(expected):
            raise AssertionError(f"{chart}: Druid {energy}, DuckDB {expected}")


def analysts(settings: Settings, name: str, days: int) -> tuple[list[float], int]:
    """Return the times of the queries, ms, and the errors, of analysts who ask chart after chart at once."""
    until, took, errors = time.monotonic() + ANALYSTS_S, list[float](), list[str]()
    lock = threading.Lock()

    def watch(number: int) -> None:
        draw = random.Random(number)
        while time.monotonic() < until:
            for _, sql in questions(name, days, draw, of_druid=True):
                began = time.perf_counter()
                try:
                    druid.query(settings, sql)
                except druid.DruidError as error:
                    errors.append(str(error))
                with lock:
                    took.append(1000 * (time.perf_counter() - began))

    with ThreadPoolExecutor(ANALYSTS) as pool:
        for done in [pool.submit(watch, number) for number in range(ANALYSTS)]:
            done.result()
    return took, len(errors)


# -- the measurement ---------------------------------------------------------------------------------


def run(settings: Settings) -> list[Figure]:
    """Take in a year as compaction leaves it and a month in every layout, and ask."""
    with own_stack(settings, "dashboards", "druid") as own:
        database, files = make(own.build_dir, START, DAYS)
        return [*_year(own, database, files), *_layouts(own, files[:1])]


def _year(settings: Settings, database: duckdb.DuckDBPyConnection, files: list[Path]) -> Iterator[Figure]:
    year = take_in(settings, "year", files, START, DAYS, COMPACTED)
    if year.rows != PANELS * DAYS * 24:
        raise AssertionError(f"{year.rows} rows of {PANELS * DAYS * 24}")
    yield Figure("rows taken in", round(year.rows / year.seconds), "rows/s")
    agree(settings, database, "year", DAYS)
    ours = ask(lambda sql: druid.query(settings, sql), "year", DAYS, TURNS, of_druid=True)
    theirs = ask(lambda sql: database.execute(sql).fetchall(), "year", DAYS, TURNS, of_druid=False)
    for chart, took in ours.items():
        yield Figure(f"{chart}, 95 of 100 within", p95(took), "ms", p95(theirs[chart]), ("<=", CHART_MS))
    size = stored_bytes(settings, "year") / year.rows
    yield Figure("a row in Druid", round(size, 1), "bytes", round(json_bytes(database, settings.build_dir), 1))
    together, errors = analysts(settings, "year", DAYS)
    yield Figure(f"{ANALYSTS} analysts for {ANALYSTS_S} s, 95 of 100 within", p95(together), "ms")
    yield Figure("their queries", round(len(together) / ANALYSTS_S, 1), "queries/s")
    yield Figure("their errors", errors, "", bar=("==", 0))


def _layouts(settings: Settings, month: list[Path]) -> Iterator[Figure]:
    for number, layout in enumerate(LAYOUTS):
        name, days = f"month_{number}", 31
        take_in(settings, name, month, START, days, layout)
        took = ask(lambda sql: druid.query(settings, sql), name, days, 5, of_druid=True)
        size = stored_bytes(settings, name)
        druid.coordinator(settings, "DELETE", f"datasources/{name}")
        rows = PANELS * days * 24
        every = [one for each in took.values() for one in each]
        yield Figure(f"a month, {layout.name}: all charts, median", round(float(np.median(every)), 1), "ms")
        yield Figure(f"a month, {layout.name}: of one company", p95(took["energy of a company"]), "ms")
        yield Figure(f"a month, {layout.name}: a row", round(size / rows, 1), "bytes")


def stored_bytes(settings: Settings, name: str) -> int:
    """Return the size of a data source's segments."""
    sql = 'SELECT SUM("size") AS n FROM sys.segments WHERE datasource = %(name)s AND is_active = 1'
    return int(druid.query(settings, sql, {"name": name})[0]["n"])
