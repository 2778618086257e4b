"""What the hourly jobs do with arrays, without the cluster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from flink_jobs import incidents, slots
from selfgen import calendar, lake
from selfgen.calendar import parse_hour
from selfgen.clients import mongo
from selfgen.settings import Settings

HOUR_MS = 3_600_000
START = datetime(2026, 6, 1, 12, tzinfo=UTC)
START_MS = slots.milliseconds(START)


def history(**changed: object) -> pd.DataFrame:
    row = {
        "element_id": "p1", "init": pd.Timestamp("2020-01-01", tz="UTC"), "end": pd.NaT, "client_id": "c1",
        "name": "Lucía", "apell_1": None, "apell_2": None, "address": None, "postal_code": "28013", "client_type": None,
        "model": None, "manufacture_date": None, "install_date": None, "latitude": 40.4, "longitude": -3.7,
        "time_zone": "Europe/Madrid", "power_cap": 1000.0, "tilt": 30.0, "azimuth": 180.0, "variable_data": {},
    } | changed  # fmt: skip
    frame = pd.DataFrame([row])
    return frame.assign(end=pd.to_datetime(frame["end"], utc=True))


def readings(minutes: range, watts: float = 600.0) -> pd.DataFrame:
    times = [START_MS + minute * 60_000 for minute in minutes]
    return pd.DataFrame({"element_id": "p1", "time": times, "power": watts, "energy": np.nan})


def make(read: pd.DataFrame, owners: pd.DataFrame, hours: int = 2) -> pd.DataFrame:
    return slots.make_slots(read, owners, slots.PANEL, START_MS, START_MS + hours * HOUR_MS, max_gap_s=300)


def test_splits_cover_the_range_without_gap_or_overlap():
    found = slots.splits([(START, START + timedelta(hours=30))])
    assert found[0][0] == START_MS
    assert found[-1][1] == START_MS + 30 * HOUR_MS
    assert all(before[1] == after[0] for before, after in pairwise(found))


def test_a_slot_carries_energy_owner_clock_and_references():
    found = make(readings(range(121)), history())
    first = found.iloc[0]
    assert first["generated"] == pytest.approx(600)
    assert (first["client_id"], first["postal_code"], first["daylight"]) == ("c1", "28013", 1)
    assert first["local_time"] == "2026-06-01T14:00:00+02:00"
    assert first["reference_hour"] == START_MS - HOUR_MS
    assert first["reference_day"] == START_MS - 24 * HOUR_MS


def test_an_unknown_element_keeps_its_energy_and_has_no_owner():
    found = make(readings(range(61)), history()[:0], hours=1)
    assert found["generated"].sum() == pytest.approx(600)
    assert found["client_id"].isna().all()


def test_an_owner_that_changes_within_a_slot_splits_it():
    moved = pd.concat(
        [
            history(end=pd.Timestamp(START, tz=None).tz_convert("UTC") + pd.Timedelta(minutes=20)),
            history(init=pd.Timestamp(START) + pd.Timedelta(minutes=20), client_id="c2"),
        ],
        ignore_index=True,
    )
    found = make(readings(range(61)), moved, hours=1).set_index("client_id")["generated"]
    assert found["c1"] == pytest.approx(200)
    assert found["c2"] == pytest.approx(400)


@pytest.mark.parametrize("zone", [None, "", "Mars/Base"])
def test_an_owner_without_a_clock_that_exists_lives_by_utc(zone):
    both = pd.concat([history(time_zone=zone), history(element_id="p2", time_zone="Asia/Kathmandu")], ignore_index=True)
    read = pd.concat([readings(range(121)), readings(range(121)).assign(element_id="p2")], ignore_index=True)
    found = make(read, both, hours=1).set_index("element_id")
    assert found.loc["p1", ["slot_start", "time_zone", "client_id"]].tolist() == [START_MS, "UTC", "c1"]
    assert found.loc["p2", ["slot_start", "time_zone"]].tolist() == [START_MS + 15 * 60_000, "Asia/Kathmandu"]
    assert found["generated"].tolist() == pytest.approx([600, 600])


class NoJob:
    """A batch environment whose workers find what the test says."""

    def execute_sql(self, _query: str) -> None:
        pass


def test_readings_that_are_removed_before_they_are_read_leave_the_hour_as_it_was(tmp_path, monkeypatch):
    settings = Settings(build_dir=tmp_path)
    kept = pa.table({column.name: pa.nulls(1, slots.ARROW_TYPES[column.type]) for column in slots.SLOT})
    lake.replace_hour(settings.lake_dir, "light", START, kept)
    expired: set[int] = set()
    monkeypatch.setattr(mongo, "expired_hours", lambda *_: set(expired))
    monkeypatch.setattr(slots, "hand_over_marks", lambda _: None)
    monkeypatch.setattr(slots.runtime, "batch", lambda *_: NoJob())
    monkeypatch.setattr(slots, "slot_writer", lambda *_: None)
    monkeypatch.setattr(slots, "run_writer", lambda *_: expired.add(START_MS))
    with pytest.raises(slots.RawRemoved, match="no longer kept"):
        slots.run_rich(settings, "rich_sensor_light", slots.LIGHT, [(START, START + timedelta(hours=2))])
    assert lake.count_rows(settings.lake_dir, "light", START) == 1


def test_silent_slots_are_added_while_somebody_has_the_element():
    owners = history(end=pd.Timestamp(START) + pd.Timedelta(hours=4))
    found = slots.with_absent(make(readings(range(61)), owners, hours=1), owners, START_MS + 6 * HOUR_MS)
    assert found["slot_start"].tolist() == [START_MS + hour * HOUR_MS for hour in range(4)]
    assert found["completeness"].tolist() == pytest.approx([1, 0, 0, 0])
    assert found["samples"].tolist()[1:] == [0, 0, 0]
    assert (found["client_id"] == "c1").all()


def test_silence_is_looked_for_where_an_element_lived_by_two_clocks():
    spans = {"Europe/Madrid": (0, 11.0), "Asia/Kathmandu": (10.25, 24.0)}
    slot = [
        {"element_id": "p1", "slot_start": start, "time_zone": zone}
        for zone, span in spans.items()
        for start in calendar.slots(zone, *(START_MS + round(edge * HOUR_MS) for edge in span))[0].tolist()
    ]
    there = pd.DataFrame(slot).drop(index=15)  # as many are left as Kathmandu's clock has in the whole day
    assert len(there) == 24
    seen = pd.Series({"p1": START_MS})
    assert incidents._silent(there, seen, START_MS, START_MS + 24 * HOUR_MS) == ["p1"]


@pytest.mark.parametrize("text", ["2026-06-01T12:30", "2026-06-01T12:00+05:45", "yesterday"])
def test_an_hour_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"full UTC hour|isoformat"):
        parse_hour(text)


def test_an_hour_may_be_written_with_an_offset():
    assert parse_hour("2026-06-01T14:00+02:00") == START == parse_hour("2026-06-01T12")


@pytest.mark.parametrize("most", [1, 60, 61, 100, 10_000])
def test_readings_in_parts_are_all_there_and_no_element_is_in_two(most):
    every = pd.concat([readings(range(61)).assign(element_id=f"p{number}") for number in range(7)], ignore_index=True)
    parts = slots.by_elements(every, most)
    pd.testing.assert_frame_equal(pd.concat(parts), every)
    elements = [set(part["element_id"]) for part in parts]
    assert sum(map(len, elements)) == len(set.union(*elements)) == 7
    assert max(map(len, parts)) < most + 61
    assert [len(part) for part in slots.by_elements(every[:0], most)] == [0]
