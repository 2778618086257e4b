"""The demonstration, run as a newcomer runs it, and what its report says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from tenacity import retry, stop_after_delay, wait_fixed

from selfgen.clients import druid
from selfgen.columns import DATASOURCES
from selfgen.demo import run
from selfgen.settings import PORT_OFFSETS, ROOT, Settings
from stack import lifecycle
from stack.servers import SERVERS
from stack.supervisor import leftovers
from tests.browser import open_dashboard
from tests.ports import free_port_base, use

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


def test_the_dashboard_draws_every_chart(report, settings):
    state = open_dashboard(settings, "selfgen-overview", settings.build_dir / "overview.png")
    assert state.charts
    assert state.errors == []


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
