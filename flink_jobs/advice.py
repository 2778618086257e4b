"""What an installer asks before panels come: the registry's place of a light sensor, and what the lake has of it."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pandas as pd

from selfgen import horizon
from selfgen.advice import Advice, Roof, advise
from selfgen.light_history import History
from selfgen.settings import Settings


def advice_of(settings: Settings, light_id: str, of: Roof) -> Advice:
    """Return the advice at the place where a light sensor is, or last was.

    Raises
    ------
    Unavailable
        Couchbase does not answer.
    ValueError
        Nobody ever had the sensor, or nobody knows where it is.
    """
    from couchbase_admin.registry import Registry

    with closing(Registry(settings)) as registry:
        history = registry.history("light", [light_id])
    if history.empty:
        raise ValueError(f"nobody has or had a light sensor {light_id}; selfgen install add says who has it")
    begun = history[history["init"] <= pd.Timestamp.now("UTC")]  # a move may be entered in advance
    last = (begun.tail(1) if len(begun) else history.head(1)).astype({"latitude": "float64", "longitude": "float64"})
    if last[["latitude", "longitude"]].isna().any(axis=None):
        raise ValueError(f"the place of {light_id} is not known: give its client a latitude and a longitude")
    tomorrow = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    [sums] = History(settings.lake_dir).before(tomorrow, last)
    latitude, longitude = float(last["latitude"].iloc[0]), float(last["longitude"].iloc[0])
    own = last["variable_data"].iloc[0] or {}
    told, surface = advise(sums, latitude, longitude, of, horizon.of(json.dumps(own)))
    return Advice({"light_id": light_id, "latitude": latitude, "longitude": longitude, **told}, surface)
