"""What the benchmark of light sensors' alarms compares: faults as labels, levels as the lake has them, incidents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from benchmarks import light_alarms
from benchmarks.alarms import score
from selfgen import lake, light_history
from selfgen.columns import LIGHT_SUMS
from selfgen.simulation.fleet import make_fleet
from selfgen.simulation.truth import Fault

DAY_MS = 86_400_000


def test_at_most_one_fault_a_sensor_and_quarter_within_the_year() -> None:
    fleet = make_fleet(12, 5, panels=0, winds=0)
    faults = light_alarms.drawn_faults(fleet, 5)
    assert len(faults) == 4 * 6
    assert {fault.kind for fault in faults} == {kind for kind, *_ in light_alarms.DRAWN}
    assert all(light_alarms.START < fault.start < fault.end <= light_alarms.END for fault in faults)
    spans = pd.DataFrame([(fault.element_id, *fault.span_ms) for fault in faults], columns=["id", "start", "end"])
    spans = spans.sort_values(["id", "start"])
    after = spans.groupby("id")["start"].shift(-1)
    assert (spans["end"] < after)[after.notna()].all()


def test_a_drift_is_told_late_and_a_clock_put_right_leaves_a_hole() -> None:
    start = datetime(2025, 3, 1, tzinfo=UTC)
    drift = Fault("drifting", "light", "a", start, start + timedelta(days=40), 0.16)
    clock = Fault("clock_shift", "light", "b", start, start + timedelta(days=10), 2.0)
    rows = light_alarms.labels([drift, clock]).set_index("kind")
    assert rows.loc["drifting", "start"] == pytest.approx(drift.span_ms[0] + 20 * DAY_MS)
    assert (
        rows.loc["clock_shift", "end"]
        == rows.loc["hole", "start"]
        == pytest.approx(clock.span_ms[1] - 2 * 3.6e6, abs=1e3)
    )

    def told(light_id: str, first: float, last: float) -> tuple[str, str, int, int, str]:
        at = [round(drift.span_ms[0] + day * DAY_MS) for day in (first, last)]
        return light_id, "soiled_or_shaded", at[0], at[1], ""

    columns = ["light_id", "code", "start", "end", "text_alarm"]
    early, right, after, other = told("a", 1, 3), told("a", 25, 44), told("a", 42, 50), told("b", 2, 5)
    labelled = light_alarms.labels([drift, clock])
    for incidents, found, false in (([early], 0, 0), ([right], 1, 0), ([early, right, after, other], 1, 2)):
        scored = score(
            pd.DataFrame(incidents, columns=columns), labelled, "soiled_or_shaded", ["drifting"], (), "light_id"
        )
        assert (scored.faults, scored.found, scored.false) == (1, found, false)


def test_levels_are_those_of_the_lake(tmp_path) -> None:
    random, parts = np.random.default_rng(1), []
    place = {"latitude": 40.4, "longitude": -3.7}
    for day in (datetime(2026, month, 10, tzinfo=UTC) for month in (1, 2, 3)):
        for hour in range(8, 18):
            moment = day + timedelta(hours=hour)
            rows = pd.DataFrame({"element_id": ["a", "b"], "slot_start": round(moment.timestamp() * 1000), **place})
            rows = rows.assign(**dict.fromkeys(LIGHT_SUMS, 450.0), steady=random.integers(0, 10, 2) > 0)
            rows = rows.assign(generated=900 * random.uniform(0.9, 0.92, 2), steady=rows["steady"].astype(float))
            lake.replace_hour(tmp_path, "light", moment, pa.Table.from_pandas(rows, preserve_index=False))
            parts.append(rows)
        light_history.replace(tmp_path, "light", [day])
    slots = pd.concat(parts).sort_values(["element_id", "slot_start"], ignore_index=True)
    found = light_alarms.levels(slots)
    np.testing.assert_allclose(found, light_history.ClearLevels(tmp_path).of(slots))
    assert np.isnan(found[slots["slot_start"] < parts[10]["slot_start"].min()]).all()
    assert np.isfinite(found).any()
