"""The live feed."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest

from selfgen.messages import decode
from selfgen.simulation.batch import Message
from selfgen.simulation.disorder import Disorder
from selfgen.simulation.fleet import demo_fleet, make_fleet
from selfgen.simulation.live import STORM_PERIOD_S, LiveFeed, is_storm
from selfgen.simulation.measured import replay

from .simulation_oracle import count, messages, values_of

NOON = datetime(2026, 6, 20, 12, tzinfo=UTC)
PLAIN = Disorder(duplicated=0, late=0, broken=0)
GALE = 17.2


def minutes(feed: LiveFeed, count: int) -> list[Message]:
    return messages(feed.messages(NOON + timedelta(seconds=second)) for second in range(60 * count))


@pytest.fixture(scope="module")
def plain() -> list[Message]:
    return minutes(LiveFeed(demo_fleet(), disorder=PLAIN), 4)


def test_wind_every_second_the_rest_every_ten(plain: list[Message]) -> None:
    wind = values_of(plain, "wind", "wind_speed")
    assert {key: len(series) for key, series in wind.items()} == dict.fromkeys(demo_fleet().ids("wind"), 240)
    for series in wind.values():
        # one in every one-second window
        assert len({event_ms // 1000 for event_ms in series}) == 240
    for topic, field in (("panel", "power"), ("light", "irradiance")):
        series_of = values_of(plain, topic, field)
        assert all(np.diff(sorted(series)) == pytest.approx(10_000) for series in series_of.values())
        assert all(len(series) == 24 for series in series_of.values())
    assert all(before.event_ms <= after.event_ms for before, after in pairwise(plain))


def test_one_sensor_has_a_storm_and_it_passes(plain: list[Message]) -> None:
    wind = values_of(plain, "wind", "wind_speed")
    stormy = wind.pop("wind-001")
    assert all(speed < 15 for series in wind.values() for speed in series.values())
    high = {event_ms for event_ms, speed in stormy.items() if speed > GALE}
    assert high == {event_ms for event_ms in stormy if is_storm(np.array([event_ms]))[0]}
    # two storms of 40 s in 4 minutes, calm between
    assert len(high) == 80
    assert max(speed for event_ms, speed in stormy.items() if event_ms not in high) < 15
    rises = sum(after in high and before not in high for before, after in pairwise(stormy))
    assert rises == 240 // STORM_PERIOD_S


def test_curves_go_on_where_the_replay_ended() -> None:
    fleet = demo_fleet()
    until = NOON.replace(hour=12)
    last = values_of(messages(replay(fleet, until, 1, topics=("panel",), disorder=PLAIN)), "panel", "power")
    first = values_of(minutes(LiveFeed(fleet, disorder=PLAIN), 1), "panel", "power")
    for panel in fleet.panels:
        if panel.panel_id not in last or max(last[panel.panel_id]) < NOON.timestamp() * 1000 - 60_000:
            continue
        before = list(last[panel.panel_id].values())[-1]
        after = next(iter(first[panel.panel_id].values()))
        assert abs(after - before) < 0.2 * panel.power_cap


def test_counts_and_outcomes_are_true() -> None:
    feed = LiveFeed(make_fleet(30), seed=2)
    sent = minutes(feed, 2)
    found = count(sent, int(NOON.timestamp() * 1000) + 120_000)
    for name, topic in feed.truth.topics.items():
        assert found[name]["produced"] == topic.produced
        assert found[name]["landed"] == topic.landed
        assert found[name]["duplicates"] == topic.duplicates
        assert found[name]["refused"] == topic.refused
    wind = feed.truth.topics["wind"]
    assert wind.duplicates / wind.produced == pytest.approx(0.01, abs=0.005)
    assert 2 <= sum(wind.refused.values()) <= 30
    assert wind.late == 0


def test_same_seed_same_feed() -> None:
    assert minutes(LiveFeed(demo_fleet(), 1), 1) == minutes(LiveFeed(demo_fleet(), 1), 1)
    assert minutes(LiveFeed(demo_fleet(), 1), 1) != minutes(LiveFeed(demo_fleet(), 2), 1)


@pytest.mark.parametrize("interval_ms", [500, 100, 20])
def test_wind_can_be_quicker(interval_ms: int) -> None:
    feed = LiveFeed(demo_fleet(), wind_interval_ms=interval_ms, disorder=PLAIN)
    sent = [message for message in messages([feed.messages(NOON)]) if message.topic == "wind"]
    assert len(sent) == 6 * 1000 // interval_ms
    assert len({(message.key, message.event_ms) for message in sent}) == len(sent)
    assert {message.event_ms // 1000 for message in sent} == {int(NOON.timestamp())}
    assert all(json.loads(message.value)["wind_direction"] < 360 for message in sent)


def test_an_interval_that_does_not_fill_a_second_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fill a second"):
        LiveFeed(demo_fleet(), wind_interval_ms=300)


def test_the_devices_send_what_the_contract_takes_at_any_time_of_the_measured_days() -> None:
    fleet = demo_fleet()
    feed = LiveFeed(fleet, disorder=PLAIN)
    storm = NOON.replace(hour=0, second=20)  # the storm's sensor sends whatever was measured
    for minute in range(1, 3 * 24 * 60, 5):
        second = storm + timedelta(minutes=minute)
        sent = messages([feed.messages(second)])
        for topic in ("wind", "light", "panel"):
            values = [message.value for message in sent if message.topic == topic]
            assert decode(topic, values, int(second.timestamp() * 1000) + 1000).refused == []
        assert len({message.key for message in sent if message.topic == "wind"}) == len(fleet.ids("wind"))
