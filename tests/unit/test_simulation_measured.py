"""The replay of real measurements."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
import pvanalytics
import pytest

from selfgen.messages import REASONS, decode
from selfgen.simulation.batch import Batch, Message, read_lines, text_of
from selfgen.simulation.disorder import Disorder
from selfgen.simulation.fleet import KINDS, demo_fleet
from selfgen.simulation.measured import PLANT_RATING_W, replay, replay_faults
from selfgen.simulation.truth import Truth

from .simulation_oracle import count, messages, time_of, values_of

UNTIL = datetime(2026, 6, 20, 9, tzinfo=UTC)
UNTIL_MS = int(UNTIL.timestamp() * 1000)
FLEET = demo_fleet()
PLAIN = Disorder(duplicated=0, late=0, broken=0)
DATA = Path(pvanalytics.__file__).parent / "data"


@pytest.fixture(scope="module")
def run() -> tuple[list[Message], Truth]:
    truth = Truth()
    return messages(replay(FLEET, UNTIL, 2, seed=5, truth=truth)), truth


@pytest.fixture(scope="module")
def plain() -> list[Message]:
    return messages(replay(FLEET, UNTIL, 3, disorder=PLAIN))


def test_truth_counts_what_a_plain_reader_finds(run: tuple[list[Message], Truth]) -> None:
    sent, truth = run
    found = count(sent, UNTIL_MS)
    for name, topic in truth.topics.items():
        assert found[name] == {
            "produced": topic.produced,
            "landed": topic.landed,
            "duplicates": topic.duplicates,
            "refused": topic.refused,
        }
        assert topic.produced == topic.landed + topic.duplicates + sum(topic.refused.values())
        assert topic.duplicates / topic.produced == pytest.approx(0.01, abs=0.005)
        assert topic.late / topic.produced == pytest.approx(0.01, abs=0.005)
    assert found.keys() == truth.topics.keys() == set(KINDS)


def test_every_reason_occurs_in_every_topic(run: tuple[list[Message], Truth]) -> None:
    for topic in run[1].topics.values():
        assert topic.refused.keys() == REASONS.keys()


def test_the_contract_agrees_with_the_declared_outcomes(run: tuple[list[Message], Truth]) -> None:
    for name in KINDS:
        sent = [message for message in run[0] if message.topic == name]
        judged = decode(name, [message.value for message in sent], UNTIL_MS)
        refused = {refusal.index: refusal.reason for refusal in judged.refused}
        declared = {n: m.outcome for n, m in enumerate(sent) if m.outcome not in {"landed", "duplicate"}}
        assert refused == declared


def test_nothing_is_of_the_future_and_late_ones_come_behind(run: tuple[list[Message], Truth]) -> None:
    sent, truth = run
    assert max(message.event_ms for message in sent) < UNTIL_MS
    assert min(message.event_ms for message in sent) >= UNTIL_MS - 2 * 86_400_000
    newest = late = 0
    for message in sent:
        newest = max(newest, message.event_ms)
        # only late ones are 5 minutes behind; copies are 2 minutes behind at most
        late += newest - message.event_ms >= 300_000
    assert 0.9 * late <= sum(topic.late for topic in truth.topics.values()) <= 1.1 * late
    assert late > 300


def test_same_arguments_same_bytes() -> None:
    first, again, other = (
        b"".join(text_of(batch.lines()) for batch in replay(FLEET, UNTIL, 1, seed=seed)) for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_lines_are_json_and_read_back_the_same(run: tuple[list[Message], Truth], tmp_path: Path) -> None:
    path = tmp_path / "messages.jsonl"
    path.write_bytes(b"".join(text_of(batch.lines()) for batch in replay(FLEET, UNTIL, 2, seed=5)))
    assert list(read_lines(path)) == run[0]
    with path.open() as file:
        for line, message in zip(file, run[0], strict=True):
            topic, key, event_ms, _, outcome = json.loads(line)
            assert (topic, key.encode(), event_ms, outcome) == (
                message.topic,
                message.key,
                message.event_ms,
                message.outcome,
            )


def test_panels_send_the_measured_power_at_their_own_clock(plain: list[Message]) -> None:
    measured = pd.read_csv(DATA / "serf_east_1min_ac_power.csv", index_col=0).iloc[:, 0]
    by_day = [
        {stamp[11:16]: value for stamp, value in measured.items() if str(stamp).startswith(day)}
        for day in ("2022-03-18", "2022-03-19")
    ]
    sent = values_of(plain, "panel", "power")
    stuck = {fault.element_id for fault in replay_faults(FLEET, UNTIL, 3) if fault.kind == "stuck"}
    compared = 0
    for panel, client in zip(FLEET.panels, FLEET.owners("panel"), strict=True):
        if panel.panel_id in stuck:
            continue
        days: dict[str, list[tuple[str, float]]] = {}
        for event_ms, power in sent[panel.panel_id].items():
            local = datetime.fromtimestamp(event_ms / 1000, ZoneInfo(client.time_zone))
            days.setdefault(f"{local:%Y-%m-%d}", []).append((f"{local:%H:%M}", power))
        used = []
        for readings in days.values():
            scale = panel.power_cap / PLANT_RATING_W
            fits = [
                all(time in day and power == pytest.approx(day[time] * scale, abs=0.006) for time, power in readings)
                for day in by_day
            ]
            assert sum(fits) == 1
            used.append(fits.index(True))
            compared += len(readings)
        # the days alternate
        assert all(before != after for before, after in pairwise(used))
    assert compared > 40_000


def test_light_and_wind_send_measured_values(plain: list[Message]) -> None:
    rmis = pd.read_csv(DATA / "rmis_weather_data.csv", index_col=0)
    midc = pd.read_csv(DATA / "midc_bms_ghi_20220120.csv", index_col=0).iloc[:, 0]
    light = values_of(plain, "light", "irradiance")
    assert set(light["light-001"].values()) <= set(midc.round(2))
    assert set(light["light-002"].values()) <= set(rmis["Global Horizontal"].round(2))
    speeds = set(rmis["Wind Speed"].clip(lower=0).round(2))
    for series in values_of(plain, "wind", "wind_speed").values():
        assert set(series.values()) <= speeds
        # 5 min apart, 3 days, but for the few that the station missed
        assert 3 * 288 - 8 <= len(series) < 3 * 288


def test_no_time_twice_and_half_of_the_devices_speak_rfc3339(plain: list[Message]) -> None:
    assert len({(m.topic, m.key, m.event_ms) for m in plain}) == len(plain)
    texts = [m for m in plain if isinstance(json.loads(m.value)["timestamp"], str)]
    assert len(texts) / len(plain) == pytest.approx(0.5, abs=0.1)
    offsets = {json.loads(m.value)["timestamp"][-6:] for m in texts}
    assert {"+02:00", "+05:45", "-06:00"} <= offsets
    assert all(time_of(json.loads(m.value)["timestamp"]) == m.event_ms for m in texts)


def test_declared_faults_are_in_the_data(plain: list[Message]) -> None:
    faults = replay_faults(FLEET, UNTIL, 3)
    assert [(fault.kind, fault.topic) for fault in faults] == [
        ("dropped", "panel"),
        ("stuck", "panel"),
        ("dropped", "light"),
    ]
    for fault in faults:
        field = {"panel": "power", "light": "irradiance"}[fault.topic]
        series = values_of(plain, fault.topic, field)[fault.element_id]
        start_ms, end_ms = fault.span_ms
        inside = [value for event_ms, value in series.items() if start_ms <= event_ms < end_ms]
        if fault.kind == "dropped":
            assert inside == []
        else:
            assert len(inside) == 180
            assert len(set(inside)) == 1
            assert inside[0] > 100
        before = [value for event_ms, value in series.items() if start_ms - 3_600_000 <= event_ms < start_ms]
        assert len(set(before)) > 5


@pytest.mark.parametrize("hour", range(24))
def test_faults_lie_inside_the_shortest_replay_whatever_the_hour(hour: int) -> None:
    until = UNTIL.replace(hour=hour)
    for fault, owner in zip(replay_faults(FLEET, until, 1), [1, 3, 1], strict=True):
        assert until - timedelta(days=1) <= fault.start < fault.end <= until
        zone = ZoneInfo(FLEET.owners(fault.topic)[owner].time_zone)
        assert 9 <= fault.start.astimezone(zone).hour <= 13


def test_a_day_of_25_hours_repeats_its_hour_of_the_wall_clock() -> None:
    until = datetime(2026, 10, 26, 0, tzinfo=UTC)
    sent = messages(replay(FLEET, until, 2, topics=("wind",), disorder=PLAIN))
    series = values_of(sent, "wind", "wind_speed")["wind-001"]
    twice = int(datetime(2026, 10, 25, 0, tzinfo=UTC).timestamp() * 1000)  # 02:00 summer time in Madrid
    for minute in range(0, 60, 5):
        assert series[twice + minute * 60_000] == series[twice + (60 + minute) * 60_000]
    assert 2 * 288 - 4 <= len(series) < 2 * 288


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="full UTC hour"):
        next(replay(FLEET, UNTIL.replace(minute=30), 1))
    with pytest.raises(ValueError, match="lasts a day or more"):
        next(replay(FLEET, UNTIL, 0))


def test_an_empty_batch_has_no_lines() -> None:
    assert bytes(text_of(Batch.concat([]).lines())) == b""
