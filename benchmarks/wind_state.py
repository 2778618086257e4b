"""State and checkpoints of the wind jobs with a hundred thousand sensors, beside a thousand at the same rate.

Both jobs run on the local cluster as they are. Sensors send in turn, so that a round of all takes the longer the more
there are. Once each has been heard, what Flink says of every checkpoint is noted for a minute.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import requests

from benchmarks.form import Figure
from benchmarks.servers import room_for
from benchmarks.wind_feed import JOBS, Disorder, running, sending
from flink_jobs import keeper
from selfgen.clients import kafka
from selfgen.settings import Settings

SENSORS = (1_000, 100_000)
RATE = 2_000
MEASURED_S = 60.0
SERVERS = ("kafka", "couchbase", "flink")
_PATIENCE_S = 300.0

Checkpoint = dict[str, Any]


def run(settings: Settings) -> list[Figure]:
    """Measure each number of sensors on servers of its own."""
    return [figure for sensors in SENSORS for figure in measure(settings, sensors, MEASURED_S)]


def measure(settings: Settings, sensors: int, measured_s: float) -> list[Figure]:
    """Measure a number of sensors."""
    room = settings.model_copy(update=room_for(sensors))
    with (
        running(room, "wind_state", sensors, SERVERS) as own,
        sending(own, sensors, RATE, Disorder()),
    ):
        _await_windows(own, sensors)
        seen = _watch(own, measured_s)
    return [
        figure for name, checkpoints in seen.items() for figure in _figures(f"{sensors} sensors, {name}", checkpoints)
    ]


def _figures(name: str, checkpoints: list[Checkpoint]) -> list[Figure]:
    completed = [one for one in checkpoints if one["status"] == "COMPLETED"]
    median, worst = np.percentile([one["end_to_end_duration"] / 1000 for one in completed], [50, 100])
    return [
        Figure(f"{name}: state", round(completed[-1]["state_size"] / 2**20, 1), "MiB"),
        Figure(f"{name}: a checkpoint, p50", round(float(median), 2), "s"),
        Figure(f"{name}: the longest of {len(completed)}", round(float(worst), 2), "s"),
        Figure(f"{name}: failed", sum(one["status"] == "FAILED" for one in checkpoints), "checkpoints", bar=("==", 0)),
    ]


def _await_windows(settings: Settings, sensors: int) -> None:
    """Wait until the second job has reported as many windows as a round has sensors, after the first second."""
    deadline = time.monotonic() + _PATIENCE_S
    while sum(kafka.end_offsets(settings, "wind_report").values()) < sensors + RATE:
        if time.monotonic() > deadline:
            raise AssertionError(f"not all windows within {_PATIENCE_S:.0f} s")
        time.sleep(0.5)


def _watch(settings: Settings, seconds: float) -> dict[str, list[Checkpoint]]:
    """Return the checkpoints of both jobs that end within so many seconds."""
    seen: dict[str, dict[int, Checkpoint]] = {name: {} for name in JOBS}
    before = {name: {one["id"] for one in _history(settings, name)} for name in JOBS}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for name in JOBS:
            seen[name] |= {one["id"]: one for one in _history(settings, name) if one["id"] not in before[name]}
        time.sleep(0.5)
    return {name: [one for _, one in sorted(found.items())] for name, found in seen.items()}


def _history(settings: Settings, name: str) -> list[Checkpoint]:
    """Return what Flink says of a job's last ten checkpoints."""
    [job] = keeper.jobs(settings, name)
    answer = requests.get(f"http://{settings.flink}/jobs/{job['jid']}/checkpoints", timeout=5)
    answer.raise_for_status()
    history: list[Checkpoint] = answer.json()["history"]
    return history
