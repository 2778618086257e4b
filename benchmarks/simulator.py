"""The simulator: messages a second to a file on one core, and memory over ten times the span.

The peer writes messages as one does by hand: a dictionary, `isoformat` and `json.dumps` for each. It is compared
with what does the same in the simulator: the same measured values in, the same lines out.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import psutil

from benchmarks.form import Figure
from selfgen.settings import Settings
from selfgen.simulation.batch import Encoder, Times, text_of
from selfgen.simulation.fleet import Fleet, make_fleet
from selfgen.simulation.measured import HOUR_MS, MINUTE_MS, Replay
from selfgen.simulation.noise import Floats

_INSTALLATIONS = 100
_START = datetime(2026, 6, 1, tzinfo=UTC)
_HOURS = 3
_LONGER = 10
_RUNS = 3

_MESSAGES_A_SECOND = 100_000
_MEMORY_GROWTH = 1.1


#: The command, and a copy of its process's own status at its end: the peak that `wait4` tells of is at least that of
#: the process that started it.
_PROGRAM = """
import atexit, shutil, sys
atexit.register(shutil.copyfile, "/proc/self/status", sys.argv.pop(1))
from selfgen.cli import main
main()
"""


class _Run(NamedTuple):
    messages: int
    wall_s: float
    cpu_s: float
    memory_mib: float


def run(settings: Settings) -> list[Figure]:
    """Return throughput (best of three runs), the peer's, and peak memory over 1 × and 10 × the span."""
    settings.build_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.build_dir) as folder:
        file = Path(folder) / "messages.jsonl"
        best = min((_simulate(_HOURS, file, Path(folder)) for _ in range(_RUNS)), key=lambda measured: measured.cpu_s)
        writing, by_hand = _writing(file, Path(folder) / "by_hand.jsonl")
        long = _simulate(_HOURS * _LONGER, Path(os.devnull), Path(folder))
    # by processor time, so that a busy machine measures the same
    rate = round(best.messages / best.cpu_s)
    growth = round(long.memory_mib / best.memory_mib, 3)
    return [
        Figure("messages to a file, one core", rate, "messages/s", bar=(">=", _MESSAGES_A_SECOND)),
        Figure("the same by the clock", round(best.messages / best.wall_s), "messages/s"),
        Figure("writing alone", round(writing), "messages/s", round(by_hand), (">=", round(by_hand))),
        Figure("messages of a run", best.messages, "messages"),
        Figure("peak memory", round(best.memory_mib, 1), "MiB"),
        Figure(f"peak memory, {_LONGER} × the span", round(long.memory_mib, 1), "MiB"),
        Figure("growth of memory", growth, "×", bar=("<=", _MEMORY_GROWTH)),
    ]


def _simulate(hours: int, output: Path, folder: Path) -> _Run:
    """Run the simulator in a process of its own, on one core."""
    end = _START + timedelta(hours=hours)
    status_file = Path(tempfile.mkstemp(dir=folder)[1])
    command = [sys.executable, "-c", _PROGRAM, str(status_file), "simulate", "run", "--json"]
    command += ["--meter", "--faulty", "0.1", "--installations", str(_INSTALLATIONS), "--output", str(output)]
    command += ["--start", f"{_START:%Y-%m-%dT%H:%M:%S}", "--end", f"{end:%Y-%m-%dT%H:%M:%S}"]
    with tempfile.TemporaryFile() as counts:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=counts)
        psutil.Process(process.pid).cpu_affinity([min(os.sched_getaffinity(0))])
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        counts.seek(0)
        messages = sum(topic["produced"] for topic in json.load(counts).values())
    return _Run(messages, wall_s, usage.ru_utime + usage.ru_stime, _peak_mib(status_file.read_text()))


def _peak_mib(status: str) -> float:
    """Return the greatest resident memory of a process, from the text of its `/proc/PID/status`."""
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) / 1024


def _writing(file: Path, by_hand: Path) -> tuple[float, float]:
    """Return messages/s of processor time of writing the same readings by the simulator and by hand."""
    fleet = make_fleet(_INSTALLATIONS)
    begin = int(_START.timestamp()) * 1000
    hours = [np.arange(hour, hour + HOUR_MS, MINUTE_MS) for hour in range(begin, begin + 12 * HOUR_MS, HOUR_MS)]
    replay = Replay(fleet, "panel")
    # NumPy and Python round halves differently, so both get rounded values
    readings = [(times, np.round(replay.at(times)["power"], 2)) for times in hours]

    def rate(write: Callable[[Fleet, list[tuple[Times, Floats]], Path], int], output: Path) -> float:
        began = time.process_time()
        written = write(fleet, readings, output)
        return written / (time.process_time() - began)

    ours = max(rate(_write, file) for _ in range(_RUNS))
    theirs = max(rate(_write_by_hand, by_hand) for _ in range(_RUNS))
    if [json.loads(line) for line in file.open()] != [json.loads(line) for line in by_hand.open()]:
        raise AssertionError("the simulator and the peer did not write the same messages")
    return ours, theirs


def _write(fleet: Fleet, readings: list[tuple[Times, Floats]], output: Path) -> int:
    encoder, written = Encoder(fleet, "panel"), 0
    with output.open("wb") as file:
        for times, power in readings:
            batch = encoder.encode(times, {"power": power}, ~np.isnan(power))
            file.write(text_of(batch.lines()))
            written += len(batch)
    return written


def _write_by_hand(fleet: Fleet, readings: list[tuple[Times, Floats]], output: Path) -> int:
    ids, zones = fleet.ids("panel"), [ZoneInfo(client.time_zone) for client in fleet.owners("panel")]
    written = 0
    with output.open("w") as file:
        for times, power in readings:
            for event_ms, row in zip(times.tolist(), power.tolist(), strict=True):
                for number, value in enumerate(row):
                    if math.isnan(value):
                        continue
                    timestamp: int | str = event_ms
                    if number % 2:
                        timestamp = datetime.fromtimestamp(event_ms / 1000, zones[number]).isoformat()
                    reading = {"panel_id": ids[number], "timestamp": timestamp, "power": round(value, 2)}
                    file.write(json.dumps(["panel", ids[number], event_ms, reading, "landed"]) + "\n")
                    written += 1
    return written
