"""Panels' readings in any order, in any number of runs, with kills in between: the same rows in Druid.

Messages of some hours go through Kafka, landing, MongoDB, Flink, the lake and Druid in order of time, and `batch watch`
computes them. Then, from nothing each time, they come shuffled, some twice, in one or more runs. In each one
`selfgen batch watch` is killed with -9 while it computes slots, or makes reports, or Druid takes them in, before
another does what is left; some runs lose Flink's TaskManager as well. All rows of panel_report and panel_alarm must
be the same, to the last bit.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.chaos_panels import HOUR, SERVERS, Plan, Plant, System, messages, plant
from benchmarks.form import Figure
from benchmarks.servers import kill_server, own_stack
from selfgen.settings import Settings

#: The clocks of Lord Howe, which are half an hour further in summer, change at 15:30.
START = datetime(2026, 10, 3, 11, tzinfo=UTC)
HOURS = 5
#: In how many runs the readings of each of the twenty shuffles come.
RUNS = (1, 2, 1, 3) * 5
#: What a runner says before it is killed, and how long after, s.
STAGES = (("computes", 9.0), ("replaces", 9.0))


def run(settings: Settings, seed: int = 0) -> list[Figure]:
    """Compare shuffles with the order of time, on a stack of its own."""
    with own_stack(settings, "chaos_panels_order", *SERVERS) as own:
        return against_order(own, RUNS, seed)


def plan_of_hours() -> Plan:
    """Return the plant's plan."""
    return Plan(panels=6, windows=((START, START + HOURS * HOUR),), step_s=280, max_gap_s=300.0, apart=60)


def against_order(settings: Settings, runs: Sequence[int], first_seed: int = 0) -> list[Figure]:
    """Compare shuffles, each in so many runs, with the order of time."""
    plan = plan_of_hours()
    made = plant(plan)
    sent = messages(made, replaced=False)
    expected, different, kills = arrived(settings, plan, made, "in_order", [sent], None), 0, 0
    for seed, count in enumerate(runs, first_seed):
        chance = random.Random(seed)  # noqa: S311 - repeatable
        parts = shuffled(sent, count, chance)
        found = arrived(settings, plan, made, f"shuffle_{seed}", parts, chance)
        kills += count
        for name, rows in expected.items():
            wrong = set(rows).symmetric_difference(found[name])
            different += len(wrong)
            for line in sorted(wrong)[:3]:
                print(f"shuffle {seed}: {line}", file=sys.stderr)
    return [
        Figure("rows of panel_report", len(expected["panel_report"]), "rows", bar=(">=", 6 * HOURS)),
        Figure("rows of panel_alarm", len(expected["panel_alarm"]), "rows", bar=(">=", 1)),
        Figure("shuffles", len(runs), "shuffles", bar=("==", len(runs))),
        Figure("runners killed", kills, "kills", bar=("==", sum(runs))),
        Figure("rows that differ", different, "rows", bar=("==", 0)),
    ]


def shuffled(sent: dict[str, list[bytes]], count: int, chance: random.Random) -> list[dict[str, list[bytes]]]:
    """Return messages in any order, one in twenty twice, in so many parts."""
    parts: list[dict[str, list[bytes]]] = [{topic: [] for topic in sent} for _ in range(count)]
    for topic, values in sent.items():
        again = [*values, *chance.sample(values, len(values) // 20)]
        chance.shuffle(again)
        for number, value in enumerate(again):
            parts[number * count // len(again)][topic].append(value)
    return parts


def arrived(
    settings: Settings,
    plan: Plan,
    made: Plant,
    name: str,
    parts: Sequence[dict[str, list[bytes]]],
    chance: random.Random | None,
) -> dict[str, list[str]]:
    """Let messages arrive in parts, each computed; return the rows that Druid has then."""
    from selfgen.clients import druid, mongo

    shutil.rmtree(settings.lake_dir, ignore_errors=True)
    system = System(settings, made, name, plan.max_gap_s)
    now = datetime.now(UTC)
    for kind in ("light", "panel"):
        # these hours are long past: what comes is late
        mongo.advance_batch(system.settings, kind, round(now.timestamp() // 3600) * 3_600_000)
    if chance is None:
        system.register()
    else:
        for name_ in ("panel_report", "panel_alarm", "sensor_report", "sensor_alarm"):
            druid.replace(system.settings, name_, [], START - timedelta(days=1), START + timedelta(days=1))
    for number, part in enumerate(parts):
        system.land(part)
        if chance is not None:
            stage, longest = chance.choice(STAGES)
            killed(system.settings, stage, chance.uniform(0, longest))
            if number == 1:
                kill_server(settings, "taskmanager")
        system.catch_up(now)
    return {
        name_: sorted(
            json.dumps(row, sort_keys=True)
            for row in druid.query(
                system.settings,
                f"SELECT * FROM {name_} WHERE panel_id LIKE 'oracle-%'",  # noqa: S608 - our names
            )
        )
        for name_ in ("panel_report", "panel_alarm")
    }


def killed(settings: Settings, stage: str, after_s: float) -> None:
    """Have another process do what is to be done, and kill it some time after it said that it does something."""
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("selfgen")), "batch", "watch", "--once", "--json"],
        env=settings.environment() | {"NO_COLOR": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr  # noqa: S101 - it is piped
    said = next((line for line in process.stderr if line.startswith("panel:") and stage in line), None)
    stop = time.monotonic() + after_s
    while time.monotonic() < stop and process.poll() is None:
        threading.Event().wait(0.1)
    with suppress(ProcessLookupError):  # it was done already
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if said is None:
        raise AssertionError(f"the runner ended without {stage}")
