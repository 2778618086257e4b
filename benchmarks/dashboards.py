"""Dashboards over a year of 1 000 panels: drawn by a browser, each query beside DuckDB, 20 analysts at once.

Druid has the rows as compaction leaves them (8.76 million, and their sums by day); Superset keeps no answer. An analyst
opens a page several times, as it opens without a choice: the last year. Each chart's query is read from Superset's
answer and asked of Druid alone, in turns, and of DuckDB, which has the same rows and sums and has to answer the same.
Then many analysts ask Superset for one chart of both pages after the other, without a pause.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pandas as pd
from playwright.sync_api import Page, Response
from pydantic import SecretStr

from benchmarks.browser import open_page, page_of, read
from benchmarks.form import Figure
from benchmarks.segments import COMPACTED, DATASOURCE, laid_out, make, p95, stored_bytes, take_in, written
from benchmarks.servers import own_stack
from selfgen.clients import druid, superset, superset_access
from selfgen.columns import DATASOURCES, DAY_SUMS, ROLLED_UP, names
from selfgen.settings import Settings

DAYS, OPENED, TURNS = 365, 5, 10
DASHBOARDS = ("company-history", "area-history")
DRAWN_S, CHART_MS = 4, 500
ANALYSTS, ANALYSTS_S = 20, 120

# titles of charts by their number
TITLES = """
() => Object.fromEntries([...document.querySelectorAll('[data-test-chart-id]')].map(holder => [
    holder.dataset.testChartId, holder.querySelector('[data-test="editable-title"], .header-title')?.innerText.trim()]))
"""

#: What Druid's SQL has and DuckDB's has not.
DRUIDS_FUNCTIONS = """
CREATE MACRO millis_to_timestamp(ms) AS epoch_ms(ms);
CREATE MACRO time_parse(text) AS text::TIMESTAMP;
CREATE MACRO time_extract(moment, part) AS date_part(part, moment);
CREATE MACRO time_floor(moment, period) AS CASE period
    WHEN 'PT1H' THEN date_trunc('hour', moment) WHEN 'P1D' THEN date_trunc('day', moment)
    WHEN 'P1M' THEN date_trunc('month', moment) END;
"""


class Asked(NamedTuple):
    """What a page asks of Superset for a chart or a filter: the request, and the query that this became."""

    title: str
    request: dict[str, Any]
    sql: str


def run(settings: Settings) -> list[Figure]:
    """Measure both dashboards on a stack of their own."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start = today - timedelta(days=DAYS)
    with own_stack(settings, "dashboards", "druid", "superset") as own:
        peer, files = make(own.build_dir, start, DAYS)
        taken = take_in(own, DATASOURCE, files, start, DAYS, COMPACTED)
        stored = [Figure("rows", taken.rows, "rows"), Figure("taken in", round(taken.rows / taken.seconds), "rows/s")]
        size = stored_bytes(own, DATASOURCE) / taken.rows
        stored += [Figure("a row; as JSON", round(size, 1), "bytes", round(json_bytes(peer, own.build_dir), 1))]
        for name in ROLLED_UP:
            stored += rolled_up(own, name, start, today, taken.rows)
        sum_up(peer)
        others(own, today - timedelta(hours=2))
        superset.apply(own)
        return [*stored, *looked_at(own, peer)]


def json_bytes(database: duckdb.DuckDBPyConnection, folder: Path, rows: int = 50_000) -> float:
    """Return the bytes of a row as a line of JSON, as the batch jobs write it."""
    file = folder / "rows.json"
    database.execute(f"COPY (SELECT {written()} FROM druid.{DATASOURCE} USING SAMPLE {rows} ROWS) TO '{file}'")
    return file.stat().st_size / rows


def rolled_up(settings: Settings, name: str, start: datetime, end: datetime, rows: int) -> Iterator[Figure]:
    """Sum the rows up by day as compaction leaves that; yield how fast it was, and its bytes for each of them."""
    spec = laid_out(druid.roll_up_spec(name, start, end, f"{name}-{time.time():.0f}"), COMPACTED)
    made = druid.run_task(settings, spec, start, end, timeout=1200)
    yield Figure(f"{name}: made of", round(made.rows / made.seconds), "rows/s")
    yield Figure(f"{name}: bytes for each of them", round(stored_bytes(settings, name) / rows, 1), "bytes")
    of_source, of_sums = (
        druid.query(settings, f"SELECT COUNT(*) AS n, SUM(power_gen) AS energy FROM {table}")[0]
        for table in (ROLLED_UP[name], name)
    )
    if not np.isclose(of_source["energy"], of_sums["energy"], rtol=1e-9):
        raise AssertionError(f"{name} adds up to {of_sums['energy']} Wh, its source to {of_source['energy']}")
    yield Figure(f"{name}: rows", of_sums["n"], "rows")


def sum_up(database: duckdb.DuckDBPyConnection) -> None:
    """Sum the rows up by day in DuckDB too, and teach it Druid's functions."""
    sums = {column.name: f"sum({column.name})" for column in DAY_SUMS} | {
        "power_max": "max(power_max)",
        "reported": "count(completeness)",
        "local_clock": "epoch_ms(local_date::TIMESTAMP)",
    }
    for compared in (name for name in sums if name.startswith("compared_")):
        difference = compared.replace("compared", "diff_last")
        sums[compared] = f"sum(power_gen) FILTER ({difference} IS NOT NULL)"
    columns = (f"{sums.get(name, name)} AS {name}" for name in names("panel_day"))
    database.execute(
        f"CREATE TABLE druid.panel_day AS SELECT date_trunc('day', __time) AS __time, {', '.join(columns)}"
        f" FROM druid.{DATASOURCE} GROUP BY ALL"
    )
    database.execute(DRUIDS_FUNCTIONS)


def others(settings: Settings, hour: datetime) -> None:
    """Give the other data sources an hour's row: one that has none is unknown; and an incident that lost energy."""
    at = {"timestamp": round(hour.timestamp() * 1000), "client_id": "C0001", "name": "Company 1", "panel_id": "P00001"}
    incident = at | {"code": "no_power", "severity": "critical", "text_alarm": "Nothing produced", "power_low": 500.0}
    for name in DATASOURCES:
        if name in {DATASOURCE, *ROLLED_UP}:
            continue
        alarm = [incident | {"state": state} for state in ("raised", "cleared")]
        file = settings.build_dir / f"{name}.json"
        file.write_text("".join(f"{json.dumps(row)}\n" for row in (alarm if name == "panel_alarm" else [at])))
        druid.replace(settings, name, [file], hour, hour + timedelta(hours=1))


# -- the measurement ---------------------------------------------------------------------------------


def looked_at(settings: Settings, peer: duckdb.DuckDBPyConnection) -> Iterator[Figure]:
    """Yield how long pages take to be drawn, each of their queries, and what many analysts wait."""
    errors: list[str] = []
    asked: dict[str, list[Asked]] = {}
    settings = as_analyst(settings)
    with page_of(settings, errors) as page:
        for slug in DASHBOARDS:
            yield from drawn(settings, page, slug)
            asked[slug] = asked_by(settings, page, slug)
    yield Figure("errors of pages", len(errors), "", bar=("==", 0))
    for slug, of_page in asked.items():
        for query in of_page:
            yield timed(settings, peer, f"{slug}: {query.title}", query.sql)
    yield from analysts(settings, [query.request for of_page in asked.values() for query in of_page])


def as_analyst(settings: Settings) -> Settings:
    """Make a user who is an analyst; return the settings with which Superset is asked as that one."""
    name, kept = "analyst", settings.build_dir / "analyst.yaml"
    superset_access.apply_users(settings, [superset_access.User(username=name, role="analyst")], kept)
    made_up = SecretStr(superset_access.read_passwords(kept)[name])
    return settings.model_copy(update={"superset_user": name, "superset_password": made_up})


def drawn(settings: Settings, page: Page, slug: str) -> Iterator[Figure]:
    """Yield how long a dashboard takes to be drawn, after a first time that does not count."""
    took = []
    for _ in range(OPENED + 1):
        began = time.perf_counter()
        open_page(page, settings, f"selfgen-{slug}", animation_ms=0)
        took.append(time.perf_counter() - began)
    median, worst = round(float(np.median(took[1:])), 2), round(max(took[1:]), 2)
    yield Figure(f"{slug}: drawn, median of {OPENED}", median, "s", bar=("<=", DRAWN_S))
    yield Figure(f"{slug}: drawn, slowest", worst, "s")
    undrawn = [chart for chart in read(page) if not chart["drawn"]]
    yield Figure(f"{slug}: charts without a figure", len(undrawn), "charts", bar=("==", 0))


def asked_by(settings: Settings, page: Page, slug: str) -> list[Asked]:
    """Return what a dashboard asks when it is opened."""
    with answers(page) as found:  # what is asked cannot be read any more when the page is left
        open_page(page, settings, f"selfgen-{slug}")
        page.wait_for_load_state("networkidle")
    titles = page.evaluate(TITLES)
    return [query._replace(title=titles.get(query.title, "values of a filter")) for query in found]


@contextmanager
def answers(page: Page) -> Iterator[list[Asked]]:
    """Give what is asked for a page's charts, by their numbers, as it is answered."""
    found: list[Asked] = []

    def note(response: Response) -> None:
        if "/api/v1/chart/data" in response.url and response.ok:
            request = response.request.post_data_json
            for result in response.json()["result"]:
                if sql := result.get("query"):
                    chart = str(request["form_data"].get("slice_id"))
                    found.append(Asked(chart, request, sql.strip().removesuffix(";")))

    page.on("response", note)
    yield found
    page.remove_listener("response", note)


def timed(settings: Settings, peer: duckdb.DuckDBPyConnection, name: str, sql: str) -> Figure:
    """Return how long a query takes, beside DuckDB, which answers the same where it has the rows."""
    of_rows = "APPEND(" not in sql
    if of_rows:
        agree(pd.DataFrame(druid.query(settings, sql)), peer.execute(sql).df(), name)
    ours, theirs = [], []
    for _ in range(TURNS):
        began = time.perf_counter()
        druid.query(settings, sql)
        between = time.perf_counter()
        ours.append(1000 * (between - began))
        if of_rows:
            peer.execute(sql).fetchall()
            theirs.append(1000 * (time.perf_counter() - between))
    return Figure(f"{name}, 95 of 100 within", p95(ours), "ms", p95(theirs) if theirs else None, ("<=", CHART_MS))


def agree(ours: pd.DataFrame, theirs: pd.DataFrame, name: str) -> None:
    """Fail unless both have the same rows, in whatever order."""
    for moment in theirs.select_dtypes("datetime").columns:
        ours[moment] = pd.to_datetime(ours[moment]).dt.tz_localize(None).astype(theirs[moment].dtype)
    keys = [column for column in theirs if not pd.api.types.is_numeric_dtype(theirs[column])]
    one, other = (rows.sort_values(keys, ignore_index=True) if keys else rows for rows in (ours, theirs))
    try:
        pd.testing.assert_frame_equal(one, other, check_dtype=False, rtol=1e-6)
    except AssertionError as error:
        raise AssertionError(f"{name}: Druid and DuckDB do not answer the same: {error}") from error


def analysts(settings: Settings, requests: list[dict[str, Any]]) -> Iterator[Figure]:
    """Yield what analysts wait for a chart who ask Superset for one after the other, all at once."""
    until = time.monotonic() + ANALYSTS_S

    def watch(number: int) -> tuple[list[float], list[str]]:
        client, draw, took, errors = superset.Client(settings), random.Random(number), list[float](), list[str]()
        while time.monotonic() < until:
            began = time.perf_counter()
            try:
                client.call("POST", "chart/data", json=draw.choice(requests) | {"force": True})
            except superset.SupersetError as error:
                errors.append(str(error))
            took.append(1000 * (time.perf_counter() - began))
        return took, errors

    with ThreadPoolExecutor(ANALYSTS) as pool:
        watched = list(pool.map(watch, range(ANALYSTS)))
    took = [one for of_one, _ in watched for one in of_one]
    yield Figure(f"{ANALYSTS} analysts for {ANALYSTS_S} s: a chart, 95 of 100 within", p95(took), "ms")
    yield Figure("median of them", round(float(np.median(took)), 1), "ms")
    yield Figure("their charts", round(len(took) / ANALYSTS_S, 1), "charts/s")
    yield Figure("their errors", sum(len(errors) for _, errors in watched), "", bar=("==", 0))
