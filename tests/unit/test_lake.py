"""The lake: hours are replaced whole, whoever reads, writes at once or is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfgen import lake

HOUR = timedelta(hours=1)
TEN = datetime(2024, 6, 1, 10, tzinfo=UTC)
SCHEMA = pa.schema([("panel_id", pa.string()), ("power_gen", pa.float64())])


def table(*values: float) -> pa.Table:
    return pa.table([[f"P-{i}" for i in range(len(values))], [float(v) for v in values]], schema=SCHEMA)


def stage(folder: Path, hour: datetime, name: str, content: pa.Table) -> None:
    path = folder / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path)


def energies(folder: Path, start: datetime = TEN, hours: int = 1) -> list[float]:
    return lake.read(folder, "panel", start, start + hours * HOUR)["power_gen"].to_pylist()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_an_hour_is_a_file_of_its_date_and_hour(tmp_path):
    lake.replace_hour(tmp_path / "new" / "lake", "panel", TEN, table(1, 2))
    assert files(tmp_path / "new" / "lake") == ["panel/date=2024-06-01/hour=10/data.parquet"]
    found = lake.read(tmp_path / "new" / "lake", "panel", TEN, TEN + HOUR)
    assert found.equals(table(1, 2))


def test_an_hour_is_replaced_whole(tmp_path):
    lake.replace_hour(tmp_path, "panel", TEN, table(1, 2, 3))
    lake.replace_hour(tmp_path, "panel", TEN, table(9))
    assert energies(tmp_path) == [9]
    lake.replace_hour(tmp_path, "panel", TEN, table())
    assert energies(tmp_path) == []
    assert files(tmp_path) == ["panel/date=2024-06-01/hour=10/data.parquet"]


def test_computed_and_empty_differs_from_not_computed(tmp_path):
    lake.replace_hour(tmp_path, "panel", TEN, table())
    assert lake.hours(tmp_path, "panel") == [TEN]
    assert lake.read(tmp_path, "panel", TEN, TEN + HOUR).schema == SCHEMA
    (tmp_path / "panel/date=2024-06-01/hour=11").mkdir()
    assert lake.hours(tmp_path, "panel") == [TEN]
    assert lake.hours(tmp_path, "light") == []


def test_hours_are_utc_wherever_they_are_written(tmp_path):
    lake.replace_hour(tmp_path, "panel", TEN.astimezone(ZoneInfo("Europe/Madrid")), table(1))
    assert lake.hours(tmp_path, "panel") == [TEN]
    here = TEN.astimezone(ZoneInfo("America/Santiago"))
    assert lake.read(tmp_path, "panel", here, here + HOUR).num_rows == 1


@pytest.mark.parametrize("hour", [TEN.replace(tzinfo=None), TEN.replace(minute=30), TEN.replace(microsecond=1)])
def test_what_is_not_an_hour_is_refused(tmp_path, hour):
    with pytest.raises(ValueError, match="2024-06-01T10"):
        lake.replace_hour(tmp_path, "panel", hour, table(1))
    assert files(tmp_path) == []


def test_only_the_hours_asked_for_are_read(tmp_path):
    for i in range(5):
        lake.replace_hour(tmp_path, "panel", TEN + i * HOUR, table(i, i))
    for i in (0, 4):
        (tmp_path / f"panel/date=2024-06-01/hour={10 + i}/data.parquet").write_bytes(b"not parquet")
    (tmp_path / "panel/date=2024-06-01/hour=12/data.parquet").unlink()
    assert energies(tmp_path, TEN + HOUR, 3) == [1, 1, 3, 3]
    with pytest.raises(pa.ArrowInvalid):
        energies(tmp_path, TEN, 5)


def test_hours_are_read_in_order_over_midnight(tmp_path):
    starts = [TEN + i * HOUR for i in range(16)]
    for i in reversed(range(16)):
        lake.replace_hour(tmp_path, "panel", starts[i], table(i))
    assert energies(tmp_path, TEN, 16) == list(range(16))
    assert lake.hours(tmp_path, "panel") == starts


def test_columns(tmp_path):
    lake.replace_hour(tmp_path, "panel", TEN, table(1, 2))
    found = lake.read(tmp_path, "panel", TEN, TEN + HOUR, ["power_gen"])
    assert found.to_pydict() == {"power_gen": [1, 2]}


def test_where_nothing_was_computed_the_schema_says_what_is_not_there(tmp_path):
    assert lake.read(tmp_path, "panel", TEN, TEN + HOUR).num_rows == 0
    assert lake.read(tmp_path, "panel", TEN, TEN + HOUR, schema=SCHEMA).schema == SCHEMA
    found = lake.read(tmp_path, "panel", TEN, TEN + HOUR, ["power_gen"], schema=SCHEMA)
    assert found.column_names == ["power_gen"]


# -- publishing what a job staged ----------------------------------------------------------------------------


def test_all_parts_of_an_hour_become_one_file(tmp_path):
    staging, there = tmp_path / "staging", tmp_path / "lake"
    stage(staging, TEN, "part-b-0", table(3))
    stage(staging, TEN, "part-a-0.parquet", table(1, 2))
    stage(staging, TEN, ".part-c.inprogress", table(100))
    stage(staging, TEN, "_metadata", table(100))
    stage(staging, TEN + 2 * HOUR, "part-a-0", table(7))
    lake.replace_hour(there, "panel", TEN + HOUR, table(55))
    hours = [TEN, TEN + HOUR, TEN + 2 * HOUR]
    assert lake.publish(staging, there, "panel", hours, SCHEMA) == dict(zip(hours, [3, 0, 1], strict=True))
    # an hour without staged files is empty now
    assert energies(there, TEN, 3) == [1, 2, 3, 7]
    assert lake.hours(there, "panel") == hours
    assert files(there) == [f"panel/date=2024-06-01/hour={hour}/data.parquet" for hour in (10, 11, 12)]


def test_a_job_that_staged_nothing_leaves_empty_hours(tmp_path):
    assert lake.publish(tmp_path / "nothing", tmp_path / "lake", "panel", [TEN], SCHEMA) == {TEN: 0}
    assert lake.read(tmp_path / "lake", "panel", TEN, TEN + HOUR).schema == SCHEMA


def test_staged_columns_are_cast_and_put_in_order(tmp_path):
    staged = pa.table({"power_gen": pa.array([1, 2], pa.int32()), "extra": ["x", "y"], "panel_id": ["A", "B"]})
    stage(tmp_path / "staging", TEN, "part-0", staged)
    lake.publish(tmp_path / "staging", tmp_path / "lake", "panel", [TEN], SCHEMA)
    found = lake.read(tmp_path / "lake", "panel", TEN, TEN + HOUR)
    assert found.schema == SCHEMA
    assert found.to_pydict() == {"panel_id": ["A", "B"], "power_gen": [1.0, 2.0]}


def test_an_hour_that_was_not_to_be_computed_stops_everything(tmp_path):
    staging, there = tmp_path / "staging", tmp_path / "lake"
    lake.replace_hour(there, "panel", TEN, table(1))
    stage(staging, TEN, "part-0", table(2))
    stage(staging, TEN + HOUR, "part-0", table(3))
    with pytest.raises(ValueError, match="2024-06-01T11Z"):
        lake.publish(staging, there, "panel", [TEN], SCHEMA)
    assert energies(there) == [1]


# -- at the same time ----------------------------------------------------------------------------------------

WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
import pyarrow as pa
from selfgen import lake

folder, value, rows, times = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
table = pa.table({"power_gen": pa.array([value] * rows)})
print("ready", flush=True)
sys.stdin.readline()
for _ in range(times):
    lake.replace_hour(folder, "panel", datetime(2024, 6, 1, 10, tzinfo=UTC), table)
"""


def writer(folder: Path, value: float, rows: int, times: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(value), str(rows), str(times)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def begin(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_readers_see_an_hour_before_or_after_never_between(tmp_path):
    versions = [pa.table({"power_gen": pa.array([float(n)] * n)}) for n in (10_000, 20_000, 1)]
    lake.replace_hour(tmp_path, "panel", TEN, versions[0])
    stop, seen = Event(), []

    def look() -> None:
        while not stop.is_set():
            seen.append(energies(tmp_path))

    readers = [Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(30):
        lake.replace_hour(tmp_path, "panel", TEN, versions[i % 3])
    stop.set()
    for reader in readers:
        reader.join()
    assert len(seen) > 5
    assert {(len(found), *set(found)) for found in seen} <= {(10_000, 10_000.0), (20_000, 20_000.0), (1, 1.0)}


def test_two_writers_of_an_hour_never_mix(tmp_path):
    lake.replace_hour(tmp_path, "panel", TEN, pa.table({"power_gen": [0.0]}))
    writers = [writer(tmp_path, 1, 3_000, 10), writer(tmp_path, 2, 2_000, 10)]
    for process in writers:
        begin(process)
    outcomes = set()
    while any(process.poll() is None for process in writers):
        found = energies(tmp_path)
        outcomes.add((len(found), *set(found)))
    assert [process.wait() for process in writers] == [0, 0]
    found = energies(tmp_path)
    outcomes.add((len(found), *set(found)))
    assert outcomes <= {(1, 0.0), (3_000, 1.0), (2_000, 2.0)}
    assert len(found) > 1
    assert files(tmp_path) == ["panel/date=2024-06-01/hour=10/data.parquet"]


def test_a_killed_writer_leaves_the_old_hour_and_keeps_nobody_out(tmp_path):
    lake.replace_hour(tmp_path, "panel", TEN, pa.table({"power_gen": [1.0]}))
    process = writer(tmp_path, 2, 500_000, 1000)
    begin(process)
    deadline = time.monotonic() + 60
    while len(files(tmp_path)) == 1 and time.monotonic() < deadline:
        pass
    process.kill()
    process.wait()
    # killed within a replacement, the first or a later one: what is read is whole
    found = energies(tmp_path)
    assert (len(found), *set(found)) in {(1, 1.0), (500_000, 2.0)}
    lake.replace_hour(tmp_path, "panel", TEN, pa.table({"power_gen": [3.0]}))
    assert energies(tmp_path) == [3]
    assert files(tmp_path) == ["panel/date=2024-06-01/hour=10/data.parquet"]


def test_what_is_as_staged_already_stays_and_what_changes_is_told_before(tmp_path):
    staging, folder = tmp_path / "staging", tmp_path / "lake"
    hours = [TEN + number * HOUR for number in range(3)]
    told = []
    for values in ((1, 2), (1, 3), (1, 3)):
        for hour, value in zip(hours, values, strict=False):
            lake.stage_hour(staging, hour, table(value))

        def before(changed, seen=told):
            seen.append((changed, energies(folder, hours=2) if folder.exists() else None))

        assert lake.publish(staging, folder, "panel", hours, SCHEMA, before=before) == dict(
            zip(hours, (1, 1, 0), strict=True)
        )
        assert energies(folder, hours=3) == list(values)
    assert told == [(hours, None), ([hours[1]], [1, 2])]


def test_hours_that_are_removed_were_never_computed(tmp_path):
    for number in range(3):
        lake.replace_hour(tmp_path, "panel", TEN + number * HOUR, table(number))
    lake.remove_hours(tmp_path, "panel", [TEN, TEN + HOUR, TEN + 9 * HOUR])
    assert lake.hours(tmp_path, "panel") == [TEN + 2 * HOUR]
    assert [lake.count_rows(tmp_path, "panel", TEN + number * HOUR) for number in (0, 2)] == [0, 1]
    assert lake.read(tmp_path, "panel", TEN, TEN + HOUR).num_columns == 0
