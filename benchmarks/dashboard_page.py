"""Dashboards over a year of 1 000 panels as people open them: drawn by a browser, and each chart's own query.

Druid has the rows as compaction leaves them; Superset keeps no answer. A page is opened several times, as it opens
without a choice: the last year. Each chart's query is read from Superset's answer, and asked of Druid alone, in turns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
from playwright.sync_api import Page, Response

from benchmarks.browser import open_page, page_of, read
from benchmarks.dashboards import CHART_MS, COMPACTED, DATASOURCE, laid_out, make, p95, stored_bytes, take_in
from benchmarks.form import Figure
from benchmarks.servers import own_stack
from selfgen.clients import druid, superset
from selfgen.columns import DATASOURCES, ROLLED_UP
from selfgen.settings import Settings

DAYS, OPENED, TURNS = 365, 5, 10
DASHBOARDS = ("company-history", "area-history")
DRAWN_S = 4

# titles of charts by their number
TITLES = """
() => Object.fromEntries([...document.querySelectorAll('[data-test-chart-id]')].map(holder => [
    holder.dataset.testChartId, holder.querySelector('[data-test="editable-title"], .header-title')?.innerText.trim()]))
"""


def run(settings: Settings) -> list[Figure]:
    """Measure both dashboards on a stack of their own."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start = today - timedelta(days=DAYS)
    with own_stack(settings, "dashboard_page", "druid", "superset") as own:
        database, files = make(own.build_dir, start, DAYS)
        database.close()
        taken = take_in(own, DATASOURCE, files, start, DAYS, COMPACTED)
        stored = [Figure("rows", taken.rows, "rows"), Figure("taken in", round(taken.rows / taken.seconds), "rows/s")]
        stored += [Figure("bytes of a row", round(stored_bytes(own, DATASOURCE) / taken.rows, 1), "bytes")]
        for name in ROLLED_UP:
            stored += rolled_up(own, name, start, today, taken.rows)
        others(own, today - timedelta(hours=2))
        superset.apply(own)
        errors: list[str] = []
        with page_of(own, errors) as page:
            figures = [figure for slug in DASHBOARDS for figure in measured(own, page, f"selfgen-{slug}")]
    return [*stored, *figures, Figure("errors", len(errors), "", bar=("==", 0))]


def rolled_up(settings: Settings, name: str, start: datetime, end: datetime, rows: int) -> Iterator[Figure]:
    """Sum the rows up by day as compaction leaves that; yield how fast it was, and its bytes for each of them."""
    spec = laid_out(druid.roll_up_spec(name, start, end, f"{name}-{time.time():.0f}"), COMPACTED)
    made = druid.run_task(settings, spec, start, end, timeout=1200)
    yield Figure(f"{name}: made of", round(made.rows / made.seconds), "rows/s")
    yield Figure(f"{name}: bytes for each of them", round(stored_bytes(settings, name) / rows, 1), "bytes")
    of_source, of_sums = (
        druid.query(settings, f"SELECT COUNT(*) AS n, SUM(power_gen) AS energy FROM {table}")[0]  # noqa: S608 - its name
        for table in (ROLLED_UP[name], name)
    )
    if not np.isclose(of_source["energy"], of_sums["energy"], rtol=1e-9):
        raise AssertionError(f"{name} adds up to {of_sums['energy']} Wh, its source to {of_source['energy']}")
    yield Figure(f"{name}: rows", of_sums["n"], "rows")


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


def measured(settings: Settings, page: Page, slug: str) -> Iterator[Figure]:
    """Yield how long a dashboard takes to be drawn, and each of its charts' queries."""
    took = []
    for _ in range(OPENED + 1):
        began = time.perf_counter()
        open_page(page, settings, slug, animation_ms=0)
        took.append(time.perf_counter() - began)
    with queries(page) as asked:  # once more: what is asked cannot be read any more when the page is left
        open_page(page, settings, slug)
        page.wait_for_load_state("networkidle")
    undrawn = [chart for chart in read(page) if not chart["drawn"]]
    titles = page.evaluate(TITLES)
    median, worst = round(float(np.median(took[1:])), 2), round(max(took[1:]), 2)
    yield Figure(f"{slug}: drawn, median of {OPENED}", median, "s", bar=("<=", DRAWN_S))
    yield Figure(f"{slug}: drawn, slowest", worst, "s")
    yield Figure(f"{slug}: charts without a figure", len(undrawn), "charts", bar=("==", 0))
    times: dict[str, list[float]] = {chart: [] for chart in asked}
    for _ in range(TURNS):
        for chart, sql in asked.items():
            began = time.perf_counter()
            druid.query(settings, sql)
            times[chart].append(1000 * (time.perf_counter() - began))
    for chart, of_chart in times.items():
        yield Figure(f"{slug}: {titles.get(chart, chart)}, 95 of 100 within", p95(of_chart), "ms", bar=("<=", CHART_MS))


@contextmanager
def queries(page: Page) -> Iterator[dict[str, str]]:
    """Give the queries that a page's charts ask of Druid, by chart, once they are answered."""
    found: dict[str, str] = {}

    def note(response: Response) -> None:
        if "/api/v1/chart/data" in response.url and response.ok:
            form = response.request.post_data_json["form_data"]
            for number, result in enumerate(response.json()["result"]):
                chart = str(form.get("slice_id", "filter"))
                if sql := result.get("query"):
                    found[chart if number == 0 else f"{chart}.{number}"] = sql.strip().removesuffix(";")

    page.on("response", note)
    yield found
    page.remove_listener("response", note)
