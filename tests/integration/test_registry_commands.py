"""The installers' commands, as they are typed."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from selfgen.cli import app
from tests.integration.registry_support import couchbase_settings, open_documents, store_on

pytestmark = pytest.mark.integration

# commands mark the hours of the past in MongoDB, too; where that does not answer, they stay noted
PLACE = ["--latitude", "41.4", "--longitude", "2.17"]


@pytest.fixture(scope="module", autouse=True)
def servers(stack):
    settings = couchbase_settings(stack)
    stack.up("mongodb")
    from selfgen.clients import mongo

    mongo.ensure_collections(settings)
    return settings


@pytest.fixture
def one():
    """An id that nothing else in the bucket has."""
    return uuid.uuid4().hex[:10]


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, (arguments, result.output, result.exception)
    return result


def answer(*arguments: str, code: int = 0):
    return json.loads(run(*arguments, "--json", code=code).stdout)


def test_a_day_of_an_installer(one, servers):
    client, other = f"C{one}", f"D{one}"
    model, panel, new = f"Solaria {one}", f"P{one}", f"Q{one}"
    assert answer("client", "add", client, "--name", "Ibérica", *PLACE, "--postal-code", "08001")["changed"]
    run("client", "add", other, "--name", "Lima Sol", "--latitude", "-12.05", "--longitude", "-77.04")
    run("model", "add", "panel", model, "power_cap=420", "live_cicle=25")
    added = answer("element", "add", "panel", panel, "--model", model, "--tilt", "30", "--azimuth", "180")
    assert added["document"]["power_cap"] == 420.0
    assert not answer("element", "add", "panel", panel, "--model", model, "--tilt", "30", "--azimuth", "180")["changed"]

    run("install", "add", "panel", panel, client, "--since", "2026-05-01")
    run("install", "move", "panel", panel, other, "--since", "2026-06-01T12:00", "--from", client)
    shown = answer("client", "show", client)
    assert shown["time_zone"] == "Europe/Madrid"
    assert shown["postal_code"] == "08001"
    assert [(each["panel_id"], each["since"], each["until"]) for each in shown["elements"]] == [
        (panel, "2026-04-30 22:00:00+00:00", "2026-06-01 17:00:00+00:00")  # noon in Lima
    ]

    run("element", "replace", "panel", panel, new, "--at", "2026-07-01")
    replaced = answer("element", "show", "panel", new)
    assert (replaced["replaces"] if "replaces" in replaced else replaced["relations"]["replaces"]) == panel
    assert (replaced["tilt"], replaced["model"], replaced["install_date"]) == (30.0, model, "2026-07-01")
    assert replaced["relations"]["periods"][0]["client_id"] == other

    run("install", "correct", "panel", new, "--since", "2026-07-02")
    run("install", "end", "panel", new, "--at", "2026-08-01")
    run("client", "close", other, "--operator", "luis")
    entries = answer("registry", "history", other)
    assert [(entry["by"], entry["action"]) for entry in entries][1] == ("luis", "client closed")
    assert entries[1]["before"] == entries[0]["after"]
    actions = [entry["action"] for entry in answer("registry", "history", new)]
    assert actions == [
        "panel added",
        f"panel chosen to replace {panel}",
        f"panel replaces {panel}",
        "panel corrected",
        "panel ended",
    ]
    assert client in run("client", "list").stdout
    assert new in [each["panel_id"] for each in answer("element", "list", "panel")]
    assert answer("model", "show", "panel", model)["live_cicle"] == 25.0


def test_the_requirements_processes_run_by_their_names(one, servers):
    python = [sys.executable, "-m"]

    def process(*arguments: str, code: int = 0) -> str:
        done = subprocess.run([*python, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    run("client", "add", f"C{one}", "--name", "x", *PLACE)
    assert f"light L{one} is registered" in process(
        "couchbase_admin.add_new_element", "light", f"L{one}", "--power-cap", "9"
    )
    assert "client" in process(
        "couchbase_admin.add_new_install", "light", f"L{one}", f"C{one}", "--since", "2026-01-01"
    )
    assert answer("element", "show", "light", f"L{one}")["relations"]["periods"] == [
        {"client_id": f"C{one}", "init_sensor_date": "2025-12-31T23:00:00Z"}
    ]
    refused = process("couchbase_admin.add_new_install", "light", f"M{one}", f"C{one}", code=1)
    assert f"light M{one} is not registered: add it first" in refused


def test_refusals_are_one_line_and_exit_code_1(one):
    for arguments, sentence in (
        (["client", "add", f"C{one}"], "name is missing: give it on the command line"),
        (
            ["client", "add", f"C{one}", "--name", "x", "--latitude", "north", "--longitude", "0"],
            "latitude is north: give",
        ),
        (["element", "add", "panel", f"P{one}"], "power_cap is missing: give it, or a model that has it"),
        (["element", "show", "door", "D1"], "door is not a kind of element: give panel, light or wind"),
        (["install", "add", "panel", f"P{one}", f"C{one}"], f"client C{one} is not registered"),
        (["client", "edit", f"C{one}", "name"], "name is not FIELD=VALUE"),
        (["client", "edit", f"C{one}", "end_date=2026-01-01"], "end_date"),
        (["registry", "history", f"C{one}"], f"C{one} is not in the registry"),
    ):
        result = run(*arguments, code=1)
        assert result.stderr.startswith(f"error: {sentence}"), result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_edits_set_and_take_away(one):
    run("client", "add", f"C{one}", "--name", "x", *PLACE, "--address", "Calle 1")
    changed = answer("client", "edit", f"C{one}", "name=y=z", "open_date=2026-01-31", "address=")
    assert changed["document"]["name"] == "y=z"
    assert "address" not in changed["document"]
    assert "open_date" not in answer("client", "edit", f"C{one}", "open_date=")["document"]
    moved = answer("client", "edit", f"C{one}", "latitude=-12.05", "longitude=-77.04")
    assert moved["document"]["time_zone"] == "America/Lima"  # the place's, again


def test_a_horizon_is_entered_changed_and_taken_away_and_keeps_the_rest(one):
    own = '{"alarms": {"no_data": {"slots": 4}}}'
    run("element", "add", "light", f"L{one}", "--power-cap", "3000", "--variable-data", own)

    def horizon(*pairs: str, code: int = 0) -> Result:
        return run("element", "horizon", "light", f"L{one}", *pairs, code=code)

    assert f"light L{one} has a horizon of 3 pairs" in horizon("180:0", "90:12.5", "150:25").stdout
    stored = answer("element", "show", "light", f"L{one}")["variable_data"]
    assert stored == {"alarms": {"no_data": {"slots": 4}}, "horizon": [[90, 12.5], [150, 25], [180, 0]]}
    refused = horizon("90:12", "360:5", code=1)
    assert "a horizon's azimuth is 0 to below 360 degrees clockwise from north, not 360" in refused.stderr
    assert "write degrees, such as 180:12.5" in horizon("south", code=1).stderr
    wrong = run("element", "edit", "light", f"L{one}", 'variable_data={"horizon": "90:5"}', code=1)
    assert "a horizon is a list of [azimuth, elevation] pairs" in wrong.stderr
    assert answer("element", "show", "light", f"L{one}")["variable_data"] == stored
    assert "has the whole sky" in horizon().stdout
    assert answer("element", "show", "light", f"L{one}")["variable_data"] == {"alarms": {"no_data": {"slots": 4}}}
    assert "is not registered" in run("element", "horizon", "light", f"X{one}", "90:5", code=1).stderr


def test_a_dry_run_shows_and_writes_nothing(one):
    shown = answer("client", "add", f"C{one}", "--name", "x", *PLACE, "--dry-run")
    assert shown["dry_run"] is True
    assert [write["key"] for write in shown["writes"]] == [f"client::C{one}"]
    assert shown["writes"][0]["document"]["time_zone"] == "Europe/Madrid"
    run("client", "show", f"C{one}", code=1)

    run("client", "add", f"C{one}", "--name", "x", *PLACE)
    run("element", "add", "panel", f"P{one}", "--power-cap", "1")
    run("install", "add", "panel", f"P{one}", f"C{one}", "--since", "2026-01-01")
    writes = answer("element", "replace", "panel", f"P{one}", f"Q{one}", "--dry-run")["writes"]
    assert {write["key"] for write in writes} == {
        f"panel::Q{one}",
        f"clients_rel::panel::Q{one}",
        f"clients_rel::panel::P{one}",
        f"panel::P{one}",
    }
    assert answer("element", "show", "panel", f"P{one}")["relations"]["periods"][0].keys() == {
        "client_id",
        "init_panel_date",
    }
    assert "would write" in run("element", "retire", "panel", f"P{one}", "--dry-run").stdout


def test_ids_are_completed_in_the_shell(one):
    run("client", "add", f"C{one}", "--name", "x", *PLACE)
    run("element", "add", "panel", f"C{one}P", "--power-cap", "1")
    environment = os.environ | {
        "_SELFGEN_COMPLETE": "complete_bash",
        "COMP_WORDS": f"selfgen registry history C{one[:6]}",
        "COMP_CWORD": "3",
    }
    command = [str(Path(sys.executable).with_name("selfgen"))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert set(done.stdout.split()) == {f"C{one}", f"C{one}P"}


def test_on_a_terminal_what_is_missing_is_asked_for(one):
    """Typed on a real pseudo-terminal: a wrong rating is asked for again, the model is completed with Tab."""
    run("model", "add", "wind", f"Anemo {one}", "sensor_price=99")
    leader, follower = pty.openpty()
    command = [str(Path(sys.executable).with_name("selfgen")), "element", "add", "wind"]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True)
    os.close(follower)
    shown = ""

    def expect(text: str) -> None:
        nonlocal shown
        while text not in shown:
            assert select.select([leader], [], [], 30)[0], f"{text!r} was not asked for, only {shown!r}"
            shown += os.read(leader, 4096).decode(errors="replace")
        shown = shown.partition(text)[2]

    for prompt, typed in (
        ("wind id", "\n"),
        ("wind id", f"W{one}\n"),
        ("model", f"Anemo {one[:4]}\t\n"),
        ("manufacture date", "2031-31-31\n"),
        ("manufacture date", "2024-05-31\n"),
        ("install date", "\n"),
        ("live cicle", "-4\n"),
        ("live cicle", "12\n"),
        ("sensor price", "\n"),
        ("variable data", "\n"),
    ):
        expect(prompt)
        expect(": ")
        os.write(leader, typed.encode())
    assert process.wait(30) == 0
    os.close(leader)
    stored = answer("element", "show", "wind", f"W{one}")
    assert {name: stored.get(name) for name in ("model", "manufacture_date", "live_cicle", "sensor_price")} == {
        "model": f"Anemo {one}",
        "manufacture_date": "2024-05-31",
        "live_cicle": 12.0,
        "sensor_price": 99.0,
    }


def test_a_change_of_the_past_marks_the_hours_that_have_readings(one, servers):
    from selfgen.clients import mongo

    hour = 3_600_000
    start = 1_700_000_000_000 // hour * hour
    with mongo.connect(servers) as client:
        database = client[servers.mongodb_database]
        database["topic"].insert_many(
            {"_id": mongo.reading_id("panel", start + offset * hour, f"P{one}"), "msg_value": {}} for offset in (0, 5)
        )
        database["dirty_hours"].delete_many({})
        run("client", "add", f"C{one}", "--name", "x", *PLACE)
        run("element", "add", "panel", f"P{one}", "--power-cap", "1")
        run("install", "add", "panel", f"P{one}", f"C{one}", "--since", "2020-01-01", "--until", "2024-01-01")
        marked = {mark["_id"]: mark["reason"] for mark in database["dirty_hours"].find()}
        database["topic"].delete_many({})
    assert marked.keys() == {f"panel|{start + offset * hour}" for offset in range(-1, 6)}
    assert set(marked.values()) == {f"panel installed at C{one}"}
    pending = open_documents(servers).get("dirty_hours::pending")
    assert f"C{one}".encode() not in pending.content


def test_hours_noted_while_mongodb_is_away_are_handed_over_later(one, servers, stack):
    from couchbase_admin.recompute import hand_over
    from selfgen.clients import mongo

    hour = 3_600_000
    start = 1_700_000_000_000 // hour * hour
    run("client", "add", f"C{one}", "--name", "x", *PLACE)
    run("client", "add", f"D{one}", "--name", "y", *PLACE)
    run("element", "add", "panel", f"P{one}", "--power-cap", "1")
    run("install", "add", "panel", f"P{one}", f"C{one}", "--since", "2020-01-01")
    with mongo.connect(servers) as client:
        client[servers.mongodb_database]["topic"].insert_many(
            {"_id": mongo.reading_id("panel", start + offset * hour, f"P{one}"), "msg_value": {"power": 1.0}}
            for offset in range(3)
        )
        client[servers.mongodb_database]["dirty_hours"].delete_many({})
    stack.down("mongodb")
    try:
        began = time.monotonic()
        run("install", "correct", "panel", f"P{one}", "--at", "2023-12-01", "--client", f"D{one}")
        assert time.monotonic() - began < 10
    finally:
        stack.up("mongodb")
    assert mongo.dirty_hours(servers, "panel", start + 3 * hour) == []

    hand_over(servers)  # as each batch job does before it reads
    marked = [each.hour_ms for each in mongo.dirty_hours(servers, "panel", start + 3 * hour)]
    assert marked == [start + offset * hour for offset in range(-1, 3)]
    with mongo.connect(servers) as client:
        client[servers.mongodb_database]["topic"].delete_many({})


def test_an_import_that_is_killed_goes_on(one, tmp_path, servers):
    file = tmp_path / "in.csv"
    rows = ["type,client_id,name,latitude,longitude,panel_id,power_cap,kind,element_id,init_date,time_zone"]
    rows += [f"client,C{one}{n},Name,40,-3,,,,,,Europe/Madrid" for n in range(500)]
    rows += [f"panel,,,,,P{one}{n},400,,,," for n in range(5000)]
    rows += [f"install,C{one}{n % 500},,,,,,panel,P{one}{n},2026-01-01," for n in range(5000)]
    file.write_text("\n".join(rows) + "\n")
    command = [str(Path(sys.executable).with_name("selfgen")), "registry", "import", str(file), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    documents = open_documents(servers)
    while documents.get(f"panel::P{one}100") is None:
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    result = answer("registry", "import", str(file))
    assert (result["rows"], result["rejected"]) == (10_500, 0)
    assert result["unchanged"] >= 500
    assert result["written"] + result["unchanged"] == 10_500
    again = answer("registry", "import", str(file))
    assert (again["written"], again["unchanged"]) == (0, 10_500)
    store = store_on(documents)
    relations = store.relations_of("panel", [f"P{one}{n}" for n in range(5000)])
    assert {read.value.periods[0].client_id for read in relations.values()} == {f"C{one}{n}" for n in range(500)}

    exported = tmp_path / "all.jsonl"
    run("registry", "export", str(exported))
    assert len(re.findall(f'"panel_id":"P{one}', exported.read_text())) == 5000


def test_refused_rows_give_exit_code_2(one, tmp_path):
    file = tmp_path / "in.csv"
    file.write_text(f"type,client_id,name,latitude,longitude\nclient,C{one},x,40,-3\nclient,D{one},x,400,-3\n")
    result = run("registry", "import", str(file), code=2)
    assert "2 rows: 1 written, 0 as they were, 1 refused" in result.stdout
    assert "latitude is 400" in (tmp_path / "in.csv.rejects.csv").read_text()


def test_without_couchbase_a_command_says_so(monkeypatch):
    from selfgen.settings import get_settings

    monkeypatch.setenv("SELFGEN_COUCHBASE_URL", "couchbase://127.0.0.1:9")
    monkeypatch.setenv("SELFGEN_COUCHBASE_TIMEOUT_S", "0.3")
    get_settings.cache_clear()
    try:
        result = run("client", "list", code=1)
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()
    assert result.stderr.startswith("error: Couchbase does not answer at couchbase://127.0.0.1:9: start it")
