"""Corrected and deleted readings: kept with a reason, whole or not at all, and never back by being sent again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

import selfgen.settings as settings_module
from kafka_consumers import corrections
from kafka_consumers.corrections import Author, Impossible
from selfgen.cli import app
from selfgen.clients import mongo
from tests.integration.conftest import Stack
from tests.integration.test_landing import HOUR_MS, NOTHING, Entrance, wait_for

pytestmark = pytest.mark.integration

ANA = Author("ana", "the meter was exchanged")


@pytest.fixture
def entrance(stack: Stack, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Entrance]:
    stack.up("kafka", "mongodb")
    name = request.node.name[:40]
    settings = stack.settings.model_copy(update={"mongodb_database": name, "landing_report_s": 1.0})
    monkeypatch.setattr(settings_module, "get_settings", lambda: settings)  # of the commands
    mongo.connect(settings).drop_database(name)
    entrance = Entrance(settings)
    yield entrance
    entrance.database.client.drop_database(name)


def powers(entrance: Entrance) -> dict[int, float]:
    """What the jobs read: power by second of the hour."""
    found = mongo.read_readings(entrance.settings, "panel", entrance.hour_ms, entrance.hour_ms + HOUR_MS, ["power"])
    return dict(zip(((found["time"] - entrance.hour_ms) // 1000).tolist(), found["power"].tolist(), strict=True))


def marked(entrance: Entrance) -> list[int]:
    return [mark.hour_ms for mark in mongo.dirty_hours(entrance.settings, "panel", entrance.now_ms)]


def computed(entrance: Entrance) -> None:
    """As after a pass of the runner."""
    mongo.clear_dirty(entrance.settings, mongo.dirty_hours(entrance.settings, "panel", entrance.now_ms))


def selfgen(*arguments: str) -> Any:
    done = CliRunner().invoke(app, ["raw", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def at(entrance: Entrance, second: int) -> str:
    return mongo.datetime.fromtimestamp(entrance.hour_ms / 1000 + second, mongo.UTC).isoformat()


def test_what_was_changed_stays_so_when_it_is_sent_again(entrance: Entrance) -> None:
    readings = [entrance.panel("p1", second, 100.0 + second) for second in range(0, 300, 60)]
    others = [entrance.panel("p2", second, 7.0) for second in range(0, 300, 60)]
    entrance.send(*readings, *others)
    progress = entrance.database["landing_progress"].find_one({"_id": "panel|0000"})
    entrance.land(10)
    computed(entrance)
    done = selfgen("correct", "p1", at(entrance, 60), "--power", "50", "--reason", "shade", "--operator", "ana")
    assert done["readings"][0]["before"]["power"] == 160.0
    assert marked(entrance) == [entrance.hour_ms]
    window = ("--from", at(entrance, 120), "--to", at(entrance, 240))
    assert len(selfgen("delete", "p1", *window, "--reason", "a test", "--dry-run")["readings"]) == 2
    assert len(mongo.read_readings(entrance.settings, "panel", 0, entrance.now_ms, ["power"])) == 10
    selfgen("delete", "p1", *window, "--reason", "a test", "--operator", "eva")
    assert selfgen("delete", "p1", *window, "--reason", "a test")["readings"] == []
    after = {0: 100.0, 60: 50.0, 240: 340.0}
    assert powers_of_p1(entrance) == after
    computed(entrance)
    # Kafka delivers the same messages once more
    entrance.database["landing_progress"].replace_one({"_id": "panel|0000"}, progress)
    assert entrance.land(10) == {**NOTHING, "landed": 10}
    assert powers_of_p1(entrance) == after
    computed(entrance)
    # the device sends them once more, one with its time written otherwise
    entrance.send(
        *readings, *others, json.dumps({"panel_id": "p1", "timestamp": at(entrance, 120), "power": 220.0}).encode()
    )
    assert entrance.land(21) == {**NOTHING, "landed": 10, "duplicates": 11}
    assert powers_of_p1(entrance) == after
    assert marked(entrance) == []
    # what it never sent before is news, and what was taken away is still known
    entrance.send(entrance.panel("p1", 120, 221.0), readings[2], entrance.panel("p1", 60, 51.0), readings[1])
    assert entrance.land(25) == {**NOTHING, "landed": 10, "duplicates": 13, "replaced": 2}
    assert powers_of_p1(entrance) == {**after, 60: 51.0, 120: 221.0}
    assert marked(entrance) == [entrance.hour_ms]
    entries = selfgen("history", "p1")
    assert [(entry["change"], entry["operator"], entry["before"]["power"]) for entry in entries] == [
        ("corrected", "ana", 160.0),
        ("deleted", "eva", 220.0),
        ("deleted", "eva", 280.0),
    ]
    # a deleted one is found no more, and can be put back
    found = (
        CliRunner()
        .invoke(app, ["raw", "find", "p1", "--from", at(entrance, 0)[:19], "--format", "jsonl"])
        .stdout.splitlines()
    )
    assert [json.loads(line)["power"] for line in found] == [100.0, 51.0, 221.0, 340.0]
    selfgen("restore", "p1", "--at", at(entrance, 180), "--reason", "it was right")
    assert powers_of_p1(entrance)[180] == 280.0


def test_a_message_that_looks_like_a_reference_is_found_changed_and_put_back(entrance: Entrance) -> None:
    reference = {"$ref": "a", "$id": 1}
    entrance.send(entrance.panel("p1", 0, 100.0, **reference), entrance.panel("p1", 60, 160.0, note=reference))
    entrance.land(2)
    window = ("--from", at(entrance, 0), "--to", at(entrance, 120))
    found = CliRunner().invoke(app, ["raw", "find", "p1", *window, "--format", "jsonl"]).stdout.splitlines()
    first, second = (json.loads(line) for line in found)
    assert (first["power"], first["$ref"], first["$id"]) == (100.0, "a", 1)
    assert (second["power"], second["note"]) == (160.0, reference)
    selfgen("correct", "p1", at(entrance, 0), "--power", "50", "--reason", "shade")
    selfgen("delete", "p1", *window, "--reason", "a test")
    assert powers(entrance) == {}
    entrance.send(entrance.panel("p1", 0, 100.0, **reference), entrance.panel("p1", 60, 160.0, note=reference))
    assert entrance.land(4) == {**NOTHING, "landed": 2, "duplicates": 2}
    selfgen("restore", "p1", *window, "--reason", "it was right")
    assert powers(entrance) == {0: 50.0, 60: 160.0}
    assert [entry["before"] and entry["before"]["power"] for entry in selfgen("history", "p1")] == [
        100.0,
        50.0,
        None,
        160.0,
        None,
    ]
    near = mongo.get_readings(entrance.settings, "panel", "p1", [entrance.hour_ms, entrance.hour_ms + 60_000])
    assert [one["msg_value"]["power"] for one in near] == [50.0, 160.0]


def test_a_restore_that_is_repeated_does_nothing_more(entrance: Entrance) -> None:
    entrance.send(entrance.panel("p1", 0, 9_999_999.0))
    entrance.land(1)
    selfgen("correct", "p1", at(entrance, 0), "--power", "812", "--reason", "a digit too many")
    selfgen("delete", "p1", "--at", at(entrance, 0), "--reason", "by mistake")
    restore = ("restore", "p1", "--at", at(entrance, 0), "--reason", "it was right")
    selfgen(*restore)
    assert selfgen(*restore)["readings"] == []
    assert powers_of_p1(entrance) == {0: 812.0}
    selfgen("delete", "p1", "--at", at(entrance, 0), "--reason", "after all")
    assert len(selfgen(*restore)["readings"]) == 1
    assert powers_of_p1(entrance) == {0: 812.0}
    far = CliRunner().invoke(
        app, ["raw", "find", "p1", "--from", "2000-01-01", "--to", "2400-01-01", "--format", "jsonl"]
    )
    assert json.loads(far.stdout)["power"] == 812.0


def powers_of_p1(entrance: Entrance) -> dict[int, float]:
    found = mongo.read_readings(entrance.settings, "panel", entrance.hour_ms, entrance.hour_ms + HOUR_MS, ["power"])
    found = found[found["element_id"] == "p1"]
    return dict(zip(((found["time"] - entrance.hour_ms) // 1000).tolist(), found["power"].tolist(), strict=True))


def test_what_cannot_be_is_refused_in_a_sentence(entrance: Entrance) -> None:
    entrance.send(entrance.panel("p1"))
    entrance.land(1)
    computed(entrance)
    for arguments, told in (
        (("correct", "p1", at(entrance, 0), "--power", "1e9", "--reason", "x"), "at most"),
        (("correct", "p1", at(entrance, 0), "--irradiance", "9", "--reason", "x"), "no irradiance"),
        (("correct", "p1", at(entrance, 0), "--reason", "x"), "nothing to correct"),
        (("correct", "p1", at(entrance, 1), "--power", "1", "--reason", "x"), "no reading"),
        (("correct", "p1", at(entrance, 0), "--without", "power", "--reason", "x"), "required"),
        (("delete", "p1", "--at", "noon", "--reason", "x"), "is not a time"),
        (("delete", "p1", "--reason", "x"), "give --at"),
        (("delete", "p1", "--at", at(entrance, 0), "--reason", " "), "empty"),
    ):
        done = CliRunner().invoke(app, ["raw", *arguments])
        assert done.exit_code == 1, done.output
        assert told in done.stderr
    assert powers(entrance) == {0: 100.0}
    assert marked(entrance) == []
    assert corrections.history(entrance.database, "p1") == []


KILLED = """
import sys, time
from kafka_consumers import corrections
from selfgen.clients import mongo
from selfgen.settings import get_settings

parts = 0
def stopping(*arguments):  # after the readings and the history were written, before the marks
    global parts
    parts += 1
    if parts == 2:
        print("now", flush=True)
        time.sleep(600)
    mark(*arguments)

mark, corrections.mark_dirty = corrections.mark_dirty, stopping
database = mongo.database(get_settings())
found = corrections.find(database, "panel", "p1", int(sys.argv[1]), int(sys.argv[2]))
changes = [corrections.delete(stored) for stored in found]
corrections.apply(database, "deleted", changes, corrections.Author("ana", "killed"))
"""


def test_a_kill_between_the_writes_loses_nothing(entrance: Entrance) -> None:
    entrance.send(*(entrance.panel("p1", second) for second in range(2 * corrections.AT_ONCE)))
    entrance.land(2 * corrections.AT_ONCE)
    computed(entrance)
    end_ms = entrance.hour_ms + HOUR_MS
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(entrance.hour_ms), str(end_ms)],
        env=entrance.settings.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    # whole parts: each reading is there, or it is in the history and its hour is marked
    entries = corrections.history(entrance.database, "p1")
    assert len(entries) == corrections.AT_ONCE
    assert {*powers(entrance)} == {*range(corrections.AT_ONCE, 2 * corrections.AT_ONCE)}
    assert marked(entrance) == [entrance.hour_ms]
    # MongoDB gives up what the killed one had begun, by itself after a minute
    entrance.database.client.admin.command("killAllSessions", [])
    done = selfgen("delete", "p1", "--from", at(entrance, 0), "--to", at(entrance, 3600), "--reason", "again")
    assert len(done["readings"]) == corrections.AT_ONCE
    assert powers(entrance) == {}
    assert len({entry["_id"] for entry in corrections.history(entrance.database, "p1")}) == 2 * corrections.AT_ONCE


def test_a_reading_that_changes_meanwhile_is_not_overwritten(entrance: Entrance) -> None:
    entrance.send(entrance.panel("p1"))
    entrance.land(1)
    [looked_at] = corrections.find(entrance.database, "panel", "p1", entrance.hour_ms, entrance.hour_ms + 1)
    entrance.send(entrance.panel("p1", 0, 120.0))
    entrance.land(2)
    computed(entrance)
    with pytest.raises(Impossible, match="meanwhile"):
        corrections.apply(entrance.database, "deleted", [corrections.Change(looked_at, None)], ANA)
    assert powers(entrance) == {0: 120.0}
    assert (marked(entrance), corrections.history(entrance.database, "p1")) == ([], [])


def test_landing_looks_again_when_a_person_was_quicker(entrance: Entrance, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reading is corrected after landing looked at it, and before it replaces it."""
    from kafka_consumers.store import Store

    entrance.send(entrance.panel("p1"))
    entrance.land(1)
    replace = Store._replace
    looked: list[int] = []

    def meanwhile(store: Store, *arguments: Any) -> bool:
        if not looked:
            [stored] = corrections.find(entrance.database, "panel", "p1", entrance.hour_ms, entrance.hour_ms + 1)
            corrections.apply(entrance.database, "corrected", [corrections.correct(stored, {"power": 5.0})], ANA)
        looked.append(1)
        return replace(store, *arguments)

    monkeypatch.setattr(Store, "_replace", meanwhile)
    entrance.send(entrance.panel("p1", 0, 120.0))
    assert entrance.land(2) == {**NOTHING, "landed": 1, "replaced": 1}
    assert len(looked) == 2
    monkeypatch.undo()
    entrance.send(entrance.panel("p1", 0, 100.0))  # what was corrected does not come back behind it
    assert entrance.land(3) == {**NOTHING, "landed": 1, "replaced": 1, "duplicates": 1}
    wait_for(lambda: powers(entrance) == {0: 120.0})
