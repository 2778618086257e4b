"""WindHistory: late readings come into the windows of their hour; old windows are kept by the minute, then by the hour.

wind_late ─► hours marked ─► readings of MongoDB ─► windows, place and owner then ─► wind_report, the hour replaced
wind_report ─► hours of an age ─► rows of a minute, of an hour ────────────────────► wind_report, the hour replaced

A row says by its samples how much it stands for, so means weighted by them, greatest gusts and counts stay what they
were. An hour is exchanged at once; a pass that was killed does it again, with the same rows.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pandas as pd
from tenacity import (
    Retrying,
    retry_if_exception,
    retry_if_result,
    stop_after_delay,
    stop_any,
    stop_when_event_set,
    wait_fixed,
)

from flink_jobs import runner
from flink_jobs.rich_sensor_wind import NO_DIRECTION
from flink_jobs.slots import Source, periods
from selfgen.calendar import HOUR_MS
from selfgen.columns import ENRICHMENT, names

if TYPE_CHECKING:
    from threading import Event

    from selfgen.settings import Settings

NAME = "wind_history"
TOPIC = "wind"
REPORT = "wind_report"
#: An hour is merged when it ended so long ago: what streamed it into Druid has let go of it, landing has its readings.
RIPE_MS = 3 * HOUR_MS
#: In which grains old windows are kept, the finer first: ISO 8601 periods.
GRAINS = ("PT1M", "PT1H")
_WIND = Source(TOPIC, "wind_speed")
#: How long a pass waits for what is landing just now.
_LANDING_PATIENCE_S = 30.0
_PLACE = ("wind_id", *(column.name for column in ENRICHMENT))


def run_pass(
    settings: Settings, stop: Event, say: Callable[[str], object], now_ms: int | None = None
) -> dict[str, Any] | None:
    """Do what is to be done now, and return what was done; None where there was nothing.

    Raises
    ------
    flink_jobs.runner.Stopped
        `stop` was set while another run was waited for.
    """
    from selfgen.clients import druid

    began = time.monotonic()
    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    with runner.alone(settings, TOPIC, stop, say, (NAME,), (REPORT,)):
        late = mark_late(settings)
        if not druid.exists(settings, REPORT):
            return None
        rows = merged = coarser = 0
        for rows_of_hour in _merge(settings, stop, say, now_ms):
            merged, rows = merged + 1, rows + rows_of_hour
        for grain in GRAINS:
            for rows_of_hour in _coarsen(settings, grain, stop, say, now_ms):
                coarser, rows = coarser + 1, rows + rows_of_hour
    if not (late or merged or coarser):
        return None
    return {
        "kind": TOPIC,
        "late": late,
        "merged": merged,
        "coarser": coarser,
        "rows": {REPORT: rows},
        "computed_to": datetime.fromtimestamp(_due_ms(settings, "PT1M", now_ms) / 1000, UTC),
        "seconds": round(time.monotonic() - began, 1),
    }


# -- late readings -----------------------------------------------------------------------------------


def mark_late(settings: Settings) -> int:
    """Mark the hours of readings that came into `wind_late` since the last time; return how many readings."""
    from confluent_kafka import Consumer, TopicPartition

    from selfgen.clients import kafka, mongo

    consumer = Consumer(
        {
            "bootstrap.servers": settings.bootstrap_servers,
            "group.id": NAME,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",  # what Kafka has removed is not there to be read
        }
    )
    try:
        ends = kafka.end_offsets(settings, "wind_late")
        known = _committed(consumer, [TopicPartition("wind_late", number) for number in ends])
        consumer.assign([TopicPartition("wind_late", one.partition, max(one.offset, 0)) for one in known])
        hours, count, at_end = set[int](), 0, set[int]()
        while len(at_end) < len(ends):
            for message in consumer.consume(10_000, timeout=1.0):
                if message.error():
                    at_end.add(message.partition())
                else:
                    hours.add(msgspec.json.decode(message.value())["timestamp"] // HOUR_MS * HOUR_MS)
                    count += 1
        mongo.mark_dirty(mongo.database(settings), TOPIC, sorted(hours), "late")
        # also where there was nothing: Kafka forgets what nobody has committed for a week
        read = [one for one in consumer.position(consumer.assignment()) if one.offset >= 0]
        if offsets := read or [one for one in known if one.offset >= 0]:
            consumer.commit(offsets=offsets, asynchronous=False)
    finally:
        consumer.close()
    return count


def _committed(consumer: Any, partitions: list[Any]) -> list[Any]:
    """Return how far a group has read, once Kafka knows who keeps that."""
    from confluent_kafka import KafkaError, KafkaException

    unknown_yet = {
        *(KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE),
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    }

    def passes(error: BaseException) -> bool:
        return isinstance(error, KafkaException) and error.args[0].code() in unknown_yet

    again = Retrying(retry=retry_if_exception(passes), wait=wait_fixed(0.2), stop=stop_after_delay(30), reraise=True)
    return again(consumer.committed, partitions, timeout=30)


def _merge(settings: Settings, stop: Event, say: Callable[[str], object], now_ms: int) -> Iterator[int]:
    """Compute marked hours again from their readings; give the rows of each."""
    from couchbase_admin.registry import Registry
    from selfgen.clients import druid, mongo

    newest = druid.query(settings, f'SELECT TIMESTAMP_TO_MILLIS(MAX(__time)) AS "at" FROM {REPORT}')[0]["at"]
    ripe_ms = min(now_ms - RIPE_MS, (newest or 0) - HOUR_MS) - HOUR_MS
    marks = mongo.dirty_hours(settings, TOPIC, ripe_ms)
    if not marks:
        return
    if not _is_landed(settings, stop):
        say(f"wind: {len(marks)} hours with late readings wait for landing, which is behind: see selfgen ops topics")
        return
    gone = mongo.expired_hours(settings, TOPIC, marks[0].hour_ms, marks[-1].hour_ms + HOUR_MS)
    registry = Registry(settings)
    for mark in marks:
        if stop.is_set():
            return
        if mark.hour_ms in gone:
            say(f"wind: {_told(mark.hour_ms)} stays as it is, because its raw readings are no longer kept")
        else:
            say(f"wind: merges late readings into {_told(mark.hour_ms)}")
            windows = _windows(settings, registry, mark.hour_ms)
            landed, reported = int(windows["samples"].sum()), _samples(settings, mark.hour_ms)
            if landed < reported:
                say(f"wind: it stays as it is: MongoDB has {landed} readings of it, Druid {reported}")
            else:
                yield _replace(settings, mark.hour_ms, windows)
                for grain in GRAINS:
                    if mark.hour_ms < (mongo.batch_progress(settings, _progress(grain)) or 0):
                        _replace(settings, mark.hour_ms, coarser(settings, mark.hour_ms, grain))
        mongo.clear_dirty(settings, [mark])


def _is_landed(settings: Settings, stop: Event) -> bool:
    """Wait a little until MongoDB has what the topic has now; return whether it has."""
    from selfgen.clients import kafka, mongo

    ends = kafka.end_offsets(settings, TOPIC)
    progress = mongo.database(settings)["landing_progress"]

    def behind() -> bool:
        landed = {one["partition"]: one["next_offset"] for one in progress.find({"topic_id": TOPIC})}
        return any(landed.get(number, 0) < end for number, end in ends.items())

    waiting = Retrying(
        retry=retry_if_result(bool),
        stop=stop_any(stop_after_delay(_LANDING_PATIENCE_S), stop_when_event_set(stop)),
        wait=wait_fixed(0.5),
        retry_error_callback=lambda last: last.outcome.result(),
    )
    return not waiting(behind)


def _samples(settings: Settings, hour_ms: int) -> int:
    """Return how many readings Druid's rows of an hour stand for."""
    from selfgen.clients import druid

    hour = {"from": _moment(hour_ms), "to": _moment(hour_ms + HOUR_MS)}
    sql = f"SELECT SUM(samples) AS samples FROM {REPORT} WHERE __time >= %(from)s AND __time < %(to)s"
    return druid.query(settings, sql, hour)[0]["samples"] or 0


def _windows(settings: Settings, registry: Any, hour_ms: int) -> pd.DataFrame:
    """Return an hour's windows from its readings, with place and owner."""
    from selfgen.clients.mongo import read_readings

    readings = read_readings(settings, TOPIC, hour_ms, hour_ms + HOUR_MS, ["wind_speed", "wind_direction"])
    windows = windowed(readings)
    periods(registry, _WIND, windows["wind_id"].unique())  # waits for Couchbase
    places = registry.lookup(TOPIC, windows["wind_id"].to_numpy(), windows["timestamp"].to_numpy())
    return windows.assign(**{column.name: places[column.name].to_numpy() for column in ENRICHMENT})


def windowed(readings: pd.DataFrame) -> pd.DataFrame:
    """Return windows of a second, as `rich_sensor_wind` makes them.

    Parameters
    ----------
    readings : DataFrame
        `element_id`, `time` (epoch ms), `wind_speed` (m/s), `wind_direction` (°, or NaN); each reading once.
    """
    angle = np.radians(readings["wind_direction"])
    parts = readings[readings["wind_speed"].notna()].assign(
        timestamp=readings["time"] // 1000 * 1000,
        east=readings["wind_speed"] * np.sin(angle),
        north=readings["wind_speed"] * np.cos(angle),
    )
    groups = parts.rename(columns={"element_id": "wind_id"}).groupby(["wind_id", "timestamp"], observed=True)
    speed, vector = groups["wind_speed"], groups[["east", "north"]].sum(min_count=1)
    windows = pd.DataFrame(
        {
            "wind_speed": speed.mean(),
            "wind_gust": speed.max(),
            "wind_min": speed.min(),
            "wind_direction": _direction(vector["east"], vector["north"], speed.sum()),
            "samples": speed.size(),
        }
    )
    return windows.reset_index()


# -- old windows -------------------------------------------------------------------------------------


def _coarsen(settings: Settings, grain: str, stop: Event, say: Callable[[str], object], now_ms: int) -> Iterator[int]:
    """Keep hours of an age in a coarser grain; give the rows of each."""
    from selfgen.clients import druid, mongo

    due_ms = _due_ms(settings, grain, now_ms)
    next_ms = mongo.batch_progress(settings, _progress(grain)) or 0
    found = druid.query(
        settings,
        f"SELECT DISTINCT TIMESTAMP_TO_MILLIS(TIME_FLOOR(__time, 'PT1H')) AS \"hour\" FROM {REPORT}"
        " WHERE __time >= %(from)s AND __time < %(to)s ORDER BY 1",
        {"from": _moment(next_ms), "to": _moment(due_ms)},
    )
    for row in found:
        if stop.is_set():
            return
        say(f"wind: keeps {_told(row['hour'])} by {grain.removeprefix('PT')}")
        yield _replace(settings, row["hour"], coarser(settings, row["hour"], grain))
        mongo.advance_batch(settings, _progress(grain), row["hour"] + HOUR_MS)


def coarser(settings: Settings, hour_ms: int, grain: str) -> pd.DataFrame:
    """Return an hour's rows in a coarser grain, as Druid adds them up.

    The direction is that of the rows' vectors, each with its mean speed and samples as length.
    """
    from selfgen.clients import druid

    place = ", ".join(f'"{name}"' for name in _PLACE)
    run = "wind_speed * samples"
    rows = druid.query(
        settings,
        f"SELECT TIMESTAMP_TO_MILLIS(TIME_FLOOR(__time, '{grain}')) AS \"timestamp\", {place},"
        f" SUM({run}) / SUM(samples) AS wind_speed, MAX(wind_gust) AS wind_gust, MIN(wind_min) AS wind_min,"
        f" SUM({run} * SIN(RADIANS(wind_direction))) AS east, SUM({run} * COS(RADIANS(wind_direction))) AS north,"
        f" SUM({run}) AS run,"
        f" SUM(samples) AS samples FROM {REPORT} WHERE __time >= %(from)s AND __time < %(to)s GROUP BY 1, {place}",
        {"from": _moment(hour_ms), "to": _moment(hour_ms + HOUR_MS)},
    )
    found = pd.DataFrame(rows)
    east, north, run = (pd.to_numeric(found.pop(name)) for name in ("east", "north", "run"))
    return found.assign(wind_direction=_direction(east, north, run))


def _due_ms(settings: Settings, grain: str, now_ms: int) -> int:
    """Return where the hours end that are old enough for a grain, epoch ms."""
    age_h = settings.wind_seconds_h if grain == "PT1M" else settings.wind_minutes_days * 24
    return (now_ms - round(age_h * HOUR_MS)) // HOUR_MS * HOUR_MS


def _progress(grain: str) -> str:
    return f"{TOPIC}_{grain}"


# -- both --------------------------------------------------------------------------------------------


def _direction(east: pd.Series[float], north: pd.Series[float], run: pd.Series[float]) -> pd.Series[float]:
    """Return the directions of mean vectors, ° in [0, 360); NaN where next to nothing is left of the whole run."""
    angle = np.degrees(np.arctan2(east, north)) % 360 % 360  # a little under zero is 360 first
    return angle.where(np.hypot(east, north) > NO_DIRECTION * run)


def _replace(settings: Settings, hour_ms: int, rows: pd.DataFrame) -> int:
    """Make rows all of an hour's in Druid; return how many."""
    from selfgen.clients import druid

    hour = _moment(hour_ms)
    with _staging(settings) as folder:
        file = folder / "rows.json"
        rows[["timestamp", *names(REPORT)]].to_json(file, orient="records", lines=True, double_precision=15)
        return druid.replace(
            settings, REPORT, [file], hour, hour + timedelta(hours=1), rows=len(rows), timeout=120
        ).rows


@contextmanager
def _staging(settings: Settings) -> Iterator[Path]:
    folder = settings.lake_dir / ".staging" / f"{NAME}-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    yield folder
    # not where it failed: Druid may have a task still that reads it
    shutil.rmtree(folder, ignore_errors=True)


def _moment(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)


def _told(hour_ms: int) -> str:
    return f"{_moment(hour_ms):%Y-%m-%dT%H} UTC"
