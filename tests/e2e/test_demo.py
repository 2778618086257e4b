"""The demonstration, run as a newcomer runs it, and what its report says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import requests
from playwright.sync_api import Page
from tenacity import retry, stop_after_delay, wait_fixed

from benchmarks.browser import (
    HEIGHT,
    await_figure,
    await_later,
    choose,
    latest_of,
    look,
    page_of,
    seen,
    widen,
)
from selfgen.clients import druid
from selfgen.columns import DATASOURCES
from selfgen.demo import oracle, run
from selfgen.settings import PORT_OFFSETS, ROOT, Settings
from selfgen.simulation.batch import read_lines
from stack import lifecycle
from stack.servers import SERVERS
from stack.supervisor import leftovers
from tests.e2e import figures
from tests.ports import free_port_base, use

#: The best orientation of each slot, and every alarm row, as Druid has them.
PLANES = (
    'SELECT light_id, TIMESTAMP_TO_MILLIS(__time) / 1000.0 AS "start", optimal_tilt AS tilt, optimal_azimuth AS azimuth'
    " FROM sensor_report"
)
ALARMS = "SELECT '{0}' AS kind, *, TIMESTAMP_TO_MILLIS(__time) AS ms FROM {0}_alarm"
WINDOWS = "SELECT wind_id, TIMESTAMP_TO_MILLIS(__time) AS ms FROM wind_report"

SELFGEN = str(Path(sys.executable).with_name("selfgen"))


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    base = free_port_base()
    os.environ["SELFGEN_FLINK_PROMETHEUS_PORT"] = str(base + max(PORT_OFFSETS.values()) + 1)
    settings = use(base, "test-demo")
    shutil.rmtree(settings.build_dir, ignore_errors=True)
    yield settings
    lifecycle.down(settings)
    assert leftovers(settings) == []


@pytest.fixture(scope="module")
def report(settings) -> dict[str, Any]:
    path = settings.build_dir / "report.json"
    done = subprocess.run(
        [SELFGEN, "demo", "--days", "2", "--keep", "--report", str(path)],
        capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1", "COLUMNS": "160"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "All of it holds" in done.stdout
    return json.loads(path.read_text())


def test_everything_produced_is_accounted_for(report):
    assert report["ok"] is True
    assert set(report["topics"]) == {"wind", "light", "panel"}
    for counts in report["topics"].values():
        assert counts["landed"] > 1000
        assert counts["duplicates"] > 10
        assert len(counts["refused"]) == 10  # every reason
        refused = sum(counts["refused"].values())
        assert counts["produced"] == counts["landed"] + counts["duplicates"] + counts["replaced"] + refused


def test_energy_equals_the_independent_computation(report):
    assert report["energy_wh"] > 100_000
    assert report["energy_difference_wh"] == 0


def test_every_data_source_has_rows(report):
    assert set(report["datasources"]) == set(DATASOURCES)
    assert all(rows > 0 for rows in report["datasources"].values())


def test_every_wind_reading_is_in_a_window_once(report):
    assert report["wind_samples"]["sent"] > 100
    assert report["wind_samples"]["in_windows"] == report["wind_samples"]["sent"]


def test_operators_see_the_wind_jobs_at_work(report, settings):
    @retry(stop=stop_after_delay(60), wait=wait_fixed(0.5), reraise=True)
    def seen() -> None:
        rows = druid.query(
            settings,
            "SELECT consumer, topic_id, SUM(messages) AS messages, MAX(delay_p95) AS delay_p95"
            " FROM topic_performance WHERE consumer LIKE '%_sensor_wind' AND consumer NOT LIKE 'streaming%'"
            " GROUP BY 1, 2 ORDER BY 1",
        )
        assert [(row["consumer"], row["topic_id"]) for row in rows] == [
            ("rich_sensor_wind", "wind"),
            ("write_sensor_wind", "wind_rich"),
        ]
        assert rows[0]["messages"] >= report["topics"]["wind"]["produced"]
        assert rows[1]["messages"] >= report["datasources"]["wind_report"]
        assert all(row["delay_p95"] > 0 for row in rows)

    seen()


def test_memory_is_within_bounds(report):
    assert set(SERVERS) <= set(report["memory_mib"])
    assert sum(report["memory_mib"].values()) < 6 * 1024


def test_what_was_refused_lists_with_its_reason(report):
    done = subprocess.run([SELFGEN, "rejected", "list", "--json"], capture_output=True, text=True, check=True)
    assert "malformed_json" in done.stdout


def test_the_demonstration_does_not_touch_what_is_not_its_own(report, settings):
    mark = settings.stack_dir / "demo-data"
    mark.rename(mark.with_suffix(".kept"))
    try:
        done = subprocess.run([SELFGEN, "demo"], capture_output=True, text=True, check=False)
    finally:
        mark.with_suffix(".kept").rename(mark)
    assert done.returncode == 1
    assert "hold data that are not a demonstration's" in done.stderr.replace("\n", " ")


def test_prometheus_reads_what_the_operators_page_says(report, settings):
    address = f"http://127.0.0.1:{settings.flink_prometheus_port + 1}/metrics"
    prefix = "flink_taskmanager_job_task_operator_"
    page = (ROOT / "docs" / "operators.md").read_text()
    said = (
        *("numRecordsIn", "numRecordsSend", "pendingRecords", "currentOutputWatermark"),
        *("selfgen_alarms_raised", "selfgen_alarms_cleared", "selfgen_registry_lookups_total"),
    )
    assert [name for name in said if f"`{name}`" not in page] == []

    # an alarm is cleared within two storms of the live feed
    @retry(stop=stop_after_delay(240), wait=wait_fixed(1), reraise=True)
    def read() -> None:
        lines = [line.partition("{") for line in requests.get(address, timeout=10).text.splitlines()]
        values = {name: float(rest.rpartition(" ")[2]) for name, brace, rest in lines if brace}
        assert [name for name in said if prefix + name not in values] == []
        assert values[prefix + "selfgen_alarms_raised"] > 0
        assert values[prefix + "selfgen_alarms_cleared"] > 0

    read()


# ---------------------------------------------------------------------------------------- dashboards
SMALL, LARGE = 1280, 1920
TWO_DAYS_S = 2 * 86_400
#: At last the one where readings come in again.
SLUGS = ("company-history", "area-history", "topic-performance", "alarms", "light-potential", "overview", "real-time")


class TestDashboards:
    """Looked at while the devices are silent, so that the figures stand still; at last they send again."""

    @pytest.fixture(scope="class")
    def sent(self, report, settings) -> Iterator[figures.Sent]:
        lifecycle.down(settings, ["live_feed"])
        demo = run.Demo(settings, days=2, say=print, stage_seen=lambda _name, _seconds: None)
        run.await_landed(demo)
        replayed = [message.event_ms for message in read_lines(demo.folder / "replay.jsonl")]
        until = -(-max(replayed) // 3_600_000) * 3600
        yield figures.Sent(list(demo.messages()), demo.fleet, until - TWO_DAYS_S, until - 3600)
        lifecycle.up(settings, ["live_feed"])

    @pytest.fixture(scope="class")
    def first_rows(self, sent, settings) -> dict[str, dict[str, set[str]]]:
        """Return what the numbers of each first row may read, once Druid has been told of the last readings."""
        self.await_told(sent, settings)
        panels, light = sent.panels, sent.reported(sent.light)
        covered, energy = f"{panels['completeness'].mean():.1%}", f"{panels['power_gen'].sum() / 1000:,.1f}"
        # the two days before now begin with another slot when the hour or its half has gone by
        since = [datetime.now(UTC).timestamp() + ahead - TWO_DAYS_S for ahead in (0, 600)]
        recent = {f"{panels.loc[panels['start'] >= moment, 'power_gen'].sum() / 1000:,.1f}" for moment in since}
        landed, duplicates = sent.outcomes["landed"], sent.outcomes["duplicate"]
        irradiation = light.groupby("light_id")["irradiation"].sum() / 1000
        producible = sent.producible(pd.DataFrame(druid.query(settings, PLANES)))
        return {
            "company-history": {
                "Energy": {energy},
                "Performance ratio": {f"{figures.performance(panels):.1%}"},
                "Completeness": {covered},
                "Companies": {f"{panels['client_id'].nunique()}"},
            },
            "area-history": {
                "Energy": {energy},
                "Areas": {f"{panels['postal_code'].nunique()}"},
                "Panels": {f"{panels['panel_id'].nunique()}"},
                "Completeness": {covered},
            },
            "topic-performance": {
                "Received": {f"{sent.outcomes.total():,d}"},
                "Landed": {f"{landed:,d}"},
                "Duplicates": {f"{duplicates:,d}"},
                "Refused": {f"{sent.outcomes.total() - landed - duplicates:,d}"},
            },
            "alarms": {},
            "light-potential": {
                "Producible energy": {f"{producible:,.1f}"},
                "Irradiation": {f"{irradiation.mean():,.2f}"},
                "Light sensors": {f"{len(irradiation)}"},
                "Completeness": {f"{light['completeness'].mean():.1%}"},
            },
            "overview": {
                "Energy": {energy},
                "Readings landed": {f"{landed:,d}"},
            },
            "real-time": {
                "Energy": recent,
                "Readings landed": {f"{landed:,d}"},
            },
        }

    #: The numbers of the first rows that go on moving after the devices stopped.
    MOVING: ClassVar = {
        "alarms": ("Open now", "Raised", "Mean time to clear", "Energy lost"),
        "overview": ("Wind now", "Open alarms"),
        "real-time": ("Wind now", "Open alarms"),
    }

    def moving(self, sent, settings) -> dict[str, str]:
        """Return what these read now: the last windows close, and who is silent is told to be, a minute after it."""
        incidents = figures.incidents(
            [row for source in ("panel", "sensor", "wind") for row in druid.query(settings, ALARMS.format(source))]
        )
        cleared = incidents.dropna(subset="cleared")
        still_open = f"{len(incidents) - len(cleared)}"
        return {
            "Open now": still_open,
            "Open alarms": still_open,
            "Raised": f"{len(incidents)}",
            "Mean time to clear": figures.duration((cleared["cleared"] - cleared["raised"]).mean()),
            "Energy lost": f"{incidents['lost'].sum() / 1000:,.1f}",
            "Wind now": f"{sent.wind_of_the_latest_minute(druid.query(settings, WINDOWS)):.1f}",
        }

    def await_told(self, sent, settings) -> None:
        """Wait until Druid has what landing and the wind jobs tell of the last readings."""
        _, until_ms = oracle.wind_readings(sent.live, settings.wind_watermark_delay_ms)

        @retry(stop=stop_after_delay(60), wait=wait_fixed(0.5), reraise=True)
        def told() -> None:
            received = "SELECT SUM(messages) AS n FROM topic_performance WHERE consumer LIKE 'streaming%'"
            assert druid.query(settings, received)[0]["n"] == sent.outcomes.total()
            latest = druid.query(settings, "SELECT TIMESTAMP_TO_MILLIS(MAX(__time)) AS ms FROM wind_report")[0]["ms"]
            assert latest >= until_ms - 1000

        told()

    @pytest.fixture(scope="class")
    def browser(self, report, settings) -> Iterator[tuple[Page, list[str]]]:
        errors: list[str] = []
        with page_of(settings, errors, SMALL) as page:
            yield page, errors

    @pytest.mark.parametrize("slug", SLUGS)
    def test_a_dashboard_draws_every_chart_and_says_what_was_sent(self, slug, sent, first_rows, browser, settings):
        page, errors = browser
        before = self.moving(sent, settings)
        errors.clear()
        page.set_viewport_size({"width": SMALL, "height": HEIGHT})
        picture = settings.build_dir / "screenshots" / slug
        state = look(page, settings, f"selfgen-{slug}", picture.with_suffix(f".{SMALL}.png"))
        assert (errors, state.errors, state.undrawn()) == ([], [], [])
        after = self.moving(sent, settings)
        may_read = first_rows[slug] | {title: {before[title], after[title]} for title in self.MOVING.get(slug, ())}
        told = {title: state.charts[title].figure for title in may_read}
        assert all(told[title] in allowed for title, allowed in may_read.items()), (told, may_read)
        widen(page, LARGE)
        state = seen(page, picture.with_suffix(f".{LARGE}.png"))
        assert (errors, state.errors, state.undrawn()) == ([], [], [])
        if slug in self.STEPS:
            self.STEPS[slug](self, page, settings)

    def filter_by_company(self, page, settings) -> None:
        choose(page, "client", "Foothills")
        await_figure(page, "Energy", lambda: self.energy_kwh(settings, "name LIKE 'Foothills%'"))

    def filter_by_area(self, page, settings) -> None:
        choose(page, "area", "28013")
        await_figure(page, "Energy", lambda: self.energy_kwh(settings, "postal_code = '28013'"))

    def energy_kwh(self, settings, condition: str) -> str:
        sql = f"SELECT SUM(power_gen) / 1000.0 AS kwh FROM panel_report WHERE {condition}"
        return f"{druid.query(settings, sql)[0]['kwh']:,.1f}"

    def click_on_an_element(self, page, settings) -> None:
        page.locator("td", has_text="wind-001").first.click()
        sql = "SELECT COUNT(*) AS n FROM wind_alarm WHERE wind_id = 'wind-001' AND state = 'raised'"
        # that it is silent may be told meanwhile; the page asks again each minute
        await_figure(page, "Raised", lambda: f"{druid.query(settings, sql)[0]['n']:,d}", timeout_s=120)

    def send_again(self, page, settings) -> None:
        """A new reading is on the page within 15 s."""
        log = settings.build_dir / "demo" / "live.jsonl"
        before, shown = log.stat().st_size, latest_of(page, self.TABLE)
        assert shown
        lifecycle.up(settings, ["live_feed"])

        @retry(stop=stop_after_delay(30), wait=wait_fixed(0.1), reraise=True)
        def first_reading_s() -> float:
            with log.open("rb") as file:
                file.seek(before)
                return min(json.loads(line)[2] for line in file if line.startswith(b'["wind"')) / 1000

        await_later(page, self.TABLE, shown, first_reading_s() + 15 - datetime.now(UTC).timestamp())

    #: Its last seconds change with each new window; a mean may come out as it was.
    TABLE: ClassVar = "Wind by area, in figures"

    STEPS: ClassVar = {
        "company-history": filter_by_company,
        "area-history": filter_by_area,
        "alarms": click_on_an_element,
        "real-time": send_again,
    }


def test_an_upgrade_goes_on_from_savepoints_while_the_devices_send(report):
    """The readings around it are counted by the test of killed servers."""
    done = subprocess.run([SELFGEN, "wind", "upgrade", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ["savepoint-" in job["restored_from"] for job in json.loads(done.stdout)] == [True, True]


def test_killed_servers_lose_and_double_nothing(report, settings):
    """Kill servers while the devices send; afterwards every reading of every topic is accounted for, once."""
    superset = kill(settings, "superset")  # nothing needs it: it comes back beside the others
    # the overlord before the indexer: see stack/indexer.py
    for server in ("coordinator", *(name for name in SERVERS if name not in ("coordinator", "superset"))):
        await_back(settings, server, kill(settings, server))
    await_back(settings, "superset", superset)
    demo = run.Demo(settings, days=1, say=print, stage_seen=lambda _name, _seconds: None)
    lifecycle.down(settings, ["live_feed"])
    run.await_landed(demo)
    wrong: list[str] = []
    topics = run.count_topics(demo, wrong)
    wind = run.count_wind(demo, wrong)
    assert wrong == []
    assert wind["sent"] > report["wind_samples"]["sent"]
    assert topics["wind"]["produced"] > report["topics"]["wind"]["produced"]


def state_of(settings: Settings, server: str) -> lifecycle.Status:
    return next(state for state in lifecycle.status(settings) if state.name == server)


def kill(settings: Settings, server: str) -> int:
    """Kill a server; return its process id."""
    killed = state_of(settings, server).pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    return killed


def await_back(settings: Settings, server: str, killed: int) -> None:
    """Wait until the supervisor has a killed server ready again."""

    @retry(stop=stop_after_delay(120), wait=wait_fixed(0.5), reraise=True)
    def back() -> None:
        now = state_of(settings, server)
        assert (now.state, now.pid != killed) == ("ready", True), now

    back()


def test_ctrl_c_stops_cleanly(report, settings):
    process = subprocess.Popen(
        [SELFGEN, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"NO_COLOR": "1"}
    )
    assert process.stdout is not None
    assert any("starting" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # people press it twice
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped" in errors
    assert leftovers(settings) == []
