"""The registry from and to one file."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest

from couchbase_admin import bulk
from couchbase_admin.clients import add_client, close_client
from couchbase_admin.elements import add_element, add_model, replace_element, retire_element
from couchbase_admin.installations import add_install, end_install, move_install
from couchbase_admin.rehearsal import Rehearsal
from selfgen.registry import Client, LightSensor, Model, Panel, Refused, WindSensor
from tests.integration.registry_support import (
    DAY,
    NOW,
    Interrupted,
    Namespace,
    Stopped,
    Stopping,
    a_client,
    broken_rules,
    couchbase_settings,
    open_documents,
    store_on,
)

pytestmark = pytest.mark.integration

GOOD = """\
type,kind,element_id,client_id,panel_id,model,init_date,end_date,power_cap,name,latitude,longitude,postal_code
install,panel,P1,C1,,,2026-01-01,2026-02-01,,,,,
install,panel,P1,C2,,,2026-02-01T00:00+00:00,,,,,,
client,,,C1,,,,,,Ibérica,41.4,2.17,08001
client,,,C2,,,,,,"Sol, S.A.",-12.05,-77.04,00015
panel,,,,P1,Solaria,,,,,,,
panel,,,,P2,,,,300,,,,
model,panel,,,,Solaria,,,420,,,,
"""
BAD = """\
type;client_id;name;latitude;longitude;panel_id;power_cap;kind;element_id;init_date;end_date
client;C1;Good;41.4;2.17;;;;;;
client;C2;No place;;;;;;;;
client;C3;Far;95;2.17;;;;;;
clown;C4;;;;;;;;;
panel;;;;;P1;400;;;;
panel;;;;;P2;nothing;;;;
panel;;;;;P3;-1;;;;
panel;;;;;P1;500;;;;
install;C1;;;;;;panel;P1;2026-01-01;2025-01-01
install;C1;;;;;;panel;P1;2026-01-01;
install;C1;;;;;;panel;P1;2026-02-01;
install;C9;;;;;;panel;P1;2025-01-01;2025-02-01
install;C1;;;;;;panel;P9;2026-01-01;
install;C1;;;;;;door;P1;2026-01-01;
install;C1;;;;;;panel;P1;soon;
panel;;;;;P4;1;;;;;one cell too many
"""


@pytest.fixture(scope="module")
def connected(stack):
    return open_documents(couchbase_settings(stack))


@pytest.fixture
def store(connected):
    return store_on(Namespace(connected))


@pytest.fixture
def rejects(tmp_path):
    return tmp_path / "rejects.csv"


def written(path, text: str):
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_in_any_order_go_in_once(store, tmp_path, rejects):
    file = written(tmp_path / "in.csv", GOOD)
    progress = []
    result = bulk.import_file(store, file, rejects, progress.append)
    assert (result.rows, result.written, result.unchanged, result.rejected) == (7, 7, 0, 0)
    assert not rejects.exists()
    assert progress == sorted(progress)
    assert progress[-1] == file.stat().st_size
    assert store.element("panel", "P1").value.power_cap == 420.0
    assert store.client("C1").value.time_zone == "Europe/Madrid"
    assert store.client("C2").value.postal_code == "00015"
    periods = store.relations("panel", "P1").value.periods
    # without an offset by the client's clock: midnight in Madrid
    assert [(period.client_id, period.init_date.isoformat()) for period in periods] == [
        ("C1", "2025-12-31T23:00:00+00:00"),
        ("C2", "2026-02-01T00:00:00+00:00"),
    ]
    again = bulk.import_file(store, file, rejects)
    assert (again.written, again.unchanged, again.rejected) == (0, 7, 0)
    assert broken_rules(store) == []


def test_bad_rows_are_told_by_line_column_and_reason_and_good_ones_go_in(store, tmp_path, rejects):
    result = bulk.import_file(store, written(tmp_path / "in.csv", BAD), rejects)
    with rejects.open(encoding="utf-8", newline="") as source:
        told = {int(row["line"]): (row["column"], row["reason"]) for row in csv.DictReader(source)}
    assert {line: column for line, (column, _) in told.items()} == {
        3: "latitude",
        4: "latitude",
        5: "type",
        7: "power_cap",
        8: "power_cap",
        9: "",
        10: "init_date",
        12: "init_date",
        13: "client_id",
        14: "element_id",
        15: "kind",
        16: "init_date",
        17: "",
    }
    assert "latitude is missing" in told[3][1]
    assert "latitude is 95: give degrees north, -90 to 90." in told[4][1]
    assert "type is clown: give one of model, client, panel, light, wind, install." in told[5][1]
    assert "power_cap is nothing: give the rating in W peak" in told[7][1]
    assert "panel P1 exists already, with other data" in told[9][1]
    assert "is not after the start" in told[10][1]
    assert "client C1 has panel P1 since 2025-12-31T23:00:00Z" in told[12][1]
    assert "client C9 is not registered" in told[13][1]
    assert "12 cells, but 11 columns" in told[17][1]
    assert (result.rows, result.written, result.rejected, result.rejects) == (16, 3, 13, str(rejects))
    assert store.client("C1").value.name == "Good"
    assert len(store.relations("panel", "P1").value.periods) == 1
    assert broken_rules(store) == []


def test_json_lines_say_the_same(store, tmp_path, rejects):
    rows = [
        '{"type": "client", "client_id": "C1", "name": "x", "latitude": 1, "longitude": 2.5, "postal_code": "01"}',
        '{"type": "wind", "wind_id": "W1", "variable_data": {"mast": {"height": 10}}, "sensor_price": null}',
        '{"type": "client", "client_id": "C2", "name": "x", "latitude": 1, "longitude": 2.5, "postal_code": 1}',
        "not json",
        "",
        '["a list"]',
    ]
    result = bulk.import_file(store, written(tmp_path / "in.jsonl", "\n".join(rows)), rejects)
    assert (result.rows, result.written, result.rejected) == (5, 2, 3)
    assert store.element("wind", "W1").value.variable_data == {"mast": {"height": 10}}
    lines = [line.split(",")[:2] for line in rejects.read_text().splitlines()[1:]]
    assert lines == [["4", ""], ["6", ""], ["3", "postal_code"]]


def test_a_row_that_is_refused_changes_nothing_of_what_is_there(store, tmp_path, rejects):
    add_element(store, Panel(panel_id="P1", power_cap=400.0))
    rows = ["type,panel_id,power_cap,end_date,replaces", "panel,P1,380,2026-01-01T00:00Z,P0"]
    result = bulk.import_file(store, written(tmp_path / "in.csv", "\n".join(rows)), rejects)
    assert (result.written, result.rejected) == (0, 1)
    assert store.relations("panel", "P1") is None


def test_what_an_element_replaces_is_an_id_of_another(store, tmp_path, rejects):
    rows = [
        '{"type": "panel", "panel_id": "P1", "power_cap": 400, "replaces": ""}',
        '{"type": "panel", "panel_id": "P2", "power_cap": 400, "replaces": "' + 300 * "x" + '"}',
        '{"type": "panel", "panel_id": "P3", "power_cap": 400, "replaced_by": "P3"}',
        '{"type": "panel", "panel_id": "P4", "power_cap": 400, "replaces": "P1"}',
    ]
    result = bulk.import_file(store, written(tmp_path / "in.jsonl", "\n".join(rows)), rejects)
    assert (result.written, result.rejected) == (2, 2)
    told = rejects.read_text()
    assert "replaces has 300 bytes" in told
    assert "replaced_by is the element itself" in told
    assert store.relations("panel", "P4").value.replaces == "P1"
    assert broken_rules(store) == []
    accented = b"type,panel_id,power_cap,replaces\npanel,P5,400,P\xed1\n"
    (tmp_path / "in.csv").write_bytes(accented)
    assert bulk.import_file(store, tmp_path / "in.csv", rejects).rejected == 1


def test_times_that_are_none_are_refused_and_the_rest_goes_in(store, tmp_path, rejects):
    add_client(store, Client(client_id="C1", name="x", latitude=-12.05, longitude=-77.04))
    rows = [
        "type,kind,element_id,client_id,panel_id,power_cap,init_date,end_date",
        "panel,,,,P1,400,,",
        "panel,,,,P2,400,,",
        "panel,,,,P3,400,,20260531",
        "panel,,,,P4,400,,46173",
        "install,panel,P1,C1,,,2026-01-01,9999-12-31 23:59:59",
        "install,panel,P2,C1,,,2026-01-01,",
    ]
    result = bulk.import_file(store, written(tmp_path / "in.csv", "\n".join(rows)), rejects)
    assert (result.written, result.rejected) == (3, 3)
    told = rejects.read_text()
    assert "end_date is 20260531: give an instant" in told
    assert "9999-12-31 23:59:59 is beyond the calendar" in told
    assert len(store.relations("panel", "P2").value.periods) == 1


def test_a_client_may_have_an_element_from_its_first_local_day_on(store, tmp_path, rejects):
    rows = [
        "type,kind,element_id,client_id,name,latitude,longitude,open_date,panel_id,power_cap,init_date",
        "client,,,C1,x,41.4,2.17,2026-02-01,,,",
        "panel,,,,,,,,P1,400,",
        "panel,,,,,,,,P2,400,",
        "panel,,,,,,,,P3,400,",
        "client,,,C2,x,-12.05,-77.04,2026-02-01,,,",
        "install,panel,P3,C2,,,,,,,2026-02-01T00:00:00Z",  # the day before in Lima, but UTC's may be meant
        "install,panel,P1,C1,,,,,,,2026-02-01",
        "install,panel,P2,C1,,,,,,,2026-01-31",
    ]
    result = bulk.import_file(store, written(tmp_path / "in.csv", "\n".join(rows)), rejects)
    assert (result.written, result.rejected) == (7, 1)
    assert "client C1 is a client since 2026-02-01" in rejects.read_text()


def test_thresholds_of_alarms_that_no_alarm_has_are_refused(store, tmp_path, rejects):
    rows = [
        {"type": "wind", "wind_id": "W1", "variable_data": {"alarms": {"no_data": {"least_s": 1e17}}}},
        {"type": "panel", "panel_id": "P1", "power_cap": 400, "variable_data": {"alarms": {"high_wind": {}}}},
        {"type": "model", "kind": "light", "model": "L", "variable_data": {"alarms": {"stuck": {"slots": "two"}}}},
        {"type": "wind", "wind_id": "W2", "variable_data": {"alarms": {"no_data": {"least_s": 3600}}}},
        {"type": "model", "kind": "light", "model": "é" * 150},
    ]
    text = "\n".join(map(json.dumps, rows))
    result = bulk.import_file(store, written(tmp_path / "in.jsonl", text), rejects)
    assert (result.written, result.rejected) == (1, 4)
    told = rejects.read_text()
    assert "variable_data has alarms that wind has not so: Expected `float` <= " in told
    assert "has too long a name" in told


def test_the_file_that_is_imported_is_not_where_the_refused_rows_go(store, tmp_path):
    file = written(tmp_path / "in.csv", "type,panel_id\n")
    with pytest.raises(Refused, match=r"in\.csv is what is imported"):
        bulk.import_file(store, file, file)
    assert file.read_text() == "type,panel_id\n"


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("in.txt", "", r"in.txt is neither .csv nor .jsonl"),
        ("in.csv", "x" * 200_000 + "\n", r"in.csv does not begin with a line of columns: field larger"),
        ("in.csv", "type,colour\n", "has no column colour. The columns are: type, kind"),
        ("in.csv", "client_id\n", "needs a column type"),
    ],
)
def test_a_file_of_another_kind_is_refused(store, tmp_path, rejects, name, text, sentence):
    with pytest.raises(Refused, match=sentence):
        bulk.import_file(store, written(tmp_path / name, text), rejects)


def rich_registry(store) -> None:
    """Fill a registry with everything there is."""
    site = {"address": 'Roof "7", left', "latitude": 40.5, "longitude": -3.5, "variable_data": {"row": [1, 2]}}
    add_model(store, Model(kind="panel", model="Solaria", power_cap=420.0, variable_data={"cells": 144}))
    for one in ("C1", "C2", "Ñ/3"):
        add_client(store, a_client(one, postal_code="08001", address="a,b;c", open_date=(NOW - 900 * DAY).date()))
    for one in ("P1", "P2", "P3", "P 4"):
        add_element(store, Panel(panel_id=one, power_cap=400.0, tilt=30.0, variable_data={"k": "ü", "n": None}))
    add_element(store, LightSensor(light_id="P1", power_cap=100.5, manufacture_date=(NOW - 800 * DAY).date()))
    add_element(store, WindSensor(wind_id="W1"))
    for one in ("P1", "P2", "P3"):
        add_install(store, "panel", one, "C1", NOW - 20 * DAY, site=site)
    add_install(store, "light", "P1", "Ñ/3", NOW - 20 * DAY)
    move_install(store, "panel", "P1", "C2", NOW - 10 * DAY)
    end_install(store, "panel", "P1", NOW - 9 * DAY)
    add_install(store, "panel", "P1", "C1", NOW - 8 * DAY)
    retire_element(store, "panel", "P3", NOW - 5 * DAY)
    replace_element(store, "P2", Panel(panel_id="P5", power_cap=500.0), NOW - 4 * DAY)
    move_install(store, "panel", "P5", "C2", NOW - 2 * DAY)
    replace_element(store, "P5", Panel(panel_id="P6", power_cap=500.0), NOW - DAY)
    end_install(store, "light", "P1", NOW - 2 * DAY)
    close_client(store, "Ñ/3", NOW - DAY)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_what_is_exported_makes_the_same_registry(connected, store, tmp_path, rejects, suffix):
    rich_registry(store)
    file, again = tmp_path / f"all.{suffix}", tmp_path / f"again.{suffix}"
    rows = bulk.export_file(store, file)
    copy = store_on(Namespace(connected), "luis")
    result = bulk.import_file(copy, file, rejects)
    assert (result.rows, result.written, result.rejected) == (rows, rows, 0), rejects.read_text()
    bulk.export_file(copy, again)
    assert again.read_bytes() == file.read_bytes()
    assert broken_rules(copy) == []
    for one in ("P1", "P2", "P3", "P5", "P6"):
        assert copy.relations("panel", one).value == store.relations("panel", one).value
    assert bulk.import_file(copy, file, rejects).unchanged == rows
    assert bulk.import_file(store, file, rejects).unchanged == rows


def test_stopped_anywhere_it_goes_on(connected, tmp_path, rejects, monkeypatch):
    monkeypatch.setattr(bulk, "CHUNK", 3)
    file = written(tmp_path / "in.csv", GOOD)
    whole = store_on(Namespace(connected))
    bulk.import_file(whole, file, rejects)
    bulk.export_file(whole, tmp_path / "whole.jsonl")
    stopped = 0
    for writes in range(0, 60, 3):
        store = store_on(Namespace(connected))
        try:
            bulk.import_file(store_on(Stopping(store.documents, writes)), file, rejects)
        except Stopped:
            stopped += 1
        assert broken_rules(store) == [], f"stopped after {writes} writes"
        result = bulk.import_file(store, file, rejects)
        assert result.written + result.unchanged == 7
        bulk.export_file(store, tmp_path / "resumed.jsonl")
        assert (tmp_path / "resumed.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
        assert broken_rules(store) == []
    assert stopped >= 7


def test_an_installer_who_is_quicker_is_not_overwritten(connected, tmp_path, rejects):
    lines = [
        {"type": "client", "client_id": "C1", "name": "x", "latitude": 1.0, "longitude": 2.0},
        {"type": "client", "client_id": "C2", "name": "x", "latitude": 1.0, "longitude": 2.0},
        {"type": "panel", "panel_id": "P1", "power_cap": 1.0},
    ]
    late = {"type": "install", "kind": "panel", "element_id": "P1", "client_id": "C1", "init_date": "2026-01-01T00:00Z"}
    first = written(tmp_path / "first.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    second = written(tmp_path / "second.jsonl", json.dumps(late) + "\n")
    outcomes = set()
    for before_write in range(3):
        store = store_on(Namespace(connected))
        bulk.import_file(store, first, rejects)

        def quicker(store=store):
            add_install(store, "panel", "P1", "C2", NOW - 100 * DAY)

        result = bulk.import_file(store_on(Interrupted(store.documents, before_write, quicker)), second, rejects)
        assert (result.written, result.rejected) == (0, 1)
        assert [period.client_id for period in store.relations("panel", "P1").value.periods] == ["C2"]
        assert broken_rules(store) == []
        outcomes.add(rejects.read_text().splitlines()[1].split(",")[1])
    assert outcomes == {"element_id"}


def test_a_rehearsal_writes_nothing(connected, store, tmp_path, rejects):
    file = written(tmp_path / "in.csv", GOOD)
    rehearsal = Rehearsal(store.documents)
    result = bulk.import_file(store_on(rehearsal), file, rejects)
    assert result.written == 7
    assert store.ids("client") == store.ids("panel") == []
    assert store.client("C1") is None
    assert {"client::C1", "panel::P1", "clients_rel::panel::P1"} <= rehearsal.written.keys()


def test_the_past_of_an_import_is_computed_again(connected, tmp_path, rejects):
    marked = []
    store = store_on(Namespace(connected), mark_dirty=lambda topic, hours, reason: marked.append((topic, hours)))
    store = replace(store, clock=lambda: NOW)
    bulk.import_file(store, written(tmp_path / "in.csv", GOOD), rejects)
    ((topic, hours),) = [each for each in marked if each[1]]
    assert topic == "panel"
    assert hours[0] == 1767222000000  # 2025-12-31T23:00Z
    assert hours[-1] == NOW.timestamp() * 1000 // 3_600_000 * 3_600_000
    nobody_had_it = 1769900400000  # 2026-01-31T23:00Z: between Madrid's midnight and that of UTC
    assert hours == [hour for hour in range(hours[0], hours[-1] + 1, 3_600_000) if hour != nobody_had_it]


def told_of(path) -> list[tuple[int, str]]:
    with path.open(encoding="utf-8", newline="") as source:
        return [(int(row["line"]), row["column"]) for row in csv.DictReader(source)]


def test_json_lines_of_any_shape_are_told_and_the_rest_goes_in(store, tmp_path, rejects):
    good = {"type": "client", "client_id": "C1", "name": "x", "latitude": 41.0, "longitude": 2.0}
    panel = {"type": "panel", "panel_id": "P1", "power_cap": 1}
    install = {"type": "install", "kind": "panel", "element_id": "P1", "client_id": "C1", "init_date": "2024-01-01"}
    lines = [
        json.dumps({**good, "type": ["client"]}),
        json.dumps({**panel, "replaces": ["P0"]}),
        json.dumps({**install, "kind": ["panel"]}),
        json.dumps({**install, "kind": {}}),
        json.dumps({**install, "element_id": 5}),
        '{"a":' * 5000 + "1" + "}" * 5000,
        json.dumps({**good, "name": ""}),
        *map(json.dumps, (good, panel, install)),
    ]
    result = bulk.import_file(store, written(tmp_path / "in.jsonl", "\n".join(lines)), rejects)
    assert (result.rows, result.written, result.rejected) == (10, 3, 7)
    columns = [(1, "type"), (2, "replaces"), (3, "kind"), (4, "kind"), (5, "element_id"), (6, ""), (7, "name")]
    assert sorted(told_of(rejects)) == columns
    assert broken_rules(store) == []


def test_a_quote_that_is_not_closed_names_the_lines_it_took(store, tmp_path, rejects):
    text = 'type|client_id|name|latitude|longitude\nclient|C1|x|1|1\nclient|C2|"open|1|1\nclient|C3|x|1|1\n'
    result = bulk.import_file(store, written(tmp_path / "in.csv", text), rejects)
    assert (result.written, result.rejected) == (1, 1)
    assert "The lines 3 to 4 were taken for one row" in rejects.read_text()
    with pytest.raises(Refused, match="the column client_id twice"):
        bulk.import_file(store, written(tmp_path / "twice.csv", "type,client_id,client_id\n"), rejects)
