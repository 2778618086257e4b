"""The wind job's SQL over a file of raw messages, in Flink, against pandas over the same messages."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pandas as pd
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

START_MS = 1_767_225_600_000


def raw_messages() -> tuple[list[str], pd.DataFrame]:
    """Return messages as sent (some twice, some broken), and the readings that count."""
    generator = np.random.default_rng(7)
    lines, rows = [], []
    for second in range(20):
        for sensor in ("w1", "w2"):
            for offset in (0, 250, 500, 999):
                ms = START_MS + second * 1000 + offset
                speed, direction = round(generator.uniform(0, 30), 2), round(generator.uniform(0, 359.9), 1)
                stamp = ms if sensor == "w1" else f"{pd.Timestamp(ms, unit='ms', tz='Asia/Kathmandu').isoformat()}"
                message = {"wind_id": sensor, "timestamp": stamp, "wind_speed": speed, "wind_direction": direction}
                lines.append(json.dumps(message))
                if offset == 250:
                    lines.append(lines[-1])  # sent twice
                rows.append((sensor, ms, speed, direction))
    hour_ahead = round(time.time() * 1000) + 3_600_000
    lines[40:40] = [
        json.dumps({"wind_id": "w1", "timestamp": hour_ahead, "wind_speed": 5}),  # moves no watermark
        json.dumps({"wind_id": "w1", "timestamp": START_MS, "wind_speed": 500}),
        json.dumps({"wind_id": "w1", "timestamp": "yesterday", "wind_speed": 5}),
        json.dumps({"wind_id": "w1", "timestamp": START_MS}),
        "{",
    ]
    return lines, pd.DataFrame(rows, columns=["wind_id", "ms", "speed", "direction"])


def expected(readings: pd.DataFrame) -> pd.DataFrame:
    radians = np.radians(readings["direction"])
    readings = readings.assign(
        timestamp=readings["ms"] // 1000 * 1000,
        east=readings["speed"] * np.sin(radians),
        north=readings["speed"] * np.cos(radians),
    )
    windows = readings.groupby(["wind_id", "timestamp"]).agg(
        wind_speed=("speed", "mean"),
        wind_gust=("speed", "max"),
        wind_min=("speed", "min"),
        samples=("speed", "size"),
        east=("east", "sum"),
        north=("north", "sum"),
    )
    windows["wind_direction"] = np.degrees(np.arctan2(windows.pop("east"), windows.pop("north"))) % 360
    return windows


@pytest.fixture(scope="module")
def windows(stack, tmp_path_factory) -> pd.DataFrame:
    from couchbase_admin.add_new_element import add_element
    from couchbase_admin.add_new_install import add_client, add_install
    from couchbase_admin.store import RegistryStore
    from flink_jobs import rich_sensor_wind, runtime
    from selfgen.columns import DATASOURCES
    from selfgen.registry import Client, WindSensor

    stack.up("couchbase", "flink")
    store = RegistryStore.open(stack.settings, operator="test")
    place = {"latitude": 40.4, "longitude": -3.7, "time_zone": "Europe/Madrid", "postal_code": "28013"}
    add_client(store, Client(client_id="windy", name="Lucía", **place))
    add_element(store, WindSensor(wind_id="w1", model="Cup 3"))
    add_install(store, "wind", "w1", "windy", pd.Timestamp("2020-01-01", tz="UTC").to_pydatetime())

    folder = tmp_path_factory.mktemp("wind")
    (folder / "in").mkdir()
    (folder / "in" / "wind.json").write_text("\n".join(raw_messages()[0]) + "\n")
    env = runtime.streaming(stack.settings, "wind-test")
    env.get_config().set("restart-strategy.type", "none")
    read = {"connector": "filesystem", "path": (folder / "in").as_uri(), "format": "json"}
    where = runtime.options(read | {"json.ignore-parse-errors": "true"})
    env.execute_sql(f"CREATE TABLE wind ({rich_sensor_wind.columns(stack.settings)}) WITH ({where})")
    write = runtime.options({"connector": "filesystem", "path": (folder / "out").as_uri(), "format": "json"})
    env.execute_sql(f"CREATE TABLE wind_rich ({runtime.ddl(DATASOURCES['wind_report'])}) WITH ({write})")
    enrich = rich_sensor_wind.enrichment(stack.settings)
    rich_sensor_wind.build_pipeline(env, "wind", "wind_rich", enrich).execute().wait()
    files = [path for path in (folder / "out").glob("**/*") if path.is_file()]
    rows = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    return pd.DataFrame(rows)


def test_windows_are_those_of_pandas(windows):
    want = expected(raw_messages()[1])
    got = windows.set_index(["wind_id", "timestamp"]).sort_index()
    assert len(got) == len(want) == 40
    for name in want:
        np.testing.assert_allclose(got[name].astype(float), want.sort_index()[name].astype(float), rtol=1e-9)
    assert got["samples"].sum() == 160


def test_windows_carry_place_and_owner_where_they_are_known(windows):
    known = windows[windows["wind_id"] == "w1"]
    assert set(known["client_id"]) == {"windy"}
    assert set(known["postal_code"]) == {"28013"}
    assert set(known["model"]) == {"Cup 3"}
    unknown = windows[windows["wind_id"] == "w2"]
    assert len(unknown) == 20
    assert unknown["client_id"].isna().all()
    assert math.isnan(unknown["latitude"].astype(float).iloc[0])
