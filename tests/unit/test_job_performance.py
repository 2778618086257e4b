"""A streaming job's rows of `topic_performance`."""

from __future__ import annotations

from flink_jobs.performance import rows
from selfgen.columns import names


def test_a_row_counts_what_moved_and_what_waits() -> None:
    found = rows("wind", "rich_sensor_wind", {0: 10, 1: 5}, {0: 25, 1: 5}, {0: 30, 1: 5}, now_ms=1000)
    assert [row["messages"] for row in found] == [15, 0]
    assert [row["lag"] for row in found] == [5, 0]
    assert {row["consumer"] for row in found} == {"rich_sensor_wind"}
    assert all(row.keys() == {"timestamp", *names("topic_performance")} for row in found)


def test_what_was_not_seen_before_is_not_counted_and_nothing_runs_backwards() -> None:
    found = rows("wind", "job", {0: 10}, {0: 4, 1: 7}, {0: 30, 1: 9}, now_ms=1000)
    assert [(row["partition"], row["messages"], row["lag"]) for row in found] == [(0, 0, 26)]
