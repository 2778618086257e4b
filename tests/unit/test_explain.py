"""How a figure came about, told from readings, owners and rows made by hand."""

from __future__ import annotations

import io
import json
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from selfgen import energy
from selfgen.cli.explained import show
from selfgen.explain import explain, needed

MINUTE = 60_000
HOUR = 60 * MINUTE


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


T0 = ms("2026-03-29T10:00+02:00")  # the day on which Madrid's clock goes forward
SINCE = ms("2026-03-28T00:00+01:00")
OWNERS = pd.DataFrame(
    {
        "element_id": ["p1", "p1"],
        "init": [SINCE, T0 + 30 * MINUTE],
        "end": [T0 + 30 * MINUTE, energy.OPEN_END],
        "client_id": ["c1", "c2"],
        "name": ["One", "Two"],
        "time_zone": "Europe/Madrid",
    }
)


def readings() -> pd.DataFrame:
    """A sample every 5 minutes at 600 W, without those of 10 minutes; the meter begins anew, and then is silent."""
    minutes = np.array([minute for minute in range(-5, 70, 5) if minute != 15])
    meter = 1000.0 + 50 * np.arange(len(minutes))
    meter[8:] = 10.0 * np.arange(1, len(minutes) - 7)
    return pd.DataFrame({"element_id": "p1", "time": T0 + minutes * MINUTE, "value": 600.0, "energy": meter})


def lake(figures: pd.DataFrame) -> pd.DataFrame:
    """What an hour's run has stored, and every hour before it with 100 Wh."""
    earlier = pd.DataFrame(
        {"element_id": "p1", "client_id": "c1", "slot_start": np.arange(SINCE, T0, HOUR), "power_gen": 100.0}
    )
    stored = figures.assign(client_id=["c1", "c2"])
    return pd.concat([earlier, stored], ignore_index=True).assign(time_zone="Europe/Madrid")


@pytest.fixture
def told() -> list[dict]:
    figures = energy.account(readings(), OWNERS, T0, T0 + HOUR)
    stored = lake(figures)
    rows = pd.concat([stored, energy.report_columns(stored)], axis=1)
    reports = rows[rows["slot_start"] == T0].replace({np.nan: None}).to_dict("records")
    reports[1]["power_gen"] += 1.0
    return explain("p1", readings(), OWNERS, stored, reports, T0, T0 + HOUR, max_gap_s=300)


def test_each_owner_has_its_part_and_the_pieces_add_up_to_it(told: list[dict]) -> None:
    assert [slot["owner"]["client_id"] for slot in told] == ["c1", "c2"]
    assert told[0]["owner"]["end"] == told[1]["owner"]["init"] == "2026-03-29T08:30:00Z"
    for slot in told:
        assert slot["slot"]["start"] == "2026-03-29T10:00:00+02:00"
        assert sum(piece["energy"] for piece in slot["pieces"]) == pytest.approx(slot["figures"]["power_gen"])
        assert sum(piece["seconds"] for piece in slot["pieces"]) == 1800


def test_gaps_resets_and_backlog_are_named(told: list[dict]) -> None:
    first, second = (slot["pieces"] for slot in told)
    [backlog] = [piece for piece in first if piece["method"] == "backlog"]
    assert backlog["seconds"] == 600
    assert backlog["energy"] == told[0]["figures"]["estimated_gen"] == 50.0
    [reset] = [piece for piece in [*first, *second] if piece["reset"]]
    assert reset["meter"] == [1350.0, 10.0]
    assert reset["energy"] == 10.0
    assert told[1]["figures"]["meter_resets"] + told[0]["figures"]["meter_resets"] == 1


def test_a_gap_without_meter_is_named_and_counts_nothing() -> None:
    bare = readings().drop(columns="energy")
    told = explain(
        "p1", bare, OWNERS, lake(energy.account(readings(), OWNERS, T0, T0 + HOUR)), [], T0, T0 + HOUR, max_gap_s=300
    )
    [gap] = [piece for slot in told for piece in slot["pieces"] if piece["method"] == "gap"]
    assert (gap["seconds"], gap["energy"], gap["power"]) == (600, 0.0, [600.0, 600.0])
    assert told[0]["differs"][0].startswith("power_gen: ")
    assert told[0]["differs"][-1] == "Druid has no such row"


def test_references_and_sums_are_those_of_the_clients_clock(told: list[dict]) -> None:
    first = told[0]
    assert first["differences"]["hour"] == {"slot": "2026-03-29T09:00:00+02:00", "power_gen": 100.0}
    assert first["differences"]["day"] == {"slot": "2026-03-28T10:00:00+01:00", "power_gen": 100.0}
    assert first["differences"]["month"]["power_gen"] is None
    # 02:00 does not exist on this day: nine hours have gone by at 10:00
    mine = first["figures"]["power_gen"]
    assert first["accumulators"]["day"] == {
        "since": "2026-03-29T00:00:00+01:00",
        "slots": 10,
        "power_gen": pytest.approx(900.0 + mine),
    }
    assert first["lake"]["diff_last_day"] == pytest.approx(mine - 100.0)
    assert first["lake"]["acum_day"] == pytest.approx(900.0 + mine)
    assert told[1]["differences"]["hour"]["power_gen"] is None  # it was the other client's
    assert told[1]["accumulators"]["year"]["slots"] == 1


def test_it_says_where_druid_differs(told: list[dict]) -> None:
    assert told[0]["differs"] == []
    [difference] = told[1]["differs"]
    assert difference.startswith("power_gen: ")
    assert "in Druid" in difference


def test_what_has_no_readings_any_more_is_told_from_the_lake() -> None:
    stored = lake(energy.account(readings(), OWNERS, T0, T0 + HOUR))
    told = explain("p1", readings().iloc[:0], OWNERS, stored, [], T0, T0 + HOUR, max_gap_s=300)
    assert [slot["figures"] for slot in told] == [None, None]
    assert told[0]["differs"][0] == "there are no readings of it any more"


def test_it_is_fit_for_scripts_and_for_people(told: list[dict]) -> None:
    assert json.loads(json.dumps(told)) == told
    console = Console(width=160, record=True, file=io.StringIO())
    for slot in told:
        show(slot, console)
    text = console.export_text()
    assert "c2 (Two), since 2026-03-29T08:30:00Z" in text
    assert "meter, spread over the gap" in text
    assert "agree" in text
    assert "in Druid" in text


def test_what_is_needed_of_the_lake() -> None:
    parts = needed(["Europe/Madrid"], T0, T0 + HOUR)
    held = [ms("2026-01-01T00:00+01:00"), ms("2025-03-29T10:00+01:00"), ms("2025-12-29T10:00+01:00"), T0]
    assert all(any(low <= instant < high for low, high in parts) for instant in held)


def test_a_light_sensor_s_hour_is_compared_with_nothing_and_told_in_its_own_names() -> None:
    samples = readings().drop(columns="energy").assign(element_id="l1")
    owners = OWNERS.iloc[1:].assign(element_id="l1", init=SINCE).reset_index(drop=True)
    figures = energy.account(samples, owners, T0, T0 + HOUR)
    names = {"power_gen": "irradiation", "estimated_gen": "estimated", "power_max": "greatest"}
    stored = figures.rename(columns=names).assign(client_id="c2", time_zone="Europe/Madrid", confidence=0.004)
    report = stored.assign(confidence=0.003, slot_start=T0).to_dict("records")
    [told] = explain("l1", samples, owners, stored, report, T0, T0 + HOUR, max_gap_s=300, kind="light")
    assert told["light_id"] == "l1"
    assert told["figures"]["irradiation"] == pytest.approx(500.0)  # 600 W/m², without 10 minutes
    assert told["differs"] == ["confidence: 0.004 from the lake, 0.003 in Druid"]
    assert told["differences"] == told["accumulators"] == {}
    console = Console(width=160, record=True, file=io.StringIO())
    show(told, console)
    text = console.export_text()
    assert "gap: counts nothing" in text
    assert "Wh/m²" in text
    assert "compared with" not in text


def test_two_periods_of_one_client_in_a_slot_are_two_accounts() -> None:
    owners = OWNERS.assign(client_id="c1", end=[T0 + 20 * MINUTE, energy.OPEN_END], init=[SINCE, T0 + 40 * MINUTE])
    figures = energy.account(readings(), owners, T0, T0 + HOUR)
    clients = owners["client_id"].reindex(figures["owner"]).to_numpy(object)
    stored = figures.assign(client_id=clients, time_zone="Europe/Madrid")
    rows = pd.concat([stored, energy.report_columns(stored)], axis=1)[::-1]  # Druid answers in an order of its own
    reports = rows[rows["client_id"].notna()].replace({np.nan: None}).to_dict("records")
    told = explain("p1", readings(), owners, stored, reports, T0, T0 + HOUR, max_gap_s=300)
    mine = [slot for slot in told if slot["owner"]]
    assert [slot["owner"]["init"] for slot in mine] == ["2026-03-27T23:00:00Z", "2026-03-29T08:40:00Z"]
    for slot in mine:
        assert slot["figures"]["power_gen"] == slot["lake"]["power_gen"] == slot["druid"]["power_gen"]
        assert slot["differs"] == []
