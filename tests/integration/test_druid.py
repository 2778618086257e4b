"""Druid on real servers: supervisors, the replacing of hours, queries that tell the truth."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import requests
import yaml

from flink_jobs import runner, write_panel
from selfgen.clients import druid, druid_storage, kafka, superset
from selfgen.columns import DIFFERENCES
from selfgen.settings import Settings
from tests.integration.conftest import Stack

pytestmark = pytest.mark.integration

HOUR = timedelta(hours=1)
START = datetime(2026, 3, 29, 10, tzinfo=UTC)


@pytest.fixture(scope="module")
def settings(stack: Stack) -> Settings:
    stack.up("kafka", "druid")
    kafka.ensure_topics(stack.settings)
    return stack.settings


def milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def reports(start: datetime, count: int, hours: int = 1, **columns: Any) -> list[dict[str, Any]]:
    first = milliseconds(start)
    return [
        {"timestamp": first + i % hours * 3_600_000, "panel_id": f"P{i}", "power_gen": 0.1 * i, "samples": i} | columns
        for i in range(count)
    ]


def energy_by_hour(settings: Settings, start: datetime, hours: int) -> dict[str, tuple[int, float]]:
    rows = druid.query(
        settings,
        "SELECT FLOOR(__time TO HOUR) AS slot, COUNT(*) AS n, SUM(power_gen) AS energy FROM panel_report"
        " WHERE __time >= %(start)s AND __time < %(end)s GROUP BY 1",
        {"start": start, "end": start + HOUR * hours},
    )
    return {row["slot"][11:13]: (row["n"], row["energy"]) for row in rows}


#: How often Druid is asked to compact: each time its coordinator looks at all segments.
ASKED_EACH_S = 2


def wait_for(probe: Callable[[], bool], timeout_s: float = 60, every_s: float = 0.1) -> None:
    deadline = time.monotonic() + timeout_s
    while not probe():
        assert time.monotonic() < deadline, "not in time"
        threading.Event().wait(every_s)


def await_compacted(settings: Settings, datasource: str, probe: Callable[[], bool]) -> None:
    """Have Druid compact until it is so; else tell what its tasks did, and what it thinks of the data source."""

    def compacted() -> bool:
        druid.coordinator(settings, "POST", "compaction/compact")
        return probe()

    try:
        wait_for(compacted, timeout_s=300, every_s=ASKED_EACH_S)
    except AssertionError as error:
        tasks = druid.query(
            settings,
            "SELECT task_id, created_time, duration, status, runner_status, error_msg FROM sys.tasks"
            " WHERE datasource = %(datasource)s ORDER BY created_time DESC LIMIT 20",
            {"datasource": datasource},
        )
        status = druid.coordinator(settings, "GET", "compaction/status").text
        raise AssertionError(f"{datasource} is not compacted: {status}; {tasks}") from error


def test_supervisors_are_applied_once(settings: Settings) -> None:
    first = druid.apply_supervisors(settings)
    assert set(first) == {"wind_report", "wind_alarm", "topic_performance"}
    assert set(druid.apply_supervisors(settings).values()) == {"unchanged"}
    assert not any(druid.diff_supervisors(settings).values())
    moved = settings.model_copy(update={"kafka_bootstrap": f"localhost:{settings.port('kafka')}"})
    [line] = druid.diff_supervisors(moved)["wind_report"]
    assert line.startswith("spec.ioConfig.consumerProperties.bootstrap.servers: ")
    assert set(druid.apply_supervisors(moved).values()) == {"changed"}
    assert set(druid.apply_supervisors(settings).values()) == {"changed"}


def test_a_supervisor_that_was_suspended_is_told_and_goes_on_when_applied(settings: Settings) -> None:
    druid.apply_supervisors(settings)
    suspend = f"{settings.coordinator}/druid/indexer/v1/supervisor/wind_alarm/suspend"
    requests.post(suspend, timeout=30).raise_for_status()
    assert druid.diff_supervisors(settings)["wind_alarm"] == ["suspended: true → false"]
    assert druid.apply_supervisors(settings)["wind_alarm"] == "changed"
    assert druid.diff_supervisors(settings)["wind_alarm"] == []


def test_a_stream_is_taken_in_once_and_the_unreadable_is_counted(settings: Settings) -> None:
    druid.apply_supervisors(settings)
    now = milliseconds(datetime.now(UTC))
    producer = kafka.producer(settings, **{"transactional.id": "test_druid", "delivery.timeout.ms": 30_000})
    producer.init_transactions(30)

    def send(messages: list[bytes], commit: bool = True) -> None:
        producer.begin_transaction()
        for message in messages:
            producer.produce("wind_report", message)
        producer.flush(30)
        (producer.commit_transaction if commit else producer.abort_transaction)(30)

    windows = [
        json.dumps({"timestamp": now - i, "wind_id": f"W{i % 7}", "wind_speed": i / 10}).encode() for i in range(1000)
    ]
    send([*windows, b"{broken", b'{"wind_id":"W1"}'])
    send(windows, commit=False)

    def landed() -> dict[str, Any]:
        if not druid.exists(settings, "wind_report"):
            return {"n": 0}
        sql = "SELECT COUNT(*) AS n, SUM(wind_speed) AS speed, COUNT(DISTINCT wind_id) AS sensors FROM wind_report"
        return druid.query(settings, sql)[0]

    wait_for(lambda: landed()["n"] >= 1000)
    wait_for(lambda: druid.supervisor_status(settings)["wind_report"].get("unparseable") == 2)
    assert landed() == {"n": 1000, "speed": pytest.approx(49_950.0), "sensors": 7}
    status = druid.supervisor_status(settings)["wind_report"]
    assert (status["healthy"], status["processed"], status["thrown_away"]) == (True, 1000, 0)


def test_hours_are_replaced_and_no_others(settings: Settings, tmp_path: Path) -> None:
    file = write(tmp_path / "a.json.gz", reports(START, 1000, hours=2))
    for _ in range(2):
        done = druid.replace(settings, "panel_report", [file], START, START + 2 * HOUR, rows=1000)
        assert done.rows == 1000
        found = energy_by_hour(settings, START, 2)
        assert found == {"10": (500, pytest.approx(24_950.0)), "11": (500, pytest.approx(25_000.0))}
    smaller = write(tmp_path / "b.json.gz", reports(START, 3))
    druid.replace(settings, "panel_report", [smaller], START, START + HOUR)
    assert energy_by_hour(settings, START, 2) == {"10": (3, pytest.approx(0.3)), "11": (500, pytest.approx(25_000.0))}
    empty = write(tmp_path / "c.json.gz", [])
    assert druid.replace(settings, "panel_report", [empty], START, START + HOUR).rows == 0
    never = START + 1000 * HOUR
    assert druid.replace(settings, "panel_report", [empty], never, never + HOUR).rows == 0  # nor was there ever any
    assert set(energy_by_hour(settings, START, 2)) == {"11"}
    assert druid.replace(settings, "panel_report", [], START + HOUR, START + 2 * HOUR).rows == 0
    assert druid.replace(settings, "panel_report", [], START - 9 * HOUR, START - 8 * HOUR).rows == 0  # never had any
    assert energy_by_hour(settings, START, 2) == {}
    druid.replace(settings, "panel_report", [file], START, START + 2 * HOUR)
    assert sum(n for n, _ in energy_by_hour(settings, START, 2).values()) == 1000


def test_values_come_back_as_they_went(settings: Settings, tmp_path: Path) -> None:
    start = START + 24 * HOUR
    values = {"power_gen": 0.1 + 0.2, "acum_year": 1e15 / 3, "latitude": -33.868812345678901, "samples": 2**53 + 1}
    texts = {"name": "Ñandú O'Hara", "address": "C:\\", "model": '"{', "postal_code": "08001"}
    row = {"timestamp": milliseconds(start), "panel_id": "*", **values, **texts}
    file = write(tmp_path / "a.json.gz", [row, {"timestamp": milliseconds(start), "panel_id": "other"}])
    druid.replace(settings, "panel_report", [file], start, start + HOUR)
    where = "FROM panel_report WHERE __time = %(start)s"
    [found] = druid.query(
        settings,
        f"SELECT * {where} AND panel_id = '*' AND name = %(name)s",
        {"start": start, "name": texts["name"]},
    )
    assert {name: found[name] for name in [*values, *texts]} == values | texts
    assert found["__time"] == "2026-03-30T10:00:00.000Z"
    assert found["diff_last_year"] is None
    both = druid.query(
        settings,
        f"SELECT panel_id, address {where} AND panel_id IN (%(ids)s)",
        {"start": start, "ids": ["*", "other", "third"]},
    )
    assert sorted((one["panel_id"], one["address"]) for one in both) == [("*", "C:\\"), ("other", None)]


def test_what_cannot_be_taken_in_leaves_the_hours_as_they_were(settings: Settings, tmp_path: Path) -> None:
    start = START + 48 * HOUR
    good = write(tmp_path / "good.json.gz", reports(start, 5))
    druid.replace(settings, "panel_report", [good], start, start + HOUR)
    broken = write(
        tmp_path / "broken.json.gz", [*reports(start, 2), {"timestamp": milliseconds(start), "samples": "x"}]
    )
    with pytest.raises(druid.TaskFailed, match=r"Could not convert value \[x\] to long"):
        druid.replace(settings, "panel_report", [broken], start, start + HOUR)
    with pytest.raises(FileNotFoundError, match=r"away\.json"):
        druid.replace(settings, "panel_report", [tmp_path / "away.json"], start, start + HOUR)
    with pytest.raises(ValueError, match="is no data source"):
        druid.replace(settings, "wind_reports", [good], start, start + HOUR)
    assert energy_by_hour(settings, start, 1) == {"10": (5, pytest.approx(1.0))}
    outside = write(tmp_path / "outside.json.gz", reports(start, 2, hours=2))
    with pytest.raises(druid.DruidError, match="left out 1 rows outside"):
        druid.replace(settings, "panel_report", [outside], start, start + HOUR)
    with pytest.raises(druid.DruidError, match="wrote 5 rows of 6"):
        druid.replace(settings, "panel_report", [good], start, start + HOUR, rows=6)


def test_a_table_without_rows_is_known_as_such(settings: Settings) -> None:
    assert not druid.exists(settings, "sensor_alarm")
    with pytest.raises(druid.UnknownDatasource, match="sensor_alarm"):
        druid.query(settings, "SELECT * FROM sensor_alarm")
    with pytest.raises(druid.DruidError, match="Incorrect syntax") as error:
        druid.query(settings, "SELECT FROM WHERE")
    assert not isinstance(error.value, druid.UnknownDatasource)
    assert druid.query(settings, "SELECT n FROM (VALUES (1)) AS t (n) WHERE n = 0") == []


def test_how_druid_keeps_what_it_has_is_applied_once(settings: Settings) -> None:
    first = druid_storage.apply(settings)
    assert {outcome for kind in first.values() for outcome in kind.values()} == {"created"}
    again = druid_storage.apply(settings)
    assert {outcome for kind in again.values() for outcome in kind.values()} == {"unchanged"}
    stated = druid_storage.read("compaction", "panel_alarm")
    druid.coordinator(settings, "POST", "config/compaction", body=stated | {"skipOffsetFromLatest": "P9D"})
    changes = druid_storage.diff(settings)
    assert changes["compaction"].pop("panel_alarm") == ['skipOffsetFromLatest: "P9D" → "P2D"']
    assert not any(lines for kind in changes.values() for lines in kind.values())
    rules = [rule | {"useDefaultTierForNull": True} for rule in druid_storage.read("retention", "panel_alarm")]
    druid.coordinator(settings, "POST", "rules/panel_alarm", body=rules)
    druid.coordinator(settings, "POST", "config/compaction", body=stated | {"taskContext": {"priority": 70}})
    changes = druid_storage.diff(settings)
    assert changes["compaction"].pop("panel_alarm") == ['taskContext: {"priority": 70} → null']
    assert all(line.endswith(": true → false") for line in changes["retention"].pop("panel_alarm"))
    assert not any(lines for kind in changes.values() for lines in kind.values())
    done = druid_storage.apply(settings)
    assert (done["compaction"]["panel_alarm"], done["retention"]["panel_alarm"]) == ("changed", "changed")
    assert not any(lines for kind in druid_storage.diff(settings).values() for lines in kind.values())
    for datasource in first["compaction"]:  # or it would work beside the other tests
        druid.coordinator(settings, "DELETE", f"config/compaction/{datasource}")


def light_by_hour(settings: Settings) -> dict[str, tuple[int, float]]:
    sql = "SELECT FLOOR(__time TO HOUR) AS h, COUNT(*) AS n, SUM(irradiation) AS light FROM sensor_report GROUP BY 1"
    return {row["h"][:13]: (row["n"], row["light"]) for row in druid.query(settings, sql)}


def test_compacted_hours_hold_the_same_rows_and_are_replaced_alone(settings: Settings, tmp_path: Path) -> None:
    start, late = datetime(2026, 1, 10, tzinfo=UTC), datetime(2026, 5, 10, tzinfo=UTC)

    def replace(start: datetime, hours: int, rows: int) -> None:
        first = milliseconds(start)
        lights = [
            {"timestamp": first + i % hours * 3_600_000, "light_id": f"L{i % 7}", "irradiation": i} for i in range(rows)
        ]
        file = write(tmp_path / "rows.json.gz", lights)
        druid.replace(settings, "sensor_report", [file], start, start + hours * HOUR, rows=rows)

    def compacted() -> bool:
        return druid_storage.status(settings)["sensor_report"]["segments"] == 2

    replace(start, 3, 900)
    replace(late, 1, 1)
    before = light_by_hour(settings)
    assert druid_storage.status(settings)["sensor_report"]["segments"] == 4
    druid.coordinator(settings, "POST", "config/compaction", body=druid_storage.read("compaction", "sensor_report"))
    await_compacted(settings, "sensor_report", compacted)
    assert light_by_hour(settings) == before
    wait_for(lambda: druid_storage.status(settings)["sensor_report"]["rows"] == 901)
    druid.coordinator(settings, "DELETE", "config/compaction/sensor_report")
    replace(start, 1, 3)
    assert light_by_hour(settings) == before | {"2026-01-10T00": (3, 3.0)}


def test_days_are_segments_of_their_own_in_which_hours_are_replaced(settings: Settings, tmp_path: Path) -> None:
    start, held = datetime(2026, 1, 10, tzinfo=UTC), {}

    def replace(first: int, hours: int, rows_each: int) -> None:
        times = [milliseconds(start + hour * HOUR) for hour in range(first, first + hours)]
        rows = [{"timestamp": time, "light_id": f"L{i}", "energy": i} for time in times for i in range(rows_each)]
        file = write(tmp_path / "rows.json.gz", rows)
        low = start + first * HOUR
        druid.replace(settings, "light_surface", [file] if rows else [], low, low + hours * HOUR, rows=len(rows))
        held.update(dict.fromkeys(times, rows_each))
        sql = "SELECT TIMESTAMP_TO_MILLIS(__time) AS t, COUNT(*) AS n FROM light_surface GROUP BY 1"
        assert {row["t"]: row["n"] for row in druid.query(settings, sql)} == {t: n for t, n in held.items() if n}

    replace(0, 72, 5)
    assert druid_storage.status(settings)["light_surface"]["segments"] == 3
    for some in (30, 1, 7), (31, 2, 0), (40, 20, 3), (24, 24, 2), (47, 26, 4), (0, 72, 6):
        replace(*some)
    assert druid_storage.status(settings)["light_surface"]["segments"] == 4  # three days, and the hour after them


def test_the_local_clock_is_kept_as_a_number(settings: Settings, tmp_path: Path) -> None:
    start = datetime(2026, 10, 25, tzinfo=UTC)  # Madrid's day of 25 hours
    shown = ["2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T12:30:00+10:30", None]
    times = [milliseconds(start), milliseconds(start + HOUR), milliseconds(start + 2 * HOUR), milliseconds(start)]
    rows = [
        {"timestamp": time, "light_id": f"clock{i}", **({"local_time": text} if text else {})}
        for i, (time, text) in enumerate(zip(times, shown, strict=True))
    ]
    druid.replace(settings, "sensor_report", [write(tmp_path / "a.json.gz", rows)], start, start + 3 * HOUR)
    sql = "SELECT light_id, local_clock, local_month FROM sensor_report WHERE light_id LIKE 'clock%'"
    clocks = [milliseconds(start + timedelta(hours=hours)) for hours in (2, 2, 12.5)]
    found = {row["light_id"]: (row["local_clock"], row["local_month"]) for row in druid.query(settings, sql)}
    assert found == {f"clock{i}": (clock, "2026-10") for i, clock in enumerate(clocks)} | {"clock3": (None, None)}


def test_what_the_performance_ratio_is_made_of_is_kept(settings: Settings, tmp_path: Path) -> None:
    start = START + 240 * HOUR
    judged = {"performance_ratio": 0.9, "expected_gen": 100.0, "completeness": 0.5}
    unknown = judged | {"performance_ratio": None}
    rows = [
        {"timestamp": milliseconds(start), "panel_id": f"judged{i}", **one} for i, one in enumerate((judged, unknown))
    ]
    druid.replace(settings, "panel_report", [write(tmp_path / "a.json.gz", rows)], start, start + HOUR)
    sql = "SELECT panel_id, judged_gen, judged_expected FROM panel_report WHERE panel_id LIKE 'judged%'"
    found = {row["panel_id"]: (row["judged_gen"], row["judged_expected"]) for row in druid.query(settings, sql)}
    assert found == {"judged0": (pytest.approx(45.0), 50.0), "judged1": (None, None)}


def metrics(table: str) -> dict[str, str]:
    """Return a dataset's metrics in SQL, by name."""
    dataset = yaml.safe_load((superset.ASSETS / "datasets" / "druid" / f"{table}.yaml").read_text())
    return {metric["metric_name"]: metric["expression"] for metric in dataset["metrics"]}


def by_client(settings: Settings, table: str, **ranges: datetime) -> dict[str, dict[str, Any]]:
    """Return every metric of panels named `roll…`, of each client and month."""
    figures = ", ".join(f'{expression} AS "{name}"' for name, expression in metrics(table).items())
    where = "panel_id LIKE 'roll%%'"
    if ranges:
        where += " AND MILLIS_TO_TIMESTAMP(local_clock) >= %(start)s AND MILLIS_TO_TIMESTAMP(local_clock) < %(end)s"
    sql = f"SELECT client || ' ' || local_month AS k, {figures} FROM {table} WHERE {where} GROUP BY 1"
    rows = druid.query(settings, sql, ranges) if ranges else druid.query(settings, sql.replace("%%", "%"))
    return {row.pop("k"): row for row in rows}


def panel_rows(start: datetime, hours: int, factor: float = 1.0) -> list[dict[str, Any]]:
    """Return reports by Madrid's clock of panels that change hands; some have nothing to compare with."""
    rows = []
    for hour in range(hours):
        moment = start + hour * HOUR
        local = moment.astimezone(ZoneInfo("Europe/Madrid"))
        for panel in range(3):
            energy = factor * (hour % 24 + panel / 7)
            judged = {"performance_ratio": 0.9, "expected_gen": 1.1 * energy} if hour % 3 else {"expected_gen": None}
            compared = {f"diff_last_{name}": energy / 9 for name in DIFFERENCES[: hour % 7]}
            rows.append(
                {
                    "timestamp": milliseconds(moment),
                    "panel_id": f"roll{panel}",
                    "power_gen": energy,
                    "estimated_gen": 0.5,
                }
                | {"client_id": f"roll{(panel + (hour > 30)) % 2}", "name": "Roll", "postal_code": f"2800{panel}"}
                | {"local_time": local.isoformat(), "local_date": f"{local:%Y-%m-%d}", "time_zone": "Europe/Madrid"}
                | {"power_max": energy * 2, "completeness": None if hour % 11 == 5 else (hour % 10) / 10}
                | judged
                | compared
            )
    return rows


def test_a_roll_up_answers_every_metric_as_its_source_does(settings: Settings, tmp_path: Path) -> None:
    start = datetime(2025, 9, 29, 7, tzinfo=UTC)

    def agree(**ranges: datetime) -> None:
        known = by_client(settings, "panel_report", **ranges)
        assert by_client(settings, "panel_day", **ranges) == {
            key: pytest.approx(row, rel=1e-12) for key, row in known.items()
        }

    def replaced(start: datetime, rows: list[dict[str, Any]], hours: int) -> None:
        files = [write(tmp_path / "rows.json.gz", rows)] if rows else []
        druid.replace(settings, "panel_report", files, start, start + hours * HOUR)
        druid.roll_up(settings, "panel_day", start, start + hours * HOUR)
        agree()
        for day in (29, 30, 31):
            low = datetime(2025, 9, 1, tzinfo=UTC) + timedelta(days=day - 1)
            agree(start=low, end=low + timedelta(days=1))

    replaced(start, panel_rows(start, 70), 70)
    found = by_client(settings, "panel_day")
    assert len(found) == 4
    assert all(value != 0 for row in found.values() for value in row.values())
    # again, a part of a day anew, an hour without rows any more, and everything at once
    replaced(start, panel_rows(start, 70), 70)
    replaced(start + 20 * HOUR, panel_rows(start + 20 * HOUR, 9, factor=3.0), 9)
    replaced(start + 40 * HOUR, [], 1)
    # the latest days are not compacted: these are others
    later = datetime(2025, 12, 10, 7, tzinfo=UTC)
    replaced(later, panel_rows(later, 9), 9)
    druid.coordinator(settings, "POST", "config/compaction", body=druid_storage.read("compaction", "panel_day"))

    def compacted() -> bool:
        sql = (
            'SELECT "start", "end" FROM sys.segments WHERE datasource = \'panel_day\''
            " AND is_active = 1 AND is_available = 1 AND \"start\" < '2025-11'"
        )
        spans = sorted((row["start"][:10], row["end"][:10]) for row in druid.query(settings, sql))
        return spans == [("2025-09-01", "2025-10-01"), ("2025-10-01", "2025-11-01")]

    await_compacted(settings, "panel_day", compacted)
    druid.coordinator(settings, "DELETE", "config/compaction/panel_day")
    agree()
    replaced(later, [], 9)
    replaced(start + 50 * HOUR, panel_rows(start + 50 * HOUR, 2, factor=5.0), 2)
    replaced(start, [], 70)
    assert by_client(settings, "panel_day") == {}


def test_two_runners_at_once_leave_the_rows_of_one(settings: Settings, tmp_path: Path) -> None:
    start = START + 72 * HOUR
    files = [write(tmp_path / f"{n}.json.gz", reports(start, 400 + n, client_id=f"C{n}")) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(druid.replace, settings, "panel_report", [file], start, start + HOUR) for file in files]
        assert [run.result().rows for run in runs] == [400, 401, 402, 403]
    rows = druid.query(
        settings,
        "SELECT client_id, COUNT(*) AS n FROM panel_report WHERE FLOOR(__time TO HOUR) = %(start)s GROUP BY 1",
        {"start": start},
    )
    [row] = rows
    assert row["n"] == 400 + int(row["client_id"][1:])


def test_queries_see_the_old_rows_or_the_new_ones(settings: Settings, tmp_path: Path) -> None:
    start = START + 96 * HOUR
    file = write(tmp_path / "a.json.gz", reports(start, 100))
    druid.replace(settings, "panel_report", [file], start, start + HOUR)
    seen, over = set(), threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen.add(tuple(energy_by_hour(settings, start, 1).values()))

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        doubled = [row | {"power_gen": 2 * row["power_gen"]} for row in reports(start, 100)]
        druid.replace(settings, "panel_report", [write(file, doubled)], start, start + HOUR)
        assert list(energy_by_hour(settings, start, 1).values()) == [(100, pytest.approx(990.0))]
        over.set()
        watching.result()
    assert {(n, round(energy)) for [(n, energy)] in seen} <= {(100, 495), (100, 990)}


@pytest.mark.parametrize("name", ["indexer", "coordinator", "historical"])
def test_a_replace_outlives_a_killed_server(stack: Stack, settings: Settings, tmp_path: Path, name: str) -> None:
    start = START + 120 * HOUR
    file = write(tmp_path / "a.json.gz", reports(start, 100_000, hours=6))
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(druid.replace, settings, "panel_report", [file], start, start + 6 * HOUR, timeout=300)
        wait_for(lambda: any("replace_" in task for task in running_tasks(settings)) or run.done())
        os.kill(stack.pid(name), signal.SIGKILL)
        assert run.result().rows == 100_000
    stack.up("druid")
    found = energy_by_hour(settings, start, 6)
    assert sum(n for n, _ in found.values()) == 100_000
    assert sum(energy for _, energy in found.values()) == pytest.approx(0.1 * 99_999 * 100_000 / 2)


def running_tasks(settings: Settings) -> list[str]:
    return [row["task_id"] for row in druid.query(settings, "SELECT task_id FROM sys.tasks WHERE status = 'RUNNING'")]


@contextmanager
def killed_client(stack: Stack, settings: Settings, file: Path, start: datetime) -> Iterator[str]:
    """Leave the task of a client that was killed, and give its id; it begins when this is over."""
    indexer = stack.pid("indexer")
    os.kill(indexer, signal.SIGSTOP)
    try:
        replacing = (settings, "panel_report", [file], start, start + HOUR)
        client = multiprocessing.get_context("spawn").Process(target=druid.replace, args=replacing)
        client.start()
        wait_for(lambda: bool(replaces(settings)))
        client.kill()
        client.join()
        yield replaces(settings)[0]
    finally:
        os.kill(indexer, signal.SIGCONT)


def replaces(settings: Settings) -> list[str]:
    return [task for task in running_tasks(settings) if task.startswith("replace_")]


def outcome(settings: Settings, task: str) -> str:
    rows = druid.query(settings, "SELECT status FROM sys.tasks WHERE task_id = %(task)s", {"task": task})
    return str(rows[0]["status"])


def test_the_next_run_ends_the_task_of_a_killed_one_before_its_files_go(
    stack: Stack, settings: Settings, tmp_path: Path
) -> None:
    start = START + 168 * HOUR
    file = write(tmp_path / "a.json.gz", reports(start, 5))
    druid.replace(settings, "panel_report", [file], start, start + HOUR)
    staged = settings.lake_dir / ".staging" / f"{write_panel.NAME}-killed"
    staged.mkdir(parents=True)
    with killed_client(stack, settings, write(staged / "a.json.gz", reports(start, 100_000)), start) as task:
        pass
    jobs, datasources = (write_panel.NAME,), write_panel.DATASOURCE_NAMES
    with runner.alone(settings, "panel", threading.Event(), print, jobs, datasources):
        assert outcome(settings, task) == "FAILED"
        assert not staged.exists()
        assert energy_by_hour(settings, start, 1) == {"10": (5, pytest.approx(1.0))}
        druid.replace(settings, "panel_report", [write(file, reports(start, 4))], start, start + HOUR)
    assert energy_by_hour(settings, start, 1) == {"10": (4, pytest.approx(0.6))}
