from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from flink_jobs import pending, runner
from flink_jobs.slots import milliseconds
from selfgen.cli import app
from selfgen.clients import druid
from selfgen.settings import get_settings


@pytest.fixture
def asked(monkeypatch, tmp_path) -> list[tuple[str, datetime, datetime]]:
    """Give what a Druid that does not run is asked to sum up."""
    asked: list[tuple[str, datetime, datetime]] = []

    def roll_up(settings, datasource, start, end):
        asked.append((datasource, start, end))
        return druid.Replacement("t1", 1234, 1.0)

    monkeypatch.setattr(druid, "roll_up", roll_up)
    monkeypatch.setenv("SELFGEN_BUILD_DIR", str(tmp_path))
    get_settings.cache_clear()
    yield asked
    get_settings.cache_clear()


def test_a_long_range_is_summed_up_in_parts_that_leave_no_hour_out(asked):
    result = CliRunner().invoke(app, ["druid", "roll-up", "--from", "2026-01-10T05", "--to", "2026-03-10T07"])
    assert result.exit_code == 0
    assert result.stderr.count("panel_day: adds up") == len(asked) == 2
    assert f"{1234 * len(asked):,} rows were added up" in result.stdout
    assert {datasource for datasource, _, _ in asked} == {"panel_day"}
    edges = [asked[0][1], *(end for _, _, end in asked)]
    assert edges[0] == datetime(2026, 1, 10, tzinfo=UTC)
    assert edges[-1] == datetime(2026, 3, 11, tzinfo=UTC)
    assert [start for _, start, _ in asked] == edges[:-1]


def test_a_range_that_is_none_is_refused(asked):
    for start, end in (("2026-1-1", "2026-03-10T07"), ("2026-03-10T07", "2026-03-10T07")):
        result = CliRunner().invoke(app, ["druid", "roll-up", "--from", start, "--to", end])
        assert result.exit_code == 1
        assert "error" in result.stderr
    assert asked == []


def test_the_runner_sums_up_when_no_hour_is_left_to_do(asked, monkeypatch):
    """Days that were noted by whoever replaced hours of them."""
    day = datetime(2026, 1, 10, tzinfo=UTC)
    passes = [{"kind": "panel", "rows": {}, "computed_to": day, "seconds": 1.0}, None]
    monkeypatch.setattr(runner, "run_pass", lambda *_: passes.pop(0))
    pending.note_days(get_settings(), "panel_report", milliseconds(day), milliseconds(day) + 1)
    result = CliRunner().invoke(app, ["batch", "watch", "panel", "--once"])
    assert result.exit_code == 0, result.output
    assert passes == []
    assert asked == [("panel_day", day, day + timedelta(days=1))]
    assert pending.noted(get_settings(), "panel_day") == []
