"""The specifications in druid_specs/ follow the columns, and lose nothing silently."""

import re
import socket
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from selfgen.clients import druid, druid_storage
from selfgen.clients.druid import (
    SPECS_DIR,
    _literal,
    _whole_days,
    _whole_rows,
    differences,
    read_spec,
    replace_spec,
    roll_up_spec,
    supervisor_spec,
)
from selfgen.columns import BATCHED, DATASOURCES, ROLLED_UP, STREAMED, names
from selfgen.derived import DERIVED, PROVINCES, derived, stored
from selfgen.settings import Settings

HOUR = datetime(2026, 3, 29, 10, tzinfo=UTC)


def test_there_is_one_file_for_each_data_source() -> None:
    assert {path.stem for path in SPECS_DIR.glob("*.json")} == set(DATASOURCES) == {*STREAMED, *BATCHED, *ROLLED_UP}


@pytest.mark.parametrize("datasource", DATASOURCES)
def test_dimensions_are_the_columns(datasource: str) -> None:
    schema = read_spec(datasource)["spec"]["dataSchema"]
    stated = [(dimension["name"], dimension["type"]) for dimension in schema["dimensionsSpec"]["dimensions"]]
    sums = [
        (metric["name"], metric["type"].removesuffix("Sum").removesuffix("Max")) for metric in schema["metricsSpec"]
    ]
    assert [*stated, *sums] == [(column.name, column.type) for column in stored(datasource)]
    assert schema["dataSource"] == datasource
    assert schema["granularitySpec"]["rollup"] is bool(sums) is (datasource in ROLLED_UP)
    assert schema["timestampSpec"] == {"column": "timestamp", "format": "millis"}


@pytest.mark.parametrize(("datasource", "source"), ROLLED_UP.items())
def test_a_roll_up_is_made_of_its_sources_columns(datasource: str, source: str) -> None:
    assert derived(datasource) == ()
    schema = read_spec(datasource)["spec"]["dataSchema"]
    transforms = {one["name"]: one["expression"] for one in schema["transformSpec"]["transforms"]}
    read = {column.name for column in stored(datasource)} - (transforms.keys() - {"local_clock"})
    assert all(metric["fieldName"] == metric["name"] for metric in schema["metricsSpec"])
    words = {word for text in transforms.values() for word in re.findall(r"\b[a-z]\w+\b(?!\()", text)} - {"null"}
    assert read | words <= {column.name for column in stored(source)}
    # its days are those of UTC: what one of them adds up lies in one segment
    assert schema["granularitySpec"]["segmentGranularity"] == schema["granularitySpec"]["queryGranularity"] == "DAY"


def test_a_roll_up_reads_the_days_that_it_replaces() -> None:
    spec = roll_up_spec("panel_day", HOUR, HOUR + timedelta(days=2), "t1")
    assert spec["id"] == "t1"
    interval = "2026-03-29T10:00:00.000Z/2026-03-31T10:00:00.000Z"
    assert spec["spec"]["ioConfig"]["inputSource"] == {
        "type": "druid",
        "dataSource": "panel_report",
        "interval": interval,
    }
    assert spec["spec"]["dataSchema"]["granularitySpec"]["intervals"] == [interval]
    assert spec["spec"]["dataSchema"]["timestampSpec"]["column"] == "__time"


def test_whole_days_have_a_range_in_them() -> None:
    day = datetime(2026, 3, 29, tzinfo=UTC)
    madrid_summer = timezone(timedelta(hours=2))
    after = timedelta(days=1)
    assert _whole_days(day, day + after) == (day, day + after)
    assert _whole_days(HOUR.astimezone(madrid_summer), day + after) == (day, day + after)
    assert _whole_days(HOUR, day + timedelta(hours=25)) == (day, day + 2 * after)


@pytest.mark.parametrize("datasource", [*STREAMED, *BATCHED])
def test_derived_columns_are_made_by_the_one_expression(datasource: str) -> None:
    schema = read_spec(datasource)["spec"]["dataSchema"]
    transforms = schema.get("transformSpec", {}).get("transforms", [])
    expressions = {column: expression for column, expression, _ in DERIVED}
    assert transforms == [
        {"type": "expression", "name": column.name, "expression": expressions[column]} for column in derived(datasource)
    ]


def test_provinces_are_those_of_all_postal_codes() -> None:
    assert list(PROVINCES) == [f"{number:02}" for number in range(1, 53)]
    assert len(set(PROVINCES.values())) == 52


@pytest.mark.parametrize("datasource", STREAMED)
def test_supervisor_reads_its_topic_whole_and_once(datasource: str) -> None:
    spec = supervisor_spec(Settings(kafka_bootstrap="kafka.example:9092"), datasource)["spec"]
    io = spec["ioConfig"]
    assert io["topic"] == datasource
    assert io["useEarliestOffset"] is True
    assert io["consumerProperties"] == {
        "bootstrap.servers": "kafka.example:9092",
        "isolation.level": "read_committed",
    }
    assert not {key for key in io if "MessageRejection" in key}
    assert spec["tuningConfig"]["maxParseExceptions"] <= 100
    assert spec["tuningConfig"]["logParseExceptions"] is True


@pytest.mark.parametrize("datasource", [*STREAMED, *BATCHED])
def test_replace_states_the_hours_and_the_files(datasource: str) -> None:
    madrid_summer = timezone(timedelta(hours=2))
    spec = replace_spec(
        datasource, [Path("/data/a.json.gz")], HOUR.astimezone(madrid_summer), HOUR + timedelta(hours=3), "t1"
    )
    assert spec["id"] == "t1"
    granularity = spec["spec"]["dataSchema"]["granularitySpec"]
    assert granularity["intervals"] == ["2026-03-29T10:00:00.000Z/2026-03-29T13:00:00.000Z"]
    assert granularity["segmentGranularity"] == "HOUR"
    io = spec["spec"]["ioConfig"]
    assert (io["appendToExisting"], io["dropExisting"]) == (False, True)
    assert io["inputSource"] == {"type": "local", "files": ["/data/a.json.gz"]}
    assert spec["spec"]["tuningConfig"]["maxParseExceptions"] == 0


@pytest.mark.parametrize("datasource", [*STREAMED, *BATCHED])
@pytest.mark.parametrize(
    ("start", "end", "batched"),
    [(-10, 14, "DAY"), (-10, 24 * 30 - 10, "DAY"), (-10, 15, "HOUR"), (-9, 14, "HOUR"), (0, 24, "HOUR")],
)
def test_whole_days_become_segments_of_a_day_unless_they_are_streamed(
    datasource: str, start: int, end: int, batched: str
) -> None:
    spec = replace_spec(datasource, [], HOUR + timedelta(hours=start), HOUR + timedelta(hours=end), "t1")
    found = spec["spec"]["dataSchema"]["granularitySpec"]["segmentGranularity"]
    assert found == ("HOUR" if datasource in STREAMED else batched)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (HOUR, HOUR),
        (HOUR + timedelta(hours=1), HOUR),
        (HOUR + timedelta(minutes=30), HOUR + timedelta(hours=2)),
        (HOUR, HOUR + timedelta(minutes=59)),
    ],
)
def test_replace_takes_full_hours_only(start: datetime, end: datetime) -> None:
    with pytest.raises(ValueError, match="full UTC hours"):
        replace_spec("panel_report", [], start, end, "t1")


@pytest.mark.parametrize("kind", druid_storage.KINDS)
def test_every_data_source_says_how_it_is_kept(kind: druid_storage.Kind) -> None:
    assert {path.stem for path in (SPECS_DIR / kind).glob("*.json")} == set(DATASOURCES)


@pytest.mark.parametrize("datasource", DATASOURCES)
def test_compaction_keeps_every_row_and_divides_by_columns(datasource: str) -> None:
    stated = druid_storage.read("compaction", datasource)
    assert stated["dataSource"] == datasource
    assert stated["granularitySpec"]["segmentGranularity"] in {"DAY", "MONTH", "YEAR"}
    assert stated["granularitySpec"]["rollup"] is (datasource in ROLLED_UP)
    assert stated["granularitySpec"]["queryGranularity"] == {"type": "none"}
    partitions = stated["tuningConfig"]["partitionsSpec"]
    texts = {column.name for column in DATASOURCES[datasource] if column.type == "string"}
    assert set(partitions.get("partitionDimensions", [])) <= texts <= set(names(datasource))
    # after the batch tasks, whose priority is 50
    assert stated["taskPriority"] < 50


def test_wind_is_compacted_when_it_is_thinned_out_no_more() -> None:
    days = int(druid_storage.read("compaction", "wind_report")["skipOffsetFromLatest"].strip("PD"))
    assert days > Settings(_env_file=None).wind_minutes_days


@pytest.mark.parametrize("datasource", DATASOURCES)
def test_only_the_topics_performance_is_ever_dropped(datasource: str) -> None:
    *rules, last = druid_storage.read("retention", datasource)
    assert {rule["type"] for rule in rules} == {"loadByPeriod"}
    assert last["type"] == ("dropForever" if datasource == "topic_performance" else "loadForever")


def test_differences_name_what_is_stated_and_not_so() -> None:
    stated = {"io": {"topic": "a", "tasks": 1}, "dimensions": [{"name": "x"}, {"name": "y"}]}
    running = {
        "io": {"topic": "a", "tasks": 1, "period": "PT30S"},
        "dimensions": [{"name": "x"}, {"name": "y"}],
    }
    assert differences(stated, running) == []
    running["io"]["tasks"] = 2
    running["dimensions"][1]["name"] = "z"
    assert differences(stated, running) == ["io.tasks: 2 → 1", 'dimensions[1].name: "z" → "y"']
    assert differences({"dimensions": [1]}, {"dimensions": [1, 2]}) == ["dimensions: [1, 2] → [1]"]
    assert differences({"new": 1}, {}) == ["new: null → 1"]


def test_of_what_is_stated_whole_that_which_only_runs_differs_too() -> None:
    stated, running = [{"type": "loadForever"}], [{"type": "loadForever", "tiers": {"hot": 2}, "period": None}]
    assert differences(stated, running) == []
    assert differences(stated, running, whole=True) == ['[0].tiers: {"hot": 2} → null']


def test_literals() -> None:
    assert _literal("O'Hara") == "'O''Hara'"
    assert _literal("*") == "'*'"
    assert _literal(True) == "TRUE"
    assert _literal([1, 2.5]) == "1, 2.5"
    paris = timezone(timedelta(hours=1))
    assert _literal(datetime(2026, 1, 1, 0, 0, 0, 123456, paris)) == "TIMESTAMP '2025-12-31 23:00:00.123'"
    for value in (None, [], datetime.fromisoformat("2026-01-01")):
        with pytest.raises(TypeError, match="cannot stand in a query"):
            _literal(value)


def test_a_broker_that_is_silent_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(druid, "_QUERY_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = Settings(_env_file=None, druid_broker_url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(druid.DruidError, match=r"no whole answer: .*timed out"):
            druid.query(settings, "SELECT 1")


def test_an_answer_is_read_whole_or_not_at_all() -> None:
    rows = [{"address": "C:\\"}, {"address": '"{'}]
    chunks = ['[{"address":"C:\\\\"},{"addr', 'ess":"\\"{"}]', "\n"]
    assert list(_whole_rows(chunks)) == rows
    with pytest.raises(ValueError, match="delimiter"):
        _whole_rows([*chunks[:1], 'ess":1}'])
