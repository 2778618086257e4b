"""One hour of panels, from raw readings in MongoDB to rows in Druid, against a script of one process with Polars.

10 000 panels that sent each minute, then 100 000; both contestants are commands of their own, one after the other, on
a running stack that has computed the hour before, of a few minutes. `benchmarks/panels_script.py` is the script; both
must give the same energy and expected energy.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import bson
import numpy as np
import psutil
from bson.raw_bson import RawBSONDocument

from benchmarks.form import Figure
from benchmarks.meanwhile import meanwhile
from benchmarks.servers import own_stack, register, room_for
from kafka_consumers.documents import document
from selfgen.clients import druid, mongo
from selfgen.settings import Settings
from stack import lifecycle

HOUR = datetime(2026, 6, 15, 10, tzinfo=UTC)
#: Of the first contest, and how many times as many in the second.
PANELS, TIMES = 10_000, 10
SERVERS = ("mongodb", "couchbase", "druid", "flink")
BULK = 10_000


class Measured(NamedTuple):
    """How long it took until a command told its rows or ended, and until it ended, s; and the most memory, MiB."""

    seconds: float
    whole_seconds: float
    own_mib: float
    workers_mib: float
    rows: dict[str, float]


def run(settings: Settings) -> list[Figure]:
    """Measure both sizes, each on a stack of its own."""
    few, few_figures = contest(settings, PANELS)
    many, many_figures = contest(settings, PANELS * TIMES)
    later = round(few[0].seconds - few[1].seconds, 1)
    ratio = round(many[0].seconds / many[1].seconds, 2)
    memory = round(many[0].workers_mib / few[0].workers_mib, 2)
    return [
        *few_figures,
        Figure(f"{PANELS} panels: more than the script", later, "s", bar=("<=", 15)),
        *many_figures,
        Figure(f"{PANELS * TIMES} panels: over the script", ratio, "×", bar=("<=", 1.3)),
        Figure(f"{PANELS * TIMES} panels: workers' memory over that of {PANELS}", memory, "×"),
    ]


def contest(settings: Settings, panels: int) -> tuple[tuple[Measured, Measured], list[Figure]]:
    """Return how both did, ours first."""
    with own_stack(settings.model_copy(update=room_for(panels)), "panels_hour", *SERVERS) as own:
        ids = [f"panel-{number:06d}" for number in range(panels)]
        register(own, "panel", ids)
        mongo.ensure_collections(own)
        insert(own, ids, HOUR - timedelta(minutes=3), 67)
        # the first jobs of a cluster are slow, and so are the first rows of a data source: the last minutes before
        timed(own, run_hour(HOUR - timedelta(hours=1)))
        ours = timed(own, run_hour(HOUR))
        script = timed(own, [sys.executable, "-m", "benchmarks.panels_script", f"{HOUR:%Y-%m-%dT%H}"])
    for name, value in ours.rows.items():
        if not np.isclose(value, script.rows[name], rtol=1e-9):
            raise AssertionError(f"{name}: {value} of the jobs, {script.rows[name]} of the script")
    told = f"{panels} panels, {panels * 60} readings"
    return (ours, script), [
        Figure(f"{told}: rows", ours.rows["n"], "rows", bar=("==", panels)),
        Figure(f"{told}: readings to rows", round(ours.seconds, 1), "s", peer=round(script.seconds, 1)),
        Figure(f"{told}: and the day's sums after them", round(ours.whole_seconds - ours.seconds, 1), "s"),
        Figure(f"{told}: peak memory of the command", round(ours.own_mib), "MiB", peer=round(script.own_mib)),
        Figure(f"{told}: peak memory of Flink's Python workers", round(ours.workers_mib), "MiB"),
    ]


def run_hour(hour: datetime) -> list[str]:
    """Return the command that computes an hour."""
    return [str(Path(sys.executable).with_name("selfgen")), "panels", "run", "--hour", f"{hour:%Y-%m-%dT%H}"]


def insert(settings: Settings, ids: Sequence[str], start: datetime, minutes: int) -> None:
    """Put readings of so many minutes into MongoDB as landing does."""
    chance = np.random.default_rng(8)
    with mongo.connect(settings) as client:
        topic = client[settings.mongodb_database]["topic"]
        for minute in range(minutes):
            time_ms = round((start + timedelta(minutes=minute)).timestamp() * 1000)
            power = np.round(chance.uniform(50, 380, len(ids)), 1).tolist()
            for first in range(0, len(ids), BULK):
                part = range(first, min(first + BULK, len(ids)))
                topic.insert_many(
                    [RawBSONDocument(bson.encode(_reading(ids[n], time_ms, power[n]))) for n in part], ordered=False
                )


def _reading(panel_id: str, time_ms: int, power: float) -> dict[str, Any]:
    return document(
        "panel",
        mongo.reading_id("panel", time_ms, panel_id),
        panel_id,
        time_ms,
        {"panel_id": panel_id, "timestamp": time_ms, "power": power},
        client_id=None,
        postal_code=None,
        received_ms=time_ms,
        partition=0,
        offset=0,
    )


def timed(settings: Settings, command: list[str]) -> Measured:
    """Run a command to its end, and look at what Druid has then.

    The jobs' command tells its rows once Druid serves them, and then has the day's sums made.
    """
    taskmanager = next(state.pid for state in lifecycle.status(settings) if state.name == "taskmanager")
    most = {"own": 0.0, "workers": 0.0}
    began = time.monotonic()
    process = subprocess.Popen(command, env=settings.environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for

    def watch(stop: threading.Event) -> None:
        while not stop.wait(0.2):
            most["workers"] = max(most["workers"], sum(_mib(one) for one in _family(taskmanager) if _is_python(one)))
            most["own"] = max(most["own"], sum(map(_mib, _family(process.pid))))

    told = []
    with meanwhile(watch):
        for line in process.stdout:
            told.append(time.monotonic() - began)
            print(line, end="", file=sys.stderr)
        if process.wait():
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        whole_seconds = time.monotonic() - began
    rows = {}
    if druid.exists(settings, "panel_report"):
        [rows] = druid.query(
            settings,
            "SELECT COUNT(*) AS n, SUM(power_gen) AS energy, SUM(expected_gen) AS expected, SUM(samples) AS samples, "
            "SUM(completeness) AS covered, COUNT(DISTINCT client_id) AS clients FROM panel_report "
            "WHERE __time = %(hour)s",
            {"hour": HOUR},
        )
    return Measured(min(told, default=whole_seconds), whole_seconds, most["own"], most["workers"], rows)


def _family(pid: int | None) -> list[psutil.Process]:
    """Return a process and all below it; none, where it has ended."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return []


def _is_python(process: psutil.Process) -> bool:
    try:
        return "python" in process.name()
    except psutil.Error:
        return False


def _mib(process: psutil.Process) -> float:
    try:
        return process.memory_info().rss / 2**20
    except psutil.Error:
        return 0.0
