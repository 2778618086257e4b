"""The system's own long-running processes, run by the same supervisor as the servers.

They are known here by their commands alone, so that the stack depends on no process.
"""

from __future__ import annotations

import sys
from pathlib import Path

from selfgen.settings import Settings
from stack import probes
from stack.servers import Server, flink_environment


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def _selfgen() -> str:
    return str(Path(sys.executable).with_name("selfgen"))


def _running(_settings: Settings) -> str | None:
    """Take a process without an address for ready as soon as the supervisor runs it."""
    return None


LANDING = tuple(
    Server(
        name=name,
        description=f"landing of topic {topic}",
        needs=("kafka", "mongodb", "couchbase"),
        command=lambda _settings, module=name: _module(f"kafka_consumers.{module}"),
        ready=_running,
        stop_s=15,
    )
    for name, topic in (
        ("streaming_sensor_wind", "wind"),
        ("streaming_sensor_light", "light"),
        ("streaming_panel", "panel"),
    )
)

WIND_JOBS = tuple(
    Server(
        name=name,
        description=description,
        needs=("kafka", "jobmanager", "taskmanager", *needs),
        command=lambda _settings, module=name: _module(f"flink_jobs.{module}"),
        environment=flink_environment,
        ready=probes.flink_job(name),
        stop_s=30,
    )
    for name, description, needs in (
        ("rich_sensor_wind", "wind windows with place and owner", ("couchbase",)),
        ("write_sensor_wind", "wind reports and alarms", ()),
    )
)

WIND = (
    *WIND_JOBS,
    Server(
        name="wind_performance",
        description="throughput, lag and delay of the wind jobs",
        needs=("kafka",),
        command=lambda _settings: _module("flink_jobs.wind_performance"),
        ready=_running,
        stop_s=15,
    ),
)

BATCH = Server(
    name="batch_watch",
    description="the hours of panels and light sensors, computed as they end",
    needs=("mongodb", "couchbase", "jobmanager", "taskmanager", "broker", "historical", "indexer"),
    command=lambda _settings: [_selfgen(), "batch", "watch", "--json"],
    ready=_running,
    stop_s=60,
)

LIVE_FEED = Server(
    name="live_feed",
    description="the demo's devices, at real speed",
    needs=("kafka",),
    command=lambda settings: [
        *(_selfgen(), "simulate", "live"),
        *("--log", str(settings.build_dir / "demo" / "live.jsonl")),
        *("--counts", str(settings.build_dir / "demo" / "live.json")),
    ],
    ready=_running,
    stop_s=90,
)

PROGRAMS: dict[str, Server] = {program.name: program for program in (*LANDING, *WIND, BATCH, LIVE_FEED)}
