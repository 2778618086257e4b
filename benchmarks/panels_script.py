"""What one would write by hand in place of the hour's two jobs: one process, pymongo, Polars, the Couchbase SDK.

    python -m benchmarks.panels_script 2026-03-21T10

It reads the hour's raw readings, adds up their energy, looks up owners and places, computes what was expected (by the
same functions as the jobs, `selfgen.expected`), writes the same columns, and has Druid replace the hour. It knows
neither slots of other clocks, nor moves within the hour, meters, history, alarms, nor what to do when it is killed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import bson
import numpy as np
import pandas as pd
import polars as pl
from couchbase.transcoder import RawJSONTranscoder
from pymongo import MongoClient

from selfgen.calendar import HOUR_MS, local_parts, parse_hour
from selfgen.clients import couchbase, druid, mongo
from selfgen.columns import ACCUMULATORS, DIFFERENCES, ENRICHMENT, names
from selfgen.expected import LIGHT, expected_energy, performance_ratio
from selfgen.registry import client_key, element_key, relations_key
from selfgen.settings import Settings, get_settings

BATCH = 50_000
KEYS_AT_ONCE = 500


def main(hour: datetime) -> None:
    """Compute one UTC hour and replace it in Druid."""
    settings = get_settings()
    start_ms = round(hour.timestamp() * 1000)
    energy = slots(readings(settings, start_ms - 300_000, start_ms + HOUR_MS + 300_001), start_ms)
    rows = energy.to_pandas().merge(owners(settings, energy["panel_id"].to_list()), on="panel_id", how="left")
    # the core's names
    rows = rows.assign(generated=rows["power_gen"], estimated=0.0, owned=1.0, slot_start=start_ms)
    rows = rows.assign(slot_end=start_ms + HOUR_MS, estimated_gen=0.0)
    rows["expected_gen"] = expected_energy(rows, pd.DataFrame({name: [] for name in LIGHT}))
    rows["performance_ratio"] = performance_ratio(rows, rows["expected_gen"])
    local = local_parts("Europe/Madrid", rows["slot_start"])
    rows = rows.assign(local_time=local["local_time"], local_date=local["local_date"], timestamp=start_ms)
    rows = rows.assign(**{f"acum_{name}": rows["power_gen"] for name in ACCUMULATORS})
    rows = rows.assign(**{f"diff_last_{name}": np.nan for name in DIFFERENCES})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        pl.from_pandas(rows[["timestamp", *names("panel_report")]], nan_to_null=True).write_ndjson(file)
        druid.replace(settings, "panel_report", [file], hour, hour + timedelta(hours=1), rows=len(rows))


def readings(settings: Settings, low_ms: int, high_ms: int) -> pl.DataFrame:
    """Return the raw readings of a range of time: `panel_id`, `time`, `power`."""
    parts = []
    with MongoClient(settings.mongodb) as client:
        found = client[settings.mongodb_database]["topic"].find_raw_batches(
            mongo.time_range("panel", low_ms, high_ms), {"_id": 1, "msg_value.power": 1}, batch_size=BATCH
        )
        for batch in found:
            documents = bson.decode_all(batch)
            parts.append(
                pl.DataFrame(
                    {
                        "key": [document["_id"] for document in documents],
                        "power": [document["msg_value"]["power"] for document in documents],
                    }
                ).select(
                    pl.col("key").str.slice(20).cast(pl.Categorical).alias("panel_id"),
                    pl.col("key").str.slice(6, 13).cast(pl.Int64).alias("time"),
                    pl.col("power").clip(0.0).cast(pl.Float64),
                )
            )
    return pl.concat(parts)


def slots(read: pl.DataFrame, start_ms: int) -> pl.DataFrame:
    """Return each panel's energy in the hour, cut at its borders, its greatest power, samples and completeness."""
    low, high = (pl.lit(edge, pl.Int64) for edge in (start_ms, start_ms + HOUR_MS))
    before, after = pl.col("power"), pl.col("power").shift(-1).over("panel_id")
    until = pl.col("time").shift(-1).over("panel_id")
    pairs = read.sort("panel_id", "time").with_columns(until=until, after=after)
    begin, end = pl.max_horizontal("time", low), pl.min_horizontal("until", high)
    slope = (pl.col("after") - before) / (pl.col("until") - pl.col("time"))
    middle = before + slope * ((begin + end) / 2 - pl.col("time"))
    counts = (pl.col("until") - pl.col("time") <= 300_000) & (end > begin)
    inside = pl.col("time").is_between(low, high, closed="left")
    return (
        pairs.with_columns(
            energy=pl.when(counts).then(middle * (end - begin) / HOUR_MS).otherwise(0.0),
            covered=pl.when(counts).then(end - begin).otherwise(0),
        )
        .group_by("panel_id")
        .agg(
            power_gen=pl.col("energy").sum(),
            power_max=pl.col("power").filter(inside).max(),
            samples=inside.sum().cast(pl.Int64),
            completeness=pl.col("covered").sum() / HOUR_MS,
        )
        .with_columns(pl.col("panel_id").cast(pl.String))
        .sort("panel_id")
    )


def owners(settings: Settings, ids: list[str]) -> pd.DataFrame:
    """Return the place and owner of each panel: all have been with their first one ever since."""
    collection = couchbase.connect(settings)

    def documents(keys: list[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for first in range(0, len(keys), KEYS_AT_ONCE):
            answer = collection.get_multi(keys[first : first + KEYS_AT_ONCE], transcoder=RawJSONTranscoder())
            found |= {key: json.loads(result.value) for key, result in answer.results.items()}
        return found

    elements = documents([element_key("panel", one) for one in ids])
    relations = documents([relations_key("panel", one) for one in ids])
    periods = {one: relations[relations_key("panel", one)]["periods"][0] for one in ids}
    clients = documents(sorted({client_key(period["client_id"]) for period in periods.values()}))
    rows = [
        {
            "panel_id": one,
            **clients[client_key(periods[one]["client_id"])],
            **elements[element_key("panel", one)],
            "client_id": periods[one]["client_id"],
        }
        for one in ids
    ]
    wanted = ["panel_id", *(column.name for column in ENRICHMENT), "power_cap", "tilt", "azimuth"]
    return pd.DataFrame(rows).reindex(columns=wanted)


if __name__ == "__main__":
    main(parse_hour(sys.argv[1]))
