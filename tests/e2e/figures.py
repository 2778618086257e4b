"""What the first rows of the dashboards must say, from the messages that were sent alone.

The system's code has no part in it: readings become slots, energies and expectations by `benchmarks.panel_oracle`, in
plain pandas and pvlib.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import panel_oracle
from selfgen.registry import Client
from selfgen.simulation.batch import Message
from selfgen.simulation.fleet import Fleet

HOUR_S = 3600


@dataclass(frozen=True)
class Sent:
    """Everything that devices sent, and where they stand; hours are reported from `start` until before `end`, s."""

    messages: list[Message]
    fleet: Fleet
    start: float
    end: float

    def readings(self, topic: str) -> dict[str, pd.DataFrame]:
        """Return each element's distinct readings in order: `time` (s) and the fields that were sent."""
        found: dict[str, dict[float, dict[str, Any]]] = {}
        for message in self.messages:
            if message.topic == topic and message.outcome == "landed":
                found.setdefault(message.key.decode(), {})[message.event_ms / 1000] = json.loads(message.value)
        return {
            element: pd.DataFrame({"time": list(rows), "energy": np.nan} | _columns(rows.values())).sort_values(
                "time", ignore_index=True
            )
            for element, rows in found.items()
        }

    def owners(self, kind: Any) -> dict[str, dict[str, Any]]:
        """Return the client of each element, as the oracle takes it."""
        return dict(zip(self.fleet.ids(kind), map(_client, self.fleet.owners(kind)), strict=True))

    def reported(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the slots that were computed."""
        return rows[(rows["start"] >= self.start) & (rows["start"] < self.end)]

    @cached_property
    def light(self) -> pd.DataFrame:
        """Every slot of every light sensor: `start`, `end` (s), `irradiation` (Wh/m²), `completeness`."""
        owners = self.owners("light")
        parts = []
        for light_id, readings in self.readings("light").items():
            slots = panel_oracle.light_slots(readings, owners[light_id]["time_zone"])
            parts.append(slots.reset_index().assign(light_id=light_id, client_id=owners[light_id]["client_id"]))
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def panels(self) -> pd.DataFrame:
        """Every row of panel_report, with `start`, s."""
        owners = self.owners("panel")
        tenures = {panel: [panel_oracle.Tenure(-np.inf, np.inf, client)] for panel, client in owners.items()}
        places = {
            panel.panel_id: {"power_cap": panel.power_cap, "tilt": panel.tilt, "azimuth": panel.azimuth}
            for panel in self.fleet.panels
        }
        light = {client: slots.set_index("start") for client, slots in self.light.groupby("client_id")}
        return self.reported(panel_oracle.report(self.readings("panel"), tenures, light, places))

    def producible(self, orientations: pd.DataFrame) -> float:
        """Return the energy of the sensors' panels in given planes, kWh.

        Parameters
        ----------
        orientations : DataFrame
            `light_id`, `start` (s), `tilt`, `azimuth` (°) of each slot.
        """
        owners, rating = self.owners("light"), {sensor.light_id: sensor.power_cap for sensor in self.fleet.lights}
        slots = self.reported(self.light).merge(orientations, on=["light_id", "start"], how="left")
        total = 0.0
        for light_id, of_sensor in slots.groupby("light_id"):
            hours = of_sensor["completeness"] * (of_sensor["end"] - of_sensor["start"]) / HOUR_S
            ghi = (of_sensor["irradiation"] / hours).where(hours > 0, 0.0).to_numpy()
            planes = of_sensor[["tilt", "azimuth"]].assign(power_cap=rating[light_id])
            starts, ends = of_sensor["start"].to_numpy(), of_sensor["end"].to_numpy()
            made = panel_oracle.produced(ghi, starts, ends, owners[light_id], planes)
            total += float(np.nansum(made * of_sensor["completeness"]))
        return total / 1000

    @cached_property
    def outcomes(self) -> Counter[str]:
        """How many messages had which outcome: landed, duplicate, or a reason."""
        return Counter(message.outcome for message in self.messages)

    @property
    def live(self) -> list[Message]:
        """What was sent at real speed, after the hours that were replayed."""
        return [message for message in self.messages if message.event_ms >= (self.end + HOUR_S) * 1000]

    def wind_of_the_latest_minute(self, windows: Iterable[dict[str, Any]]) -> float:
        """Return the mean of the readings of the latest minute, m/s, in those windows that are closed.

        Parameters
        ----------
        windows : iterable of dict
            `wind_id` and `ms`, the start of each window that is served.
        """
        closed = {(window["wind_id"], window["ms"] // 1000) for window in windows}
        latest = max(second for _, second in closed) // 60 * 60
        readings = pd.concat(self.readings("wind"), names=["wind_id"]).reset_index("wind_id")
        readings = readings[readings["time"] >= latest]
        seconds = zip(readings["wind_id"], readings["time"].astype(int), strict=True)
        return float(readings.loc[[key in closed for key in seconds], "wind_speed"].mean())


def performance(rows: pd.DataFrame) -> float:
    """Return what panels made of what the light would have given, where that is known."""
    rows = rows[rows["performance_ratio"].notna()]
    made, possible = rows["power_gen"] - rows["estimated_gen"], rows["expected_gen"] * rows["completeness"]
    return float(made.sum() / possible.sum())


def incidents(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return `raised`, `cleared` (epoch ms) and `lost` (Wh) of each incident, of rows of the alarm data sources."""
    told = pd.DataFrame(rows)
    told["element"] = told["panel_id"].fillna(told["light_id"]).fillna(told["wind_id"])
    parts = []
    for _, one in told.sort_values("ms").groupby(["element", "code", "started_at"]):
        times = dict(zip(one["state"], one["ms"], strict=True))
        lost = one["power_low"].iloc[-1]
        parts.append({"raised": times["raised"], "cleared": times.get("cleared", np.nan), "lost": lost})
    return pd.DataFrame(parts)


def duration(milliseconds: float) -> str:
    """Return a duration as the dashboards write it, to a tenth of a second."""
    tenths, words = int(milliseconds / 100 + 1e-7), ""
    for unit, length in (("d", 864_000), ("h", 36_000), ("m", 600)):
        count, tenths = divmod(tenths, length)
        words += f"{count}{unit} " * bool(count)
    return words + f"{tenths / 10:g}s" if tenths or not words else words.rstrip()


def _client(client: Client) -> dict[str, Any]:
    return {name: getattr(client, name) for name in ("client_id", "postal_code", "latitude", "longitude", "time_zone")}


def _columns(values: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    rows = list(values)
    fields = ("power", "irradiance", "wind_speed", "energy")
    return {name: [row.get(name, np.nan) for row in rows] for name in fields if any(name in row for row in rows)}
