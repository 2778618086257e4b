"""Alarms: raised once, cleared once, whatever the pieces they are computed in."""

import json
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from selfgen.alarms import (
    NO_STATE,
    follow_slots,
    slot_alarms,
)
from selfgen.columns import names
from selfgen.expected import performance_ratio

HOUR = 3_600_000
NOON = 1_781_956_800_000  # 2026-06-20T12:00Z


# -- slots -------------------------------------------------------------------------------------------


def slots(**columns: Any) -> pd.DataFrame:
    length = max(len(values) for values in columns.values() if isinstance(values, list))
    base = {
        "panel_id": "P1",
        "slot_start": NOON + np.arange(length) * HOUR,
        "completeness": 1.0,
        "samples": 60,
        "stale": 0.0,
        "daylight": 1,
        "variable_data": None,
        "time_zone": "Europe/Madrid",
        "client_id": "C1",
    }
    return pd.DataFrame(base | columns)


def test_silence_is_raised_after_two_daylight_slots_and_cleared_by_data() -> None:
    rows = slot_alarms(slots(completeness=[1.0, 0.0, 0.05, 0.0, 0.3, 0.6, 1.0]), "panel")
    assert rows["state"].tolist() == ["raised", "cleared"]
    assert rows["code"].tolist() == ["no_data"] * 2
    assert rows["timestamp"].tolist() == [NOON + 2 * HOUR, NOON + 5 * HOUR]
    assert set(rows["started_at"]) == {"2026-06-20T13:00:00Z"}
    assert rows["text_alarm"].tolist() == [
        "No data since 2026-06-20 15:00: 2 daylight hours in a row, the last one covered to 5%",
        "Data again: 60% of the hour covered, after 4 daylight hours since 2026-06-20 15:00",
    ]
    assert rows.columns.tolist() == ["timestamp", *names("panel_alarm")]
    assert rows["client_id"].tolist() == ["C1"] * 2
    assert rows["power_low"].isna().all()


def test_of_two_owners_in_a_slot_the_one_who_was_measured_counts() -> None:
    """The earlier one's part has nothing but what the meter counted in an outage, whatever the order of the rows."""
    both = slots(
        slot_start=[NOON, NOON + HOUR, NOON + HOUR, NOON + 2 * HOUR],
        completeness=[0.0, 0.9, 0.0, 1.0],
        samples=[0, 35, 0, 60],
        client_id=["C1", "C2", "C1", "C2"],
    )
    for rows in (both, both.iloc[::-1]):
        assert slot_alarms(rows, "panel").empty


def test_an_incident_ends_with_its_owner() -> None:
    """The new one is told its own, from the beginning, and nothing of what the other's figures were."""
    moved = slots(completeness=[1.0, 0.0, 0.0, 0.0, 0.0, 1.0], client_id=["C1"] * 3 + ["C2"] * 3)
    rows = slot_alarms(moved.assign(name=moved["client_id"], latitude=[40.1] * 3 + [41.0] * 3), "panel")
    assert rows[["client_id", "state"]].values.tolist() == [
        ["C1", "raised"], ["C1", "cleared"], ["C2", "raised"], ["C2", "cleared"]
    ]  # fmt: skip
    assert rows["timestamp"].sub(NOON).floordiv(HOUR).tolist() == [2, 3, 4, 5]
    assert rows["started_at"].str[11:13].tolist() == ["13", "13", "15", "15"]
    assert rows.loc[1, "text_alarm"] == "Somebody else has it now: the incident ends for who had it"
    assert rows["name"].tolist() == ["C1", None, "C2", "C2"]
    assert_array_equal(rows["latitude"].to_numpy(np.float64), [40.1, np.nan, 41.0, 41.0])


def test_one_silent_slot_or_a_silent_night_is_no_alarm() -> None:
    assert slot_alarms(slots(completeness=[1.0, 0.0, 1.0, 0.0, 1.0]), "panel").empty
    assert slot_alarms(slots(completeness=[0.0] * 10, daylight=[0] * 10), "panel").empty


def test_a_night_between_neither_raises_nor_clears() -> None:
    rows = slot_alarms(
        slots(completeness=[0.0, 1.0, 1.0, 0.0, 1.0, 0.9], daylight=[1, 0, 0, 1, 0, 1]),
        "panel",
    )
    assert rows["timestamp"].tolist() == [NOON + 3 * HOUR, NOON + 5 * HOUR]
    assert rows["text_alarm"].iloc[1].startswith("Data again: 90% of the hour covered, after 2 daylight hours")


def test_a_frozen_value_is_stuck_until_it_moves() -> None:
    rows = slot_alarms(slots(stale=[0.0, 1.0, 0.95, 0.7, 0.2], samples=[60, 60, 0, 60, 60]), "panel")
    assert rows.empty  # without samples there is nothing that could stand still
    rows = slot_alarms(slots(stale=[0.0, 1.0, 0.95, 0.7, 0.2]), "panel")
    assert rows["code"].tolist() == ["stuck"] * 2
    assert rows["timestamp"].tolist() == [NOON + 2 * HOUR, NOON + 4 * HOUR]


@pytest.mark.parametrize(("greatest", "possible", "told"), [(6.0, 150.0, 0), (6.0, 800.0, 1), (60.0, 150.0, 1)])
def test_whole_watts_of_a_dull_winter_s_day_are_not_stuck(greatest: float, possible: float, told: int) -> None:
    columns = {"greatest": greatest, "generated": greatest, "possible": possible, "slot_end": NOON + HOUR}
    light = slots(stale=[0.0, 1.0, 1.0, 1.0], **columns).rename(columns={"panel_id": "light_id"})
    light["slot_end"] = light["slot_start"] + HOUR
    rows = slot_alarms(light, "light")
    assert (rows["code"] == "stuck").sum() == told


def test_thresholds_are_the_element_s_own() -> None:
    patient = json.dumps({"alarms": {"no_data": {"slots": 4}}})
    broken = json.dumps({"alarms": {"no_data": {"slots": "many"}}})
    silent = [0.0] * 3
    table = pd.concat(
        [
            slots(completeness=silent, panel_id="patient", variable_data=patient),
            slots(completeness=silent, panel_id="broken", variable_data=broken),
            slots(completeness=silent, panel_id="plain"),
        ]
    )
    assert slot_alarms(table, "panel")["panel_id"].tolist() == ["broken", "plain"]


def test_light_sensors_have_their_own_columns() -> None:
    table = slots(completeness=[0.0] * 3).rename(columns={"panel_id": "light_id"})
    rows = slot_alarms(table, "light")
    assert rows.columns.tolist() == ["timestamp", *names("sensor_alarm")]
    assert rows["light_id"].tolist() == ["P1"]


def test_no_slots_give_no_alarms() -> None:
    rows, state = follow_slots(slots(completeness=[1.0]).iloc[:0], "panel")
    assert (len(rows), len(state)) == (0, 0)


def performing(table: pd.DataFrame, generated: list[float], expected: list[float]) -> pd.DataFrame:
    """Add what panels of 3 kW produced and should have produced, Wh."""
    table = table.assign(
        slot_end=table["slot_start"] + HOUR, power_cap=3000.0, estimated=0.0, generated=generated, expected_gen=expected
    )
    return table.assign(performance_ratio=performance_ratio(table, table["expected_gen"]))


def panel(generated: list[float], expected: float = 1000.0, **columns: Any) -> pd.DataFrame:
    length = len(generated)
    return performing(slots(completeness=[1.0] * length, **columns), generated, [expected] * length)


def test_low_power_is_raised_after_eight_hours_without_a_day_between_and_says_what_is_missing() -> None:
    low, well = [300.0, 400.4, 500.0, 700.0], [900.0] * 7
    table = panel([950.0, *low, *well, *low, *well, 800.0, *well, 850.0, 900.0])
    rows = slot_alarms(table, "panel")
    assert rows["code"].tolist() == ["low_power"] * 2
    assert rows["state"].tolist() == ["raised", "cleared"]
    assert rows["timestamp"].tolist() == [NOON + 15 * HOUR, NOON + 31 * HOUR]
    assert rows["power_low"].tolist() == pytest.approx([4899.2, 6499.2])
    assert [text.replace("\N{NARROW NO-BREAK SPACE}", " ") for text in rows["text_alarm"]] == [
        "Produced 10 101 Wh of 15 000 Wh expected since 2026-06-20 15:00, too little in 8 of 15 hours",
        "85% of what is expected again; produced 23 501 Wh of 30 000 Wh in 30 hours since 2026-06-20 15:00",
    ]
    assert slot_alarms(panel([*low, *low[:3], *[850.0] * 8, *low, *low[:3]]), "panel").empty


def test_nothing_in_the_light_is_no_power_and_not_low_power() -> None:
    rows = slot_alarms(panel([950.0, 0.0, 0.0, 0.0, 0.0, 900.0]), "panel")
    assert rows["code"].tolist() == ["no_power"] * 2
    assert rows["severity"].tolist() == ["critical"] * 2
    assert rows["power_low"].tolist() == [2000.0, 4000.0]


@pytest.mark.parametrize(
    "nothing_said",
    [
        panel([0.0] * 6, expected=299.0),  # under a tenth of the rating: dawn
        panel([0.0] * 6, expected=np.nan),  # no light sensor, no neighbours
        panel([0.0] * 6, daylight=0),
        panel([740.0, 740.0, 900.0] * 3),  # not in a row
    ],
)
def test_dawn_night_and_what_is_not_known_raise_nothing(nothing_said: pd.DataFrame) -> None:
    assert slot_alarms(nothing_said, "panel").empty


def test_half_covered_hours_are_judged_by_what_they_covered() -> None:
    table = panel([500.0] * 6).assign(completeness=0.5)
    table["performance_ratio"] = performance_ratio(table, table["expected_gen"])
    assert slot_alarms(table, "panel").empty


def plain(rows: pd.DataFrame) -> list[str]:
    return [text.replace("\N{NARROW NO-BREAK SPACE}", " ") for text in rows["text_alarm"]]


def test_a_frozen_value_is_not_judged_by_the_light() -> None:
    frozen = panel([100.0] * 4, stale=[1.0] * 4)
    assert slot_alarms(frozen, "panel")["code"].tolist() == ["stuck"]


def test_more_than_the_rating_is_over_power_until_two_days_are_without() -> None:
    high = [3700.0, 3601.0, 3000.0]
    table = slots(greatest=[2000.0, *high, *[3200.0] * 22, 3300.1, *[3200.0] * 24], power_cap=3000.0)
    rows = slot_alarms(table, "panel")
    assert rows["code"].tolist() == ["over_power"] * 2
    assert rows["timestamp"].tolist() == [NOON + 2 * HOUR, NOON + 50 * HOUR]
    assert plain(rows) == [
        "Up to 3 601 W from a rating of 3 000 W, 120% of it, since 2026-06-20 15:00, 2 hours in a row: the rating, the "
        "unit or the meter is wrong",
        "Within its rating of 3 000 W again, 49 daylight hours after 2026-06-20 15:00",
    ]


def test_one_peak_or_an_unknown_rating_is_no_over_power() -> None:
    assert slot_alarms(slots(greatest=[3700.0, 3500.0] * 4, power_cap=3000.0), "panel").empty
    assert slot_alarms(slots(greatest=[3700.0] * 4, power_cap=np.nan), "panel").empty


def test_hours_at_a_limit_are_clipping_until_there_is_light_without() -> None:
    table = slots(
        flat=[0.2, 0.95, 1.0, 0.3, *[0.4] * 7, 0.99, *[0.3] * 8],
        greatest=[2400.0, 2400.0, 2402.0, 900.0, *[2300.0] * 7, 2401.0, *[2300.0] * 8],
        power_cap=3000.0,
    )
    rows = slot_alarms(table, "panel")
    assert rows["code"].tolist() == ["clipping"] * 2
    assert rows["severity"].tolist() == ["info"] * 2
    # the hour of 900 W tells nothing, and the one at the limit begins the count anew
    assert rows["timestamp"].tolist() == [NOON + 2 * HOUR, NOON + 19 * HOUR]
    assert plain(rows)[0] == (
        "Cut at 2 402 W, 80% of the rating, since 2026-06-20 15:00: 100% of the last hour's 60 samples at its "
        "greatest, 2 hours in a row"
    )


def test_what_does_not_move_at_all_is_stuck_and_not_clipping() -> None:
    rows = slot_alarms(slots(flat=[1.0] * 4, stale=[1.0] * 4, greatest=2400.0, power_cap=3000.0), "panel")
    assert rows["code"].tolist() == ["stuck"]


def test_a_meter_that_begins_anew_is_told_at_once_and_once() -> None:
    rows = slot_alarms(slots(meter_resets=[0, 1, 0, 0, 0], samples=[60, 60, 0, 60, 60]), "panel")
    assert rows["code"].tolist() == ["meter_reset"] * 2
    assert rows["timestamp"].tolist() == [NOON + HOUR, NOON + 3 * HOUR]
    assert rows["text_alarm"].iloc[0] == (
        "The meter began anew 1 times in the hour of 2026-06-20 15:00: what it shows since counts from zero"
    )


def test_power_in_the_dark_is_a_wrong_clock_also_when_evenings_are_right() -> None:
    nan = np.nan
    behind = [nan, 0.4, nan, 0.0, nan, 0.3, 0.0, 0.5, 0.0, *[0.0] * 5]
    rows = slot_alarms(slots(dark=behind), "panel")
    assert rows["code"].tolist() == ["clock_shift"] * 2
    assert rows["timestamp"].tolist() == [NOON + 7 * HOUR, NOON + 13 * HOUR]
    assert set(rows["started_at"]) == {"2026-06-20T13:00:00Z"}
    assert rows["text_alarm"].iloc[0] == (
        "Power before sunrise or after sunset since 2026-06-20 15:00: in 3 hours, 50% of the last one's 60 samples; "
        "the device's clock or time zone is wrong"
    )


@pytest.mark.parametrize(
    "nothing_said",
    [
        slots(dark=[0.2, *[0.0] * 6, 0.2, *[0.0] * 6, 0.2]),  # three days without in between
        slots(dark=[0.2] * 5, stale=0.6),  # a value that stays as it was at noon
        slots(dark=[np.nan] * 9),
    ],
)
def test_few_signs_in_the_dark_are_no_wrong_clock(nothing_said: pd.DataFrame) -> None:
    assert slot_alarms(nothing_said, "panel").query("code == 'clock_shift'").empty


def outed(greatest: list[float], **columns: Any) -> pd.DataFrame:
    """Panels that should give 1 kW, and then nothing, an hour after the other."""
    return panel([watts * 0.9 for watts in greatest], greatest=greatest, **columns)


def test_power_that_fades_before_it_goes_out_is_no_power_only_when_it_stays_out() -> None:
    by_day = [1] * 6 + [0] * 2 + [1] * 3
    faded = outed([1000.0, 900.0, 450.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], daylight=by_day)
    out = outed([1000.0, 900.0, 650.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], daylight=by_day)
    hours = [
        slot_alarms(table, "panel").query("code == 'no_power'")["timestamp"].sub(NOON).floordiv(HOUR).tolist()
        for table in (faded, out)
    ]
    assert hours == [[9], [4]]


def test_by_a_clock_that_seems_wrong_neither_low_nor_no_power_is_said() -> None:
    dark = [0.3, *[np.nan] * 7, *[0.0] * 6, *[np.nan] * 4]
    low = slot_alarms(outed([600.0] * 24, dark=[*dark, *[np.nan] * 6]), "panel")
    none = slot_alarms(outed([0.0] * 18, dark=dark), "panel")
    # once six evenings and mornings in a row were as they should be, it counts again
    assert low["timestamp"].sub(NOON).floordiv(HOUR).tolist() == [20]
    assert low["code"].tolist() == ["low_power"]
    assert none["timestamp"].sub(NOON).floordiv(HOUR).tolist() == [14]
    assert none["code"].tolist() == ["no_power"]


def owners(length: int) -> st.SearchStrategy[list[str | None]]:
    """Who has an element in each slot: one client, or several that follow each other, nobody among them."""
    changes = st.lists(st.tuples(st.integers(0, length), st.sampled_from(["C1", "C2", None])), max_size=3)
    return changes.map(
        lambda moves: [
            next((who for at, who in sorted(moves, reverse=True, key=lambda move: move[0]) if at <= slot), "C0")
            for slot in range(length)
        ]
    )


@st.composite
def histories(draw: st.DrawFn) -> pd.DataFrame:
    parts = []
    for element in range(draw(st.integers(1, 3))):
        length = draw(st.integers(1, 40))
        share = st.lists(st.sampled_from([0.0, 0.05, 0.3, 0.7, 0.95, 1.0]), min_size=length, max_size=length)
        flags = st.lists(st.integers(0, 1), min_size=length, max_size=length)
        own = json.dumps(
            {
                "alarms": {
                    "no_data": {"slots": draw(st.integers(1, 4))},
                    "clock_shift": {"clear_slots": draw(st.integers(1, 4))},
                    "over_power": {"clear_slots": draw(st.integers(1, 4))},
                    "clipping": {"clear_slots": draw(st.integers(1, 4))},
                }
            }
        )
        part = slots(
            completeness=draw(share),
            stale=draw(share),
            daylight=draw(flags),
            flat=draw(share),
            dark=draw(st.lists(st.sampled_from([np.nan, 0.0, 0.0, 0.4]), min_size=length, max_size=length)),
            meter_resets=draw(flags),
            greatest=draw(st.lists(st.sampled_from([100.0, 900.0, 3200.0, 3700.0]), min_size=length, max_size=length)),
            panel_id=f"P{element}",
            variable_data=own,
            client_id=draw(owners(length)),
        )
        energy = st.lists(st.sampled_from([0.0, 312.3, 700.0, 1100.7]), min_size=length, max_size=length)
        part = performing(part, draw(energy), draw(energy))
        parts.append(part[[bool(seen) for seen in draw(flags)]])
    return pd.concat(parts).sample(frac=1, random_state=draw(st.integers(0, 99)))


@settings(max_examples=8, deadline=None)
@given(histories(), st.sets(st.integers(0, 40), max_size=6))
def test_slots_in_any_pieces_and_order_give_the_same_alarms(table: pd.DataFrame, cuts: set[int]) -> None:
    whole = slot_alarms(table, "panel")
    for _, rows in whole.groupby(["panel_id", "code"]):
        assert rows["state"].tolist() == (["raised", "cleared"] * len(rows))[: len(rows)]
        # an incident begins and ends with the same owner
        raised, cleared = (rows.loc[rows["state"] == state, "client_id"].tolist() for state in ("raised", "cleared"))
        assert cleared == raised[: len(cleared)]
    edges = [0, *sorted(NOON + cut * HOUR for cut in cuts), NOON + 99 * HOUR]
    state, pieces = NO_STATE, []
    for low, high in pairwise(edges):
        piece = table[(table["slot_start"] >= low) & (table["slot_start"] < high)]
        rows, state = follow_slots(piece, "panel", state)
        pieces.append(rows)
    pd.testing.assert_frame_equal(pd.concat(pieces, ignore_index=True), whole)


@settings(max_examples=8, deadline=None)
@given(histories())
def test_slots_agree_with_the_definition_read_slot_by_slot(table: pd.DataFrame) -> None:
    """The oracle: one element and one slot after the other, in plain Python."""
    expected = set()
    for element, rows in table.sort_values("slot_start").groupby("panel_id"):
        is_open, run, started, owner = False, 0, 0, None
        for slot in rows.itertuples():
            needed = json.loads(slot.variable_data)["alarms"]["no_data"]["slots"]
            if not slot.daylight:
                continue
            bad, good = slot.completeness < 0.1, slot.completeness >= 0.5
            if slot.client_id != owner:  # what began under another owner ends with the first slot after
                if is_open:
                    expected.add((element, slot.slot_start, "cleared", started))
                is_open, run, owner = False, 0, slot.client_id
            run = run + 1 if bad else 0
            first = slot.slot_start if run == 1 and not is_open else None
            started = first if first is not None else started
            if not is_open and run >= needed:
                is_open = True
                expected.add((element, slot.slot_start, "raised", started))
            elif is_open and good:
                is_open = False
                expected.add((element, slot.slot_start, "cleared", started))
    found = slot_alarms(table, "panel").query("code == 'no_data'")
    assert told(found) == expected


def told(found: pd.DataFrame) -> set[tuple[str, int, str, int]]:
    began = [round(datetime.fromisoformat(start).timestamp() * 1000) for start in found["started_at"]]
    return set(zip(found["panel_id"], found["timestamp"], found["state"], began, strict=True))


@settings(max_examples=8, deadline=None)
@given(histories())
def test_a_wrong_clock_agrees_with_its_definition_read_slot_by_slot(table: pd.DataFrame) -> None:
    """The oracle: bad slots are counted until enough good ones in a row, which also clear."""
    expected = set()
    for element, rows in table.sort_values("slot_start").groupby("panel_id"):
        is_open, bads, goods, started, owner = False, 0, 0, 0, None
        for slot in rows.itertuples():
            if np.isnan(slot.dark) or slot.stale > 0.5:
                continue
            if slot.client_id != owner:
                if is_open:
                    expected.add((element, slot.slot_start, "cleared", started))
                is_open, bads, goods, owner = False, 0, 0, slot.client_id
            goods = goods + 1 if slot.dark == 0 else 0
            if slot.dark > 0:
                started = slot.slot_start if bads == 0 and not is_open else started
                bads += 1
                if bads >= 3 and not is_open:
                    is_open = True
                    expected.add((element, slot.slot_start, "raised", started))
            elif goods >= json.loads(slot.variable_data)["alarms"]["clock_shift"]["clear_slots"]:
                if is_open:
                    expected.add((element, slot.slot_start, "cleared", started))
                is_open, bads = False, 0
    assert told(slot_alarms(table, "panel").query("code == 'clock_shift'")) == expected
