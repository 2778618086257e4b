"""`selfgen wind run` in the foreground: both jobs, each with a cluster of its own, stopped with savepoints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from flink_jobs import keeper
from selfgen.clients import kafka
from selfgen.settings import Settings
from stack.programs import WIND_JOBS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SELFGEN = str(Path(sys.executable).with_name("selfgen"))


def status() -> dict[str, dict[str, Any]]:
    done = subprocess.run([SELFGEN, "wind", "status", "--json"], capture_output=True, text=True, check=False)
    jobs = {job["job"]: job for job in json.loads(done.stdout)["jobs"]}
    assert done.returncode == (0 if all(job["state"] == "RUNNING" for job in jobs.values()) else 3)
    return jobs


def wait_for_status(process: subprocess.Popen[str], written: int) -> dict[str, dict[str, Any]]:
    end = time.monotonic() + 300
    while True:
        found = status()
        reports = found["write_sensor_wind"].get("written", {}).get("wind_report", 0)
        checkpoints = [job.get("checkpoint_age_s") for job in found.values()]
        if all(job["state"] == "RUNNING" for job in found.values()) and reports >= written and None not in checkpoints:
            return found
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, found
        time.sleep(1)


def blow(settings: Settings, seconds: int) -> None:
    """Send a reading a second to each partition, and a last one that closes their windows."""
    producer = kafka.producer(settings)
    first = round(time.time()) * 1000 - 1000 * (seconds + 60)
    for second in [*range(seconds), seconds + 30]:
        for partition in range(settings.partitions):
            reading = {"wind_id": f"here-{partition}", "timestamp": first + second * 1000, "wind_speed": 5.0}
            producer.produce("wind", json.dumps(reading).encode(), partition=partition)
    assert producer.flush(30) == 0


def test_both_jobs_run_in_the_foreground_until_ctrl_c_and_go_on_from_their_savepoints(stack):
    stack.up("kafka", "couchbase")
    stack.down("flink")  # what the cluster ran is not asked for here
    kafka.ensure_topics(stack.settings)
    assert {job["state"] for job in status().values()} == {"MISSING"}
    process = subprocess.Popen(
        [SELFGEN, "wind", "run"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"NO_COLOR": "1"},
    )  # fmt: skip
    children = []
    try:
        blow(stack.settings, 10)
        found = wait_for_status(process, written=20)
        for job in found.values():
            assert requests.get(job["page"].partition("/#")[0], timeout=5).ok
            assert job["restored_from"] is None
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()  # those that it started notice
    assert process.returncode == 0, said
    assert said.count("stopped") >= len(WIND_JOBS)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    for job in WIND_JOBS:
        saved = keeper.last_checkpoint(stack.settings, job.name)
        assert saved is not None
        assert saved.name.startswith("savepoint-"), said
