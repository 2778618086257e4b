"""What the dashboards as code say must agree: with the data sources' columns, and with each other."""

from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from selfgen.clients.superset import (
    ASSETS,
    OVERVIEW,
    SupersetError,
    dashboard_url,
    pack,
    password,
    read_assets,
)
from selfgen.columns import DATASOURCES, ROLLED_UP
from selfgen.derived import stored
from selfgen.messages import SET_ASIDE
from selfgen.settings import ROOT, Settings

SETTINGS = Settings(port_base=20000, _env_file=None)
FILES = read_assets(SETTINGS)
DATASETS = {asset["uuid"]: asset for name, asset in FILES.items() if name.startswith("datasets/")}
CHARTS = {asset["uuid"]: asset for name, asset in FILES.items() if name.startswith("charts/")}
DASHBOARDS = [asset for name, asset in FILES.items() if name.startswith("dashboards/")]
BY_TABLE = {dataset["table_name"]: dataset for dataset in DATASETS.values()}


def columns(dataset: dict[str, Any]) -> set[str]:
    return {column["column_name"] for column in dataset["columns"]}


def placed(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    items = [item for item in dashboard["position"].values() if isinstance(item, dict)]
    return [item["meta"] for item in items if item["type"] == "CHART"]


def columns_used(params: dict[str, Any]) -> Iterator[str]:
    for key in ("groupby", "all_columns"):
        named = params.get(key, [])
        yield from [named] if isinstance(named, str) else named
    yield from (params[key] for key in ("x_axis", "dimension") if key in params)
    yield from (params["spatial"][key] for key in ("latCol", "lonCol") if "spatial" in params)
    for condition in params["adhoc_filters"]:
        yield condition["subject"]


def metrics_used(params: dict[str, Any]) -> list[str]:
    single = [params[key] for key in ("metric", "size", "timeseries_limit_metric") if key in params]
    return [*params.get("metrics", []), *single]


@pytest.mark.parametrize("datasource", DATASOURCES)
def test_every_data_source_has_its_columns_with_labels_and_units(datasource):
    described = {column["column_name"]: column for column in BY_TABLE[datasource]["columns"]}
    local = ["local"] if {"local_clock", "local_date"} & {column.name for column in stored(datasource)} else []
    assert list(described) == ["__time", *(column.name for column in stored(datasource)), *local]
    for column in stored(datasource):
        assert column.label in described[column.name]["verbose_name"]
        assert column.unit in described[column.name]["verbose_name"]
    assert len({column["verbose_name"] for column in described.values()}) == len(described), "labels repeat"


def test_metrics_have_the_fields_that_superset_knows() -> None:
    known = {"metric_name", "verbose_name", "expression", "d3format", "description", "warning_text", "extra"}
    for file in (ASSETS / "datasets").rglob("*.yaml"):
        for metric in yaml.safe_load(file.read_text())["metrics"]:
            assert {"metric_name", "expression"} <= set(metric) <= known, (file.name, metric)


def test_a_columns_unit_and_type_reach_superset():
    described = {column["column_name"]: column for column in BY_TABLE["sensor_report"]["columns"]}
    assert described["irradiation"] == {
        "column_name": "irradiation",
        "verbose_name": "Irradiation (Wh/m²)",
        "type": "DOUBLE",
    }
    assert described["__time"]["is_dttm"] is True


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=lambda dataset: dataset["table_name"])
def test_metrics_use_columns_that_exist(dataset):
    assert dataset["metrics"]
    for metric in dataset["metrics"]:
        used = set(re.findall(r'"(\w+)"', metric["expression"]))
        assert used <= columns(dataset), metric["metric_name"]
    labels = [metric["verbose_name"] for metric in dataset["metrics"]]
    assert len(set(labels)) == len(labels)


VIRTUAL = [dataset for dataset in DATASETS.values() if dataset.get("sql")]


@pytest.mark.parametrize("dataset", VIRTUAL, ids=lambda dataset: dataset["table_name"])
def test_virtual_datasets_read_columns_of_their_sources_and_give_what_they_state(dataset):
    sql = dataset["sql"]
    sources = {source for source in DATASOURCES if re.search(rf"[\"']{source}[\"']", sql)}
    assert sources
    available = {"__time", *(column.name for source in sources for column in stored(source))}
    given = set(re.findall(r'(?:AS|AS r) \(?"(\w+)"', sql))
    assert set(re.findall(r'"(\w+)"', sql)) - given - sources <= available
    assert columns(dataset) <= available | given


def test_the_refusals_know_every_reason():
    assert set(re.findall(r'"refused_(\w+)"', BY_TABLE["refusals"]["sql"])) == set(SET_ASIDE)


def test_rows_of_a_client_can_be_told_by_it():
    """Row-level security filters by the client: every dataset has the column, but those of the topics."""
    without = {name for name, dataset in BY_TABLE.items() if "client_id" not in columns(dataset)}
    assert without == {"topic_performance", "refusals"}


@pytest.mark.parametrize("chart", CHARTS.values(), ids=lambda chart: chart["slice_name"])
def test_charts_use_columns_and_metrics_that_exist(chart):
    dataset, params = DATASETS[chart["dataset_uuid"]], chart["params"]
    assert set(columns_used(params)) <= columns(dataset)
    assert set(metrics_used(params)) <= {metric["metric_name"] for metric in dataset["metrics"]}
    assert metrics_used(params) or params["query_mode"] == "raw"
    assert params["viz_type"] == chart["viz_type"]
    assert chart["description"]
    assert params.get("color_scheme", "selfgen") == "selfgen"


@pytest.mark.parametrize(
    "chart",
    [chart for chart in CHARTS.values() if chart["viz_type"].startswith("echarts_timeseries")],
    ids=lambda chart: chart["slice_name"],
)
def test_axes_carry_a_title_with_the_unit_and_safe_colours(chart):
    params = chart["params"]
    # categories name themselves
    assert params["x_axis_title"] or params["xAxisForceCategorical"]
    assert re.search(r"\(.+\)$", params["y_axis_title"]), params["y_axis_title"]
    assert params["color_scheme"] == "selfgen"


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard["slug"])
def test_dashboards_place_charts_that_exist_once_in_rows_that_fit(dashboard):
    charts = placed(dashboard)
    assert {chart["uuid"] for chart in charts} <= set(CHARTS)
    assert len({chart["uuid"] for chart in charts}) == len({chart["chartId"] for chart in charts}) == len(charts)
    assert all(CHARTS[chart["uuid"]]["slice_name"] == chart["sliceName"] for chart in charts)
    position = dashboard["position"]
    for row in position["GRID_ID"]["children"]:
        assert sum(position[chart]["meta"]["width"] for chart in position[row]["children"]) == 12


def test_every_chart_is_on_a_dashboard():
    assert {chart["uuid"] for dashboard in DASHBOARDS for chart in placed(dashboard)} == set(CHARTS)


def test_what_happens_now_is_refreshed_so_often_that_a_reading_is_seen_within_15_s():
    """A wind reading is 5 s old when Druid has it; charts that Superset lets wait for each other double the time."""
    assert all(dashboard["metadata"]["stagger_refresh"] is False for dashboard in DASHBOARDS)
    refreshed = {dashboard["slug"]: dashboard["metadata"]["refresh_frequency"] for dashboard in DASHBOARDS}
    assert refreshed == {
        "selfgen-overview": 5,
        "selfgen-real-time": 5,
        "selfgen-topic-performance": 10,
        "selfgen-alarms": 60,
        "selfgen-company-history": 0,
        "selfgen-area-history": 0,
        "selfgen-light-potential": 0,
    }


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard["slug"])
def test_dashboards_say_why_they_may_be_empty(dashboard):
    notes = [item["meta"]["code"] for item in dashboard["position"].values() if "MARKDOWN" in str(item)]
    assert any("**Empty?**" in note for note in notes) or dashboard["slug"] == OVERVIEW


def test_local_time_comes_from_the_data():
    """Where a dataset has local time, nothing is grouped by a UTC day, and no dataset has an offset."""
    for chart in CHARTS.values():
        if "local" in columns(DATASETS[chart["dataset_uuid"]]) and chart["params"].get("time_grain_sqla"):
            hours = chart["params"]["time_grain_sqla"] == "PT1H" and "UTC" in chart["params"]["x_axis_title"]
            assert chart["params"]["x_axis"] == "local" or hours, chart["slice_name"]
    assert all(dataset.get("offset", 0) == 0 for dataset in DATASETS.values())


def test_in_real_time_every_company_and_area_can_be_chosen():
    """Also those that have panels only."""
    [dashboard] = [one for one in DASHBOARDS if one["slug"] == "selfgen-real-time"]
    chosen_from = [
        DATASETS[one["targets"][0]["datasetUuid"]]["table_name"]
        for one in dashboard["metadata"]["native_filter_configuration"]
        if one["filterType"] == "filter_select"
    ]
    assert chosen_from == ["measured", "measured"]


def test_completeness_says_that_silent_slots_are_not_in_it():
    metrics = [metric for dataset in DATASETS.values() for metric in dataset["metrics"]]
    told = [metric["description"] for metric in metrics if metric["metric_name"] == "completeness_mean"]
    charts = [chart for chart in CHARTS.values() if chart["params"].get("metric") == "completeness_mean"]
    told += [text for chart in charts for text in (chart["description"], chart["params"]["subtitle"])]
    assert len(told) == 3 + 2 * 3
    assert all("silent" in text for text in told)


@pytest.mark.parametrize(("datasource", "source"), ROLLED_UP.items())
def test_a_roll_up_has_the_metrics_of_its_source(datasource, source):
    """Named, written and explained the same; that they give the same is asked of Druid in the integration tests."""
    told = [
        [{key: text for key, text in metric.items() if key != "expression"} for metric in BY_TABLE[name]["metrics"]]
        for name in (datasource, source)
    ]
    assert told[0] == told[1]


def test_histories_ask_whole_days_but_where_hours_can_be_chosen():
    histories = [one for one in DASHBOARDS if one["slug"] in {"selfgen-company-history", "selfgen-area-history"}]
    asked = Counter()
    for dashboard in histories:
        [grain] = [one for one in dashboard["metadata"]["native_filter_configuration"] if one["name"] == "Time grain"]
        for chart in placed(dashboard):
            dataset = DATASETS[CHARTS[chart["uuid"]]["dataset_uuid"]]["table_name"]
            assert (dataset == "panel_report") == (chart["chartId"] not in grain["scope"]["excluded"])
            asked[dataset] += 1
    assert asked["panel_day"] > 8 * asked["panel_report"] > 0


def test_open_alarms_are_counted_by_incident():
    """An element that changes hands has its alarm raised with one client and cleared with another."""
    counted = {
        DATASETS[chart["dataset_uuid"]]["table_name"]
        for chart in CHARTS.values()
        if "open" in metrics_used(chart["params"])
    }
    assert counted == {"incidents"}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard["slug"])
def test_filters_reach_only_charts_that_have_their_column(dashboard):
    charts = {chart["chartId"]: CHARTS[chart["uuid"]] for chart in placed(dashboard)}
    for native_filter in dashboard["metadata"]["native_filter_configuration"]:
        target = native_filter["targets"][0]
        excluded = native_filter["scope"]["excluded"]
        assert set(excluded) <= set(charts)
        if column := target.get("column", {}).get("name"):
            assert column in columns(DATASETS[target["datasetUuid"]])
            without = {i for i, chart in charts.items() if column not in columns(DATASETS[chart["dataset_uuid"]])}
            assert set(excluded) == without, native_filter["name"]


def test_no_time_range_is_one_that_superset_cannot_answer():
    assert not re.findall(r"[Ll]ast \d+ (?:hours|minutes|seconds)", "".join(map(str, FILES.values())))


def test_identities_are_unique():
    identities = [asset["uuid"] for asset in FILES.values() if "uuid" in asset]
    assert len(identities) == len(set(identities)) == len(FILES) - 1


def test_the_brokers_address_comes_from_the_settings():
    assert FILES["databases/druid.yaml"]["sqlalchemy_uri"] == "druid://127.0.0.1:20009/druid/v2/sql/?header=true"
    elsewhere = read_assets(Settings(druid_broker_url="http://druid.example:8082", _env_file=None))
    assert elsewhere["databases/druid.yaml"]["sqlalchemy_uri"].startswith("druid://druid.example:8082/druid/")


def test_the_bundle_holds_every_file_under_one_folder():
    with zipfile.ZipFile(io.BytesIO(pack(FILES))) as bundle:
        assert sorted(bundle.namelist()) == sorted(f"assets/{name}" for name in FILES)
        assert yaml.safe_load(bundle.read("assets/metadata.yaml"))["type"] == "assets"


def test_the_overview_is_there_under_its_address():
    assert OVERVIEW in {dashboard["slug"] for dashboard in DASHBOARDS}
    assert dashboard_url(SETTINGS) == "http://127.0.0.1:20017/superset/dashboard/selfgen-overview/"


def test_the_configured_password_comes_before_the_kept_one(tmp_path):
    settings = Settings(build_dir=tmp_path, _env_file=None)
    with pytest.raises(SupersetError, match="SELFGEN_SUPERSET_PASSWORD"):
        password(settings)
    (tmp_path / "stack" / "superset").mkdir(parents=True)
    (tmp_path / "stack" / "superset" / "superset-admin-password").write_text("made-at-start\n")
    assert password(settings) == "made-at-start"
    given = Settings(build_dir=tmp_path, superset_password="given", _env_file=None)
    assert password(given) == "given"


def test_the_folder_does_not_shadow_the_package():
    assert not (ROOT / "superset" / "__init__.py").exists()
    assert ASSETS.is_dir()
