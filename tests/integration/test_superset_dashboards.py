"""Superset on the real stack: dashboards as code are applied once, and draw what Druid holds."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from playwright.sync_api import Page
from tenacity import retry, stop_after_delay, wait_fixed

from selfgen.clients import druid, superset
from selfgen.columns import BATCHED, DATASOURCES, STREAMED
from selfgen.derived import derived
from selfgen.settings import ROOT, Settings
from tests.browser import await_figure, choose, look, open_page, page_of, read

pytestmark = pytest.mark.integration

CLIENTS = (
    {"client_id": "dashboard-1", "name": "Bodegas del Sur", "postal_code": "11403", "time_zone": "Europe/Madrid"},
    {"client_id": "dashboard-2", "name": "Panadería Ávila", "postal_code": "05001", "time_zone": "Europe/Madrid"},
)
Row = dict[str, Any]


def alarm(state: str, **more: Any) -> Row:
    return {"code": "test", "severity": "minor", "state": state, "text_alarm": f"A test is {state}", **more}


def batch_rows(hours: list[datetime]) -> dict[str, list[Row]]:
    """Return rows of the hourly sources: each client's 1.5 kWh and 500 Wh/m² an hour; alarms, one cleared."""
    every = [({"timestamp": int(hour.timestamp() * 1000)} | client) for hour in hours for client in CLIENTS]
    first, last = every[0], every[-1]
    energy = {"panel_id": "p", "power_gen": 1500.0, "expected_gen": 1600.0}
    return {
        "panel_report": [row | energy for row in every],
        "sensor_report": [row | {"light_id": "l", "irradiation": 500.0} for row in every],
        "panel_alarm": [first | alarm("raised", panel_id="p"), last | alarm("cleared", panel_id="p")],
        "sensor_alarm": [last | alarm("raised", light_id="l")],
        "light_surface": [last | {"light_id": "l", "tilt": 30.0, "azimuth": 180.0, "energy": 1500.0, "relative": 1.0}],
    }


def stream_rows(now: datetime) -> dict[str, list[Row]]:
    """Return rows of the streamed sources: ten minutes of wind, an alarm, 1 000 messages of a topic."""
    times = [int((now - timedelta(seconds=back)).timestamp() * 1000) for back in range(600, 0, -10)]
    wind = {"wind_id": "w", "wind_speed": 5.0, "wind_gust": 8.0, "wind_min": 3.0, "samples": 10}
    storm = alarm("raised", wind_id="w", wind_speed=26.0)
    return {
        "wind_report": [{"timestamp": time} | CLIENTS[0] | wind for time in times],
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
    admin = AdminClient({"bootstrap.servers": settings.bootstrap_servers})
    missing = [name for name in STREAMED if name not in admin.list_topics(timeout=30).topics]
    for future in admin.create_topics([NewTopic(name, 1) for name in missing]).values() if missing else ():
        future.result()
    druid.apply_supervisors(settings)
    produce(settings, stream_rows(now))
    for datasource in (*BATCHED, *STREAMED):
        await_rows(settings, datasource, hours[0])
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
    assert (again.assets["datasets"], again.assets["dashboards"]) == (12, 7)
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
    await_figure(page, "Energy", energy_kwh(filled, f"name = '{name}'"))


def test_the_overview_shows_new_readings_within_15_s(filled, browser):
    page, _ = browser
    open_page(page, filled, superset.OVERVIEW)
    shown = next(chart for chart in read(page) if chart["title"] == "Readings landed")
    before = int(str(shown["text"]).splitlines()[0].replace(",", ""))
    produce(filled, {"topic_performance": [performance(int(datetime.now(UTC).timestamp() * 1000), 5010)]})
    await_figure(page, "Readings landed", f"{before + 5000:,d}", timeout_s=15)
