"""What a wind job goes on from, and which of Flink's counters tell what it read and wrote."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flink_jobs.keeper import last_checkpoint
from flink_jobs.status import _records
from selfgen.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(build_dir=tmp_path, _env_file=None)


def make(settings: Settings, name: str, at: int, *, complete: bool = True) -> Path:
    path = settings.checkpoints_dir / "job" / name
    path.mkdir(parents=True)
    if complete:
        (path / "_metadata").touch()
        os.utime(path / "_metadata", (at, at))
    return path


def test_a_job_goes_on_from_its_newest_complete_checkpoint_or_savepoint(settings: Settings) -> None:
    assert last_checkpoint(settings, "job") is None
    make(settings, "a/chk-9", 100)
    newest = make(settings, "b/chk-2", 200)
    make(settings, "b/chk-3", 300, complete=False)
    assert last_checkpoint(settings, "job") == newest
    saved = make(settings, "savepoint-b-1", 250)
    assert last_checkpoint(settings, "job") == saved
    make(settings, "savepoint-b-2", 400, complete=False)
    assert last_checkpoint(settings, "job") == saved
    newer = make(settings, "c/chk-1", 260)
    assert last_checkpoint(settings, "job") == newer


def test_messages_are_counted_by_topic_once() -> None:
    source = "Source__KafkaSource-default_catalog_default_database_wind_rich"
    metrics = {
        "v1": {f"{source}.numRecordsIn": 7.0, f"{source}.numRecordsOut": 7.0, "numRecordsIn": 7.0},
        "v2": {f"{source}.numRecordsIn": 6.0, "wind_report[8]__Writer.numRecordsSend": 6.0},
        "v3": {"wind_alarm[10]__Writer.numRecordsSend": 2.0, "wind_alarm[10]__Committer.numRecordsIn": 63.0},
        "v4": {"KEYED_PROCESS.numRecordsIn": 5.0},
    }

    def ask(path: str) -> object:
        if not path:
            return {"vertices": [{"id": name} for name in metrics]}
        vertex, _, wanted = path.removeprefix("/vertices/").partition("/subtasks/metrics")
        if not wanted:
            return [{"id": name} for name in metrics[vertex]]
        return [{"id": name, "sum": metrics[vertex][name]} for name in wanted.removeprefix("?get=").split(",")]

    assert _records(ask) == ({"wind_rich": 7}, {"wind_report": 6, "wind_alarm": 2})
