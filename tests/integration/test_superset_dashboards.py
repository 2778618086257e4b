"""Superset on the real stack: dashboards as code are applied once, and draw what Druid holds."""

from __future__ import annotations

import http.client
import json
import os
import select
import shutil
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from playwright.sync_api import Page
from pydantic import SecretStr
from tenacity import retry, stop_after_delay, wait_fixed

from benchmarks.browser import await_figure, choose, look, open_page, other_page_of, page_of, read
from selfgen.clients import druid, superset, superset_access, superset_export
from selfgen.columns import BATCHED, DATASOURCES, ROLLED_UP, STREAMED
from selfgen.derived import derived
from selfgen.settings import ROOT, Settings
from tests.integration.access_support import Person, forms, pages, seizures

pytestmark = pytest.mark.integration

CLIENTS = (
    {"client_id": "dashboard-1", "name": "Bodegas del Sur", "postal_code": "11403", "time_zone": "Europe/Madrid"},
    {"client_id": "dashboard-2", "name": "Panadería Ávila", "postal_code": "05001", "time_zone": "Europe/Madrid"},
)
#: The second client's energy of an hour, Wh: a figure that nothing else has.
OTHERS_ENERGY = 4321.0
Row = dict[str, Any]


def alarm(state: str, **more: Any) -> Row:
    return {"code": "test", "severity": "minor", "state": state, "text_alarm": f"A test is {state}", **more}


def batch_rows(hours: list[datetime]) -> dict[str, list[Row]]:
    """Return rows of the hourly sources: each client's energy and 500 Wh/m² an hour; alarms, one cleared."""
    every = [({"timestamp": int(hour.timestamp() * 1000)} | client) for hour in hours for client in CLIENTS]
    first, last = every[0], every[-1]
    energy = {CLIENTS[0]["client_id"]: 1500.0, CLIENTS[1]["client_id"]: OTHERS_ENERGY}
    panel = {"panel_id": "p", "expected_gen": 1600.0}
    return {
        "panel_report": [row | panel | {"power_gen": energy[str(row["client_id"])]} for row in every],
        "sensor_report": [row | {"light_id": "l", "irradiation": 500.0} for row in every],
        "panel_alarm": [
            first | alarm("raised", panel_id="p", power_low=900.0),
            last | alarm("cleared", panel_id="p", power_low=400.0),
        ],
        "sensor_alarm": [last | alarm("raised", light_id="l")],
        "light_surface": [last | {"light_id": "l", "tilt": 30.0, "azimuth": 180.0, "energy": 1500.0, "relative": 1.0}],
    }


def stream_rows(now: datetime) -> dict[str, list[Row]]:
    """Return rows of the streamed sources: ten minutes of wind, two uneven windows, an alarm, a topic's messages."""
    times = [int((now - timedelta(seconds=back)).timestamp() * 1000) for back in range(600, 0, -10)]
    wind = {"wind_id": "w", "wind_speed": 5.0, "wind_gust": 8.0, "wind_min": 3.0, "samples": 10}
    uneven = [wind | {"wind_id": "v"}, wind | {"wind_id": "v", "wind_speed": 11.0, "samples": 5}]
    storm = alarm("raised", wind_id="w", wind_speed=26.0)
    return {
        "wind_report": [
            {"timestamp": time} | CLIENTS[0] | window
            for time, window in (*zip(times, uneven, strict=False), *((time, wind) for time in times))
        ],
        "wind_alarm": [{"timestamp": times[-1]} | CLIENTS[0] | storm],
        "topic_performance": [performance(times[-1], 1000)],
    }


def performance(time: int, messages: int) -> Row:
    partition = {"topic_id": "wind", "partition": 0, "consumer": "streaming_sensor_wind"}
    counts = {"messages": messages, "bytes": 95 * messages, "rejected": 3, "duplicates": 7, "lag": 0}
    return {"timestamp": time, **partition, **counts, "delay_p50": 0.1, "delay_p95": 0.2, "delay_p99": 0.3}


def produce(settings: Settings, rows: dict[str, list[Row]]) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": settings.bootstrap_servers})
    for topic, values in rows.items():
        for value in values:
            producer.produce(topic, json.dumps(value).encode())
    assert producer.flush(30) == 0


@retry(stop=stop_after_delay(90), wait=wait_fixed(0.5))
def await_rows(settings: Settings, datasource: str, start: datetime) -> None:
    since = start.strftime("%Y-%m-%d %H:%M:%S")
    found = druid.query(settings, f"SELECT COUNT(*) AS n FROM {datasource} WHERE __time >= '{since}'")
    assert found[0]["n"] > 0


@pytest.fixture(scope="module")
def settings(stack) -> Settings:
    stack.up("superset")
    return stack.settings


@pytest.fixture(scope="module")
def filled(stack, settings, tmp_path_factory) -> Settings:
    """Give a stack whose data sources have rows of the last hours."""
    from confluent_kafka.admin import AdminClient, NewTopic

    stack.up("kafka", "druid")
    now = datetime.now(UTC)
    hour = now.replace(minute=0, second=0, microsecond=0)
    hours = [hour - timedelta(hours=back) for back in (3, 2, 1)]
    folder = tmp_path_factory.mktemp("rows")
    for datasource, rows in batch_rows(hours).items():
        file = folder / f"{datasource}.json"
        file.write_text("\n".join(json.dumps(row) for row in rows))
        assert druid.replace(settings, datasource, [file], hours[0], hour).rows == len(rows)
    for datasource in ROLLED_UP:
        druid.roll_up(settings, datasource, hours[0], hour)
    admin = AdminClient({"bootstrap.servers": settings.bootstrap_servers})
    missing = [name for name in STREAMED if name not in admin.list_topics(timeout=30).topics]
    for future in admin.create_topics([NewTopic(name, 1) for name in missing]).values() if missing else ():
        future.result()
    druid.apply_supervisors(settings)
    produce(settings, stream_rows(now))
    for datasource in (*BATCHED, *STREAMED):
        await_rows(settings, datasource, hours[0])
    for datasource in ROLLED_UP:
        await_rows(settings, datasource, hours[0].replace(hour=0))
    superset.apply(settings)
    return settings


@pytest.fixture(scope="module")
def browser(filled) -> Iterator[tuple[Page, list[str]]]:
    """Give a page of one who is logged in, and what went wrong in it so far."""
    errors: list[str] = []
    with page_of(filled, errors) as page:
        yield page, errors


def test_the_assets_are_applied_without_druid_and_a_second_time_nothing_changes(settings):
    superset.apply(settings)
    again = superset.apply(settings)
    assert (again.created, again.changed) == ((), ())
    assert (again.assets["datasets"], again.assets["dashboards"]) == (13, 7)
    exported = superset.Client(settings).export()
    for kind, count in again.assets.items():
        assert sum(name.startswith(f"{kind}/") for name in exported) == count, f"{kind} doubled or missing"


def test_a_changed_file_changes_that_and_nothing_else(settings, tmp_path):
    superset.apply(settings)
    folder = Path(shutil.copytree(superset.ASSETS, tmp_path / "assets"))
    file = folder / "charts" / "open_alarms.yaml"
    chart = yaml.safe_load(file.read_text())
    chart["params"]["subtitle"] = "changed here"
    file.write_text(yaml.safe_dump(chart))
    assert superset.apply(settings, folder).changed == ("chart Open alarms",)
    assert superset.apply(settings).changed == ("chart Open alarms",)


def test_the_labels_and_units_of_columns_reach_superset(settings):
    superset.apply(settings)
    client = superset.Client(settings)
    found = client.call("GET", "dataset/", params={"q": json.dumps({"page_size": 100})}).json()["result"]
    number = next(dataset["id"] for dataset in found if dataset["table_name"] == "panel_report")
    columns = client.call("GET", f"dataset/{number}").json()["result"]["columns"]
    described = {column["column_name"]: column["verbose_name"] for column in columns}
    assert described["power_gen"] == "Energy (Wh)"
    assert described["__time"] == "Time (UTC)"


def test_maps_have_land_without_internet(settings):
    def tile(place: str) -> requests.Response:
        return requests.get(f"{settings.superset}/selfgen/tiles/{place}.png", timeout=60)

    spain, atlantic = tile("5/15/12"), tile("5/11/12")
    assert spain.content.startswith(b"\x89PNG")
    assert len(spain.content) > 10 * len(atlantic.content) > 0
    assert (tile("3/8/0").status_code, tile("13/0/0").status_code) == (404, 404)


def test_the_generated_password_is_private_and_no_other_opens(settings):
    file = settings.stack_dir / "superset" / superset.PASSWORD_FILE
    if not settings.superset_password.get_secret_value():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    login = {"username": settings.superset_user, "password": "admin", "provider": "db"}
    answer = requests.post(f"{settings.superset}/api/v1/security/login", json=login, timeout=30)
    assert answer.status_code == 401


def test_an_idle_connection_stays_open_for_the_next_request(settings):
    connection = http.client.HTTPConnection(settings.address("superset"), timeout=30)

    def healthy() -> bool:
        connection.request("GET", "/health")
        return connection.getresponse().read() == b"OK"

    assert healthy()
    # a connection that the server closes becomes readable: its end
    assert select.select([connection.sock], [], [], 4)[0] == []
    assert healthy()
    connection.close()


def energy_kwh(settings: Settings, condition: str = "TRUE") -> str:
    """Return the energy of the last week as the dashboard writes it."""
    week = "__time >= CURRENT_TIMESTAMP - INTERVAL '7' DAY AND __time < CURRENT_TIMESTAMP"
    sql = f"SELECT SUM(power_gen) / 1000.0 AS kwh FROM panel_report WHERE {week} AND {condition}"
    return f"{druid.query(settings, sql)[0]['kwh']:,.1f}"


@pytest.mark.parametrize("datasource", [name for name in DATASOURCES if derived(name)])
def test_druid_tells_client_province_and_area_of_each_row(filled, datasource):
    rows = druid.query(filled, f"SELECT DISTINCT client, province, area FROM {datasource} WHERE client_id LIKE 'dash%'")
    known = [
        {"client": "Bodegas del Sur (dashboard-1)", "province": "Cádiz", "area": "11403 Cádiz"},
        {"client": "Panadería Ávila (dashboard-2)", "province": "Ávila", "area": "05001 Ávila"},
    ]
    assert rows
    assert all(row in known for row in rows)


def virtual(settings: Settings, table: str) -> dict[str, Any]:
    return superset.read_assets(settings)[f"datasets/druid/{table}.yaml"]


def test_an_incident_is_of_who_had_the_element_then_and_lost_what_its_last_row_tells(filled):
    sql = f"SELECT client_id, state, lost_kwh FROM ({virtual(filled, 'incidents')['sql']}) WHERE element_id = 'p'"
    assert druid.query(filled, sql) == [{"client_id": "dashboard-1", "state": "cleared", "lost_kwh": 0.4}]


def test_wind_windows_count_by_their_readings(filled):
    measured = virtual(filled, "measured")
    expression = next(one["expression"] for one in measured["metrics"] if one["metric_name"] == "measured")
    own = "element_id IN ('w', 'v', 'l', 'p')"
    sql = f"SELECT element_id, {expression} AS mean FROM ({measured['sql']}) WHERE {own} GROUP BY 1"
    means = {row["element_id"]: row["mean"] for row in druid.query(filled, sql)}
    assert means == {"w": 5.0, "v": 7.0, "l": 500.0, "p": (1500.0 + OTHERS_ENERGY) / 2}


def test_every_chart_of_the_overview_draws_the_figures_of_druid(filled, browser):
    page, errors = browser
    picture = ROOT / "build" / "screenshots" / "overview-integration.png"
    state = look(page, filled, superset.OVERVIEW, picture)
    assert errors + state.errors == []
    assert state.undrawn() == []
    assert set(state.filters) == {"Time", "Client", "Postal code"}
    assert state.charts["Energy"].text.splitlines()[0] == energy_kwh(filled)
    assert float(state.charts["Wind now"].text.splitlines()[0]) > 0
    balance = "SELECT SUM(CASE state WHEN 'raised' THEN 1 ELSE -1 END) AS n FROM"
    sources = ("panel_alarm", "sensor_alarm", "wind_alarm")
    opened = sum(druid.query(filled, f"{balance} {source}")[0]["n"] for source in sources)
    assert state.charts["Open alarms"].text.splitlines()[0] == f"{opened:,d}"
    assert "A test is raised" in state.charts["Alarms"].text
    assert "wind\t" in state.charts["Readings by topic"].text


def test_a_filter_changes_the_figures_to_those_of_its_client(filled, browser):
    page, _ = browser
    name = CLIENTS[0]["name"]
    open_page(page, filled, superset.OVERVIEW)
    choose(page, "client", name)
    await_figure(page, "Energy", lambda: energy_kwh(filled, f"name = '{name}'"))


def test_the_overview_shows_new_readings_within_15_s(filled, browser):
    page, _ = browser
    open_page(page, filled, superset.OVERVIEW)
    shown = next(chart for chart in read(page) if chart["title"] == "Readings landed")
    before = int(str(shown["text"]).splitlines()[0].replace(",", ""))
    produce(filled, {"topic_performance": [performance(int(datetime.now(UTC).timestamp() * 1000), 5010)]})
    await_figure(page, "Readings landed", lambda: f"{before + 5000:,d}", timeout_s=15)


# -- who sees what -----------------------------------------------------------------------------------

PEOPLE = {
    "ana": {"role": "analyst"},
    "ines": {"role": "installer"},
    "oskar": {"role": "operator"},
    "sur": {"role": "client", "client_id": "dashboard-1"},
    "avila": {"role": "client", "client_id": "dashboard-2"},
    "quote": {"role": "client", "client_id": "O'Hara:%s {{ 1 }} ñ"},
}
#: Of the client that user `sur` is not: id, name, postal code, energy of an hour and of three, user.
OTHERS = ("dashboard-2", CLIENTS[1]["name"], CLIENTS[1]["postal_code"], "4321", "12963", "12.963", "avila")


@pytest.fixture(scope="module")
def passwords(filled, tmp_path_factory) -> dict[str, str]:
    """Make the users; return the passwords that were made up."""
    folder = tmp_path_factory.mktemp("users")
    file, kept = folder / "users.yaml", folder / "passwords.yaml"
    file.write_text(yaml.safe_dump({"users": [{"username": name} | person for name, person in PEOPLE.items()]}))
    users = superset_access.read_users(file)
    assert set(superset_access.apply_users(filled, users, kept).values()) == {"created"}
    assert set(superset_access.apply_users(filled, users, kept).values()) == {"unchanged"}
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    return superset_access.read_passwords(kept)


def numbers(settings: Settings, kind: str, name: str) -> dict[str, int]:
    """Return the numbers of what Superset has of a kind, by name, as the administrator sees it."""
    order = {"dataset": "table_name", "chart": "slice_name", "dashboard": "dashboard_title"}[kind]
    return {one[name]: one["id"] for one in superset.Client(settings).pages(f"{kind}/", order)}


@pytest.fixture(scope="module")
def datasets(filled) -> dict[str, int]:
    return numbers(filled, "dataset", "table_name")


@pytest.fixture(scope="module")
def closed(filled) -> set[str]:
    """Give the datasets that are not of clients: those without the column that says whose a row is."""
    stated = {name: asset for name, asset in superset.read_assets(filled).items() if name.startswith("datasets/")}
    owned = {asset["table_name"] for asset in stated.values() if "client_id" in str(asset["columns"])}
    return {asset["table_name"] for asset in stated.values()} - owned


def test_users_have_their_role_and_client_and_a_changed_one_is_changed(filled, passwords, monkeypatch, tmp_path):
    listed = {user["username"]: user for user in superset_access.list_users(filled)}
    assert {name: listed[name]["role"] for name in PEOPLE} == {name: one["role"] for name, one in PEOPLE.items()}
    assert listed["quote"]["client_id"] == PEOPLE["quote"]["client_id"]
    monkeypatch.setenv("OSKARS", "a password of his own")
    oskar = superset_access.User(username="oskar", role="operator", email="o@example.org", password_env="OSKARS")
    for outcome in ("changed", "unchanged"):
        assert superset_access.apply_users(filled, [oskar], tmp_path / "none.yaml") == {"oskar": outcome}
    Person(filled, "oskar", "a password of his own")
    assert not (tmp_path / "none.yaml").exists()
    closed = superset_access.User(username="oskar", role="operator", email="o@example.org", active=False)
    assert superset_access.apply_users(filled, [closed], tmp_path / "none.yaml") == {"oskar": "changed"}
    with pytest.raises(requests.HTTPError, match="401"):
        Person(filled, "oskar", "a password of his own")


def test_an_analyst_sees_all_rows_and_an_installer_no_topics(filled, passwords, datasets):
    ana, ines = (Person(filled, name, passwords[name]) for name in ("ana", "ines"))
    for person in (ana, ines):
        seen = {row["client_id"] for row in person.rows(datasets["panel_report"], columns=["client_id"])}
        assert seen >= {client["client_id"] for client in CLIENTS}
    assert ana.chart_data(datasets["topic_performance"], columns=["topic_id"]).ok
    assert ines.chart_data(datasets["topic_performance"], columns=["topic_id"]).status_code == 403
    assert ines.ask("POST", "api/v1/sqllab/execute/", json={"database_id": 1, "sql": "SELECT 1"}).status_code == 403
    answer = ana.ask("POST", "api/v1/sqllab/execute/", json={"database_id": 1, "sql": "SELECT 41 + 1 AS n"})
    assert answer.json()["data"] == [{"n": 42}]
    # what a client must not find is there to be found
    theirs = [{"col": "client_id", "op": "==", "val": OTHERS[0]}]
    ana.chart_data(datasets["panel_report"], columns=["client_id", "name", "postal_code", "power_gen"], filters=theirs)
    assert set(OTHERS[:4]) <= {marker for marker in OTHERS if ana.shown(marker)}


def test_a_client_gets_own_rows_only_of_every_dataset(filled, passwords, datasets, closed):
    ana, sur = (Person(filled, name, passwords[name]) for name in ("ana", "sur"))
    count = {"expressionType": "SQL", "sqlExpression": "COUNT(*)", "label": "n"}
    assert "topic_performance" in closed
    seen = 0
    for table, number in datasets.items():
        if table in closed:
            assert sur.chart_data(number, columns=[], metrics=[count]).status_code == 403
            continue
        rows = [person.rows(number, columns=["client_id"], metrics=[count]) for person in (ana, sur)]
        assert rows[1] == [row for row in rows[0] if row["client_id"] == "dashboard-1"], table
        seen += len(rows[1])
    assert seen > 5
    assert not {one["table_name"] for one in sur.listed("dataset")} & closed


def test_no_form_of_a_chart_gives_a_client_a_row_of_another(filled, passwords, datasets):
    sur = Person(filled, "sur", passwords["sur"])
    answered = 0
    for form in forms("dashboard-2"):
        answer = sur.chart_data(datasets["panel_report"], **form)
        data = [one.get("data") for one in answer.json()["result"]] if answer.ok else []
        answered += bool(data)
        assert not [marker for marker in OTHERS if marker in json.dumps(data, ensure_ascii=False)], form
    assert answered > 5


def test_what_somebody_asked_in_sql_is_not_for_clients(filled, passwords):
    ana, sur = (Person(filled, name, passwords[name]) for name in ("ana", "sur"))
    sql = "SELECT client_id, name FROM panel_report WHERE client_id <> 'dashboard-2'"
    asked = ana.ask("POST", "api/v1/sqllab/execute/", json={"database_id": 1, "sql": sql, "schema": "druid"}).json()
    body = {
        "datasource": {"id": asked["query_id"], "type": "query"},
        "queries": [{"columns": ["client_id"], "metrics": []}],
    }
    assert ana.ask("POST", "api/v1/chart/data", json=body).ok
    assert sur.ask("POST", "api/v1/chart/data", json=body).status_code == 403
    assert sur.shown(*OTHERS) == []


def test_no_page_that_a_client_may_ask_for_tells_of_another(filled, passwords, datasets):
    sur = Person(filled, "sur", passwords["sur"])
    charts, dashboards = numbers(filled, "chart", "slice_name"), numbers(filled, "dashboard", "dashboard_title")
    some = {table: datasets[table] for table in ("panel_report", "topic_performance")}
    pages(sur, some, list(charts.values())[:3], list(dashboards.values()))
    assert sur.shown(*OTHERS) == []
    assert sum(answer.ok for _, answer in sur.answers) > 20


def test_a_client_may_not_write_nor_ask_in_sql_nor_become_more(filled, passwords, datasets):
    sur = Person(filled, "sur", passwords["sur"])
    own = sur.ask("GET", "api/v1/me/").json()["result"]["id"]
    for answer in seizures(sur, datasets["panel_report"], own):
        assert answer.status_code in {400, 403, 404}, (answer.request.method, answer.url, answer.text[:200])
    charts = numbers(filled, "chart", "slice_name")
    for dashboard in numbers(filled, "dashboard", "dashboard_title").values():
        # as if it were that dashboard's chart, which those may see whom the dashboard was given to
        body = {
            "datasource": {"id": datasets["topic_performance"], "type": "table"},
            "queries": [{"columns": ["topic_id"]}],
            "form_data": {"dashboardId": dashboard, "slice_id": charts["Readings by topic"]},
        }
        assert sur.ask("POST", "api/v1/chart/data", json=body).status_code == 403


def test_a_client_without_a_client_sees_nothing_and_an_odd_id_is_no_condition(filled, passwords, datasets, closed):
    client = superset.Client(filled)
    roles = {role["name"]: role["id"] for role in client.pages("security/roles/", "name")}
    body = {"username": "nobody", "first_name": "n", "last_name": "n", "email": "n@localhost", "active": True}
    client.call("POST", "security/users/", json=body | {"password": "of-no-one-1", "roles": [roles["client"]]})
    for name, password in (("nobody", "of-no-one-1"), ("quote", passwords["quote"])):
        person = Person(filled, name, password)
        for table, number in datasets.items():
            if table not in closed:
                assert person.rows(number, columns=["client_id"]) == [], (name, table)


def test_no_client_is_answered_from_anothers_cache(filled, passwords, datasets):
    sur, avila = (Person(filled, name, passwords[name]) for name in ("sur", "avila"))
    # no other test asks for so many rows: what it has cached is another query's
    query = {"columns": ["client_id"], "metrics": [], "force": False, "row_limit": 4321}

    def answer(person: Person) -> tuple[Any, bool]:
        found = person.chart_data(datasets["panel_report"], **query).json()["result"][0]
        return found["data"], bool(found["is_cached"])

    own = {sur: [{"client_id": "dashboard-1"}], avila: [{"client_id": "dashboard-2"}]}
    assert [answer(person) for person in own] == [(rows, False) for rows in own.values()]
    again = [answer(sur) for _ in range(5)]
    assert all(rows == own[sur] for rows, _ in again)
    assert any(cached for _, cached in again)  # answers are kept for some seconds only


@pytest.fixture
def own_dashboard(filled, tmp_path) -> Iterator[str]:
    """Give a dashboard of the overview's charts that are of clients, as the files of it could be."""
    folder = Path(shutil.copytree(superset.ASSETS, tmp_path / "assets"))
    asset = yaml.safe_load((folder / "dashboards" / "selfgen_overview.yaml").read_text())
    asset |= {"dashboard_title": "Own", "slug": "own", "uuid": "5e1f9e70-0000-4000-8000-0000000003ff"}
    gone = {"CHART-topics", "CHART-readings_landed"}
    position = {name: item for name, item in asset["position"].items() if name not in gone}
    for item in position.values():
        if isinstance(item, dict) and item["type"] == "ROW":
            item["children"] = [child for child in item["children"] if child not in gone]
    (folder / "dashboards" / "own.yaml").write_text(yaml.safe_dump(asset | {"position": position}))
    superset.apply(filled, folder)
    yield "own"
    superset.Client(filled).call("DELETE", f"dashboard/{numbers(filled, 'dashboard', 'slug')['own']}")


def test_in_the_browser_a_client_meets_only_itself(filled, browser, passwords, own_dashboard):
    errors: list[str] = []
    update = {"superset_user": "sur", "superset_password": SecretStr(passwords["sur"])}
    with other_page_of(browser[0], filled.model_copy(update=update), errors) as page:
        state = look(page, filled, own_dashboard, ROOT / "build" / "screenshots" / "client.png")
        assert errors + state.errors == []
        assert state.charts["Energy"].text.splitlines()[0] == energy_kwh(filled, "client_id = 'dashboard-1'")
        page.locator('[data-test="NATIVE_FILTER-client"]').click()
        page.locator(".ant-select-item-option").first.wait_for()
        assert page.locator(".ant-select-item-option").all_inner_texts() == [CLIENTS[0]["name"]]
        seen = [page.content()]
        for path in (
            "superset/welcome/",
            "dashboard/list/",
            "sqllab/",
            "users/",
            "superset/dashboard/selfgen-overview/",
        ):
            page.goto(f"{filled.superset}/{path}", wait_until="networkidle")
            seen.append(page.content())
    assert CLIENTS[0]["name"] in seen[0]
    assert "SQL Lab" not in seen[1]
    assert not [marker for marker in OTHERS for text in seen if marker in text]


def test_a_dashboard_does_not_remember_the_names_that_its_pages_show(filled, browser, passwords):
    page, wrong = browser
    slug = "selfgen-company-history"
    assert look(page, filled, slug).errors + wrong == []
    _leave(page, filled)  # as one who may edit it
    assert superset.apply(filled).changed == ()
    administrator = superset.Client(filled)
    found = administrator.call("GET", f"dashboard/{slug}").json()["result"]
    colours = {"map_label_colors": {CLIENTS[1]["name"]: "#000000"}, "shared_label_colors": [CLIENTS[1]["name"]]}
    saved = {"json_metadata": json.dumps(json.loads(found["json_metadata"]) | colours)}
    administrator.call("PUT", f"dashboard/{found['id']}", json=saved)
    assert CLIENTS[1]["name"] not in Person(filled, "sur", passwords["sur"]).ask("GET", f"dashboard/{slug}").text
    errors: list[str] = []
    analyst = {"superset_user": "ana", "superset_password": SecretStr(passwords["ana"])}
    with other_page_of(page, filled.model_copy(update=analyst), errors) as other:
        state = look(other, filled, slug)
        _leave(other, filled)
        assert errors + state.errors == []


def _leave(page: Page, settings: Settings) -> None:
    """Leave a dashboard, whose page tells its colours then."""
    with page.expect_request(lambda request: "/colors" in request.url):
        page.goto(f"{settings.superset}/superset/welcome/", wait_until="networkidle")


# -- production --------------------------------------------------------------------------------------

READ_CONFIGURATIONS = """
import json, os, runpy, sys
for variables in json.load(sys.stdin):
    os.environ.update(variables)
    read = runpy.run_path(sys.argv[1])
    kept = {name: one for name, one in read.items() if name.isupper() and isinstance(one, str | int | bool | dict)}
    print(json.dumps(kept | {"BROKER": getattr(read["CELERY_CONFIG"], "broker_url", None)}, default=str))
"""
REDIS, DATABASE = "redis://cache.example:6379/0", "postgresql://superset:p%40ss@db.example/superset"
PRODUCTION = {
    **{"SECRET": "s" * 42, "DATABASE": DATABASE, "REDIS": REDIS, "BEHIND_PROXY": "true"},
    **{"SMTP_HOST": "mail.example", "SMTP_PORT": "2525", "SMTP_STARTTLS": "false", "SMTP_FROM": "a@example.org"},
}


def test_variables_switch_what_production_needs(tmp_path):
    (tmp_path / "secret-key").write_text("one that is kept\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SELFGEN_", "SUPERSET_"))}
    given = {f"SELFGEN_SUPERSET_{name}": value for name, value in PRODUCTION.items()}
    python, file = ROOT / ".venv-superset/bin/python", ROOT / "stack/superset/superset_config.py"
    done = subprocess.run(
        [python, "-c", READ_CONFIGURATIONS, file], env=clean | {"SUPERSET_HOME": str(tmp_path)},
        input=json.dumps([{}, given]), capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    local, production = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    assert local["SECRET_KEY"].endswith(" kept")
    assert local["SQLALCHEMY_DATABASE_URI"].startswith(f"sqlite:///{tmp_path}/superset.db")
    assert not local["ENABLE_PROXY_FIX"] | local["TALISMAN_ENABLED"] | local["SESSION_COOKIE_SECURE"]
    assert local["DATA_CACHE_CONFIG"]["CACHE_TYPE"] == "FileSystemCache"
    assert local["FEATURE_FLAGS"]["DASHBOARD_RBAC"]
    assert not local["FEATURE_FLAGS"]["ALERT_REPORTS"]
    assert local["BROKER"] is None

    assert (production["SECRET_KEY"], production["SQLALCHEMY_DATABASE_URI"]) == ("s" * 42, DATABASE)
    assert production["ENABLE_PROXY_FIX"] & production["TALISMAN_ENABLED"] & production["SESSION_COOKIE_SECURE"]
    assert production["TALISMAN_CONFIG"]["content_security_policy"]["default-src"] == ["'self'"]
    caches = [production[name] for name in production if name.endswith("CACHE_CONFIG")]
    assert len({cache["CACHE_KEY_PREFIX"] for cache in caches}) == len(caches) == 4
    assert {(cache["CACHE_TYPE"], cache["CACHE_REDIS_URL"]) for cache in caches} == {("RedisCache", REDIS)}
    assert production["RATELIMIT_ENABLED"] & production["FEATURE_FLAGS"]["ALERT_REPORTS"]
    assert (production["BROKER"], production["RATELIMIT_STORAGE_URI"]) == (REDIS, REDIS)
    mail = [production[name] for name in ("SMTP_HOST", "SMTP_PORT", "SMTP_STARTTLS", "SMTP_MAIL_FROM")]
    assert mail == ["mail.example", 2525, False, "a@example.org"]


LOG_IN_THREE_TIMES = """
import shutil, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import prepare
prepare.configure(home := Path(sys.argv[2]))
shutil.copy(prepare.template(), home / "superset.db")
from superset import config
config.RATELIMIT_ENABLED, config.AUTH_RATE_LIMIT = True, "2 per minute"
from superset.app import create_app
client, login = create_app().test_client(), {"username": "ana", "password": "x", "provider": "db"}
print([client.post("/api/v1/security/login", json=login).status_code for _ in range(3)])
"""


def test_log_ins_by_the_interface_are_limited_too(tmp_path):
    python, folder = ROOT / ".venv-superset/bin/python", ROOT / "stack/superset"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SELFGEN_", "SUPERSET_"))}
    done = subprocess.run(
        [python, "-c", LOG_IN_THREE_TIMES, folder, tmp_path],
        env=clean, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[401, 401, 429]"


# -- written back ------------------------------------------------------------------------------------


def test_what_was_changed_in_the_pages_is_the_only_change_of_the_files(settings, tmp_path):
    superset.apply(settings)
    folder = Path(shutil.copytree(superset.ASSETS, tmp_path / "assets"))
    assert superset_export.export(settings, folder=folder) == ((), (), ())
    client = superset.Client(settings)
    number = numbers(settings, "chart", "slice_name")["Energy by hour"]
    params = json.loads(client.call("GET", f"chart/{number}").json()["result"]["params"])
    body = {"params": json.dumps(params | {"x_axis_title": "Hour, changed in the page"})}
    client.call("PUT", f"chart/{number}", json=body)
    before = (folder / "charts" / "energy_by_hour.yaml").read_text()
    assert superset_export.export(settings, folder=folder).changed == ("charts/energy_by_hour.yaml",)
    after = (folder / "charts" / "energy_by_hour.yaml").read_text()
    assert after == before.replace("x_axis_title: Hour (UTC)", "x_axis_title: Hour, changed in the page")
    assert superset.apply(settings).changed == ("chart Energy by hour",)
