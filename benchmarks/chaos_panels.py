"""Panels' reports against plain pandas, column by column: a year of 50 panels in six time zones.

Messages go through Kafka, landing, MongoDB, Flink, the lake and Druid; what Druid then has is compared with
`panel_oracle`, which sees the messages only. They are sent each quarter of an hour (and a gap counts up to 20 min): the
oracle goes from sample to sample. Some come weeks late, after the year was computed, and `batch watch` mends what
depends on them.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from benchmarks import panel_oracle
from benchmarks.form import Figure
from benchmarks.panel_oracle import Tenure
from benchmarks.servers import own_stack
from flink_jobs.slots import hours_between
from selfgen.columns import DATASOURCES, ENRICHMENT
from selfgen.registry import Client, LightSensor, Panel
from selfgen.settings import Settings
from selfgen.simulation.fleet import AREAS

#: Energies, sums and differences agree to this share; what went through the sun's position to `SUN`.
EXACT, SUN = 1e-9, 1e-6
HOUR = timedelta(hours=1)
PATIENCE_S = 600.0
_SUNNY = {"expected_gen", "performance_ratio", "estimated_gen"}
SERVERS = ("kafka", "mongodb", "couchbase", "druid", "flink")


@dataclass(frozen=True)
class Plan:
    """How many panels send, and when."""

    panels: int = 50
    windows: tuple[tuple[datetime, datetime], ...] = (
        (datetime(2025, 10, 1, tzinfo=UTC), datetime(2026, 10, 1, tzinfo=UTC)),
    )
    step_s: int = 900
    max_gap_s: float = 1200.0
    #: Samples for each gap of a panel that has some.
    apart: int = 240
    seed: int = 7


def short(panels: int = 12) -> Plan:
    """Return a plan for tests: some hours a month, a week and a day apart, on days on which clocks change."""
    last = datetime(2026, 10, 25, 0, tzinfo=UTC)  # Madrid's day of 25 hours; Lord Howe's change was on the 3rd, UTC
    starts = (last - timedelta(days=30), datetime(2026, 10, 3, 12, tzinfo=UTC), last - timedelta(days=1), last)
    windows = tuple((start, start + 6 * HOUR) for start in starts)
    return Plan(panels, windows, step_s=240, max_gap_s=panel_oracle.MAX_GAP_S, apart=60)


@dataclass
class Plant:
    """What is registered, what is sent, and what a reader of the messages alone knows of it."""

    clients: list[Client] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    lights: list[tuple[LightSensor, str]] = field(default_factory=list)
    tenures: dict[str, list[Tenure]] = field(default_factory=dict)
    readings: dict[str, pd.DataFrame] = field(default_factory=dict)
    irradiance: dict[str, pd.DataFrame] = field(default_factory=dict)


SINCE = datetime(2020, 1, 1, tzinfo=UTC)


def plant(plan: Plan) -> Plant:
    """Return a plant of clients in six time zones: gaps, meters that begin anew, backlogs, moves."""
    chance = np.random.default_rng(plan.seed)
    made = Plant()
    places = list({area.time_zone: area for area in AREAS}.values())[:6]
    for number, area in enumerate(places):
        made.clients.append(
            Client(
                client_id=f"oracle-c{number}",
                name=f"Client {number}",
                postal_code=area.postal_code,
                latitude=area.latitude,
                longitude=area.longitude,
                time_zone=area.time_zone,
            )
        )
        if number % 2 == 0:
            sensor = LightSensor(light_id=f"oracle-l{number}", power_cap=3000.0)
            made.lights.append((sensor, f"oracle-c{number}"))
            times = _times(plan, chance, gaps=False)
            values = np.round(
                np.clip(700 * np.abs(np.sin(times / 86_400 * np.pi)) + chance.normal(0, 40, len(times)), 0, 1200), 2
            )
            made.irradiance[sensor.light_id] = pd.DataFrame({"time": times, "irradiance": values})
    for number in range(plan.panels):
        panel_id, owner = f"oracle-p{number:02d}", made.clients[number % len(made.clients)]
        made.panels.append(
            Panel(panel_id=panel_id, power_cap=3000.0 + number, tilt=30.0, azimuth=float(180 + number % 40))
        )
        times = _times(plan, chance, gaps=number % 3 != 0)
        made.readings[panel_id] = _measured(plan, times, chance, metered=number % 4 in {1, 2})
        tenures = [Tenure(-np.inf, SINCE.timestamp(), {}), Tenure(SINCE.timestamp(), np.inf, _enrichment(owner, {}))]
        if number % 5 == 4:  # moves within a slot, to a client on another clock
            moved = plan.windows[-1][0].timestamp() + 2 * 3600 + 1500
            heir = made.clients[(number + 1) % len(made.clients)]
            tenures[1:] = [tenures[1]._replace(end=moved), Tenure(moved, np.inf, _enrichment(heir, {}))]
        made.tenures[panel_id] = tenures
    return made


def _times(plan: Plan, chance: np.random.Generator, *, gaps: bool) -> np.ndarray:
    """Return times of samples in the plan's windows, s; here and there an hour or a day is missing."""
    parts = []
    for start, end in plan.windows:
        # neither on full minutes nor on borders of slots, but for a few
        times = np.arange(start.timestamp(), end.timestamp(), plan.step_s) + chance.integers(0, 60_000) / 1000
        times[:: max(len(times) // 7, 1)] = times[:: max(len(times) // 7, 1)] // 3600 * 3600 + 3600
        keep = np.ones(len(times), bool)
        for number in range(max(len(times) // plan.apart, 1) if gaps else 0):
            first = chance.integers(0, len(times))
            # one in eight is ten times as long: days, in a year
            keep[first : first + chance.integers(2, 18) * (10 if number % 8 == 7 else 1)] = False
        parts.append(times[keep])
    return np.unique(np.round(np.concatenate(parts), 3))


def _measured(plan: Plan, times: np.ndarray, chance: np.random.Generator, *, metered: bool) -> pd.DataFrame:
    power = np.round(
        1800 * np.sin(times / 86_400 * np.pi) ** 2 + chance.normal(0, 60, len(times)), 2
    )  # some under zero
    meter = np.full(len(times), np.nan)
    if metered:
        steps = np.r_[0, np.clip(power[1:], 0, None) * np.minimum(np.diff(times), 7200) / 3600]
        meter = np.round(10_000 + np.cumsum(steps), 1)
        new = len(times) // 2
        meter[new:] = np.round(meter[new:] - meter[new], 1)  # an exchanged meter
        meter[len(times) // 3] -= 2.0  # jitter
        meter[chance.random(len(times)) < 0.05] = np.nan  # not always sent
    return pd.DataFrame({"time": times, "power": power, "energy": meter})


def _enrichment(client: Client, own: dict[str, Any]) -> dict[str, Any]:
    texts = {column.name: getattr(client, column.name, "") for column in ENRICHMENT if column.type == "string"}
    dates = {"manufacture_date": None, "install_date": None}
    return texts | dates | {"latitude": client.latitude, "longitude": client.longitude} | own


def messages(made: Plant, *, replaced: bool, seed: int = 0) -> dict[str, list[bytes]]:
    """Return the messages by topic, in order of time but for what comes late; some twice.

    Parameters
    ----------
    replaced : bool
        Whether some were sent with a wrong value first.
    """
    chance = random.Random(seed)  # noqa: S311 - repeatable
    sent: dict[str, list[tuple[float, bytes]]] = {"panel": [], "light": []}
    for topic, of_topic, name in (("panel", made.readings, "panel_id"), ("light", made.irradiance, "light_id")):
        for element_id, frame in of_topic.items():
            for row in frame.to_dict("records"):
                time_s = row.pop("time")
                values = {key: value for key, value in row.items() if value == value}  # noqa: PLR0124 - not NaN
                head = {name: element_id, "timestamp": round(time_s * 1000)}
                value = json.dumps(head | values).encode()
                late = chance.random()
                arrives = time_s + (86_400 * 40 * chance.random() if late < 0.02 else 0.0)
                if replaced and late > 0.99:
                    wrong = json.dumps(head | values | {next(iter(values)): 1.0}).encode()
                    sent[topic].append((arrives - 1.0, wrong))
                sent[topic].append((arrives, value))
                if 0.02 < late < 0.05:
                    sent[topic].append((arrives + 100, value))
    return {topic: [value for _, value in sorted(of_topic, key=lambda one: one[0])] for topic, of_topic in sent.items()}


def oracle(made: Plant, max_gap_s: float) -> pd.DataFrame:
    """Return the rows that panel_report must have, with all its columns."""
    clients = {client.client_id: client for client in made.clients}
    light = {
        client_id: panel_oracle.light_slots(made.irradiance[sensor.light_id], clients[client_id].time_zone, max_gap_s)
        for sensor, client_id in made.lights
    }
    places = {
        panel.panel_id: {"power_cap": panel.power_cap, "tilt": panel.tilt, "azimuth": panel.azimuth}
        for panel in made.panels
    }
    return panel_oracle.report(made.readings, made.tenures, light, places, max_gap_s)


def compare(reported: pd.DataFrame, computed: pd.DataFrame) -> dict[str, list[str]]:
    """Return what differs, by column; `rows` are those that only one side has.

    Parameters
    ----------
    reported, computed : DataFrame
        The columns of panel_report and `start`, s.
    """
    keys = ["panel_id", "start", "client_id"]
    both = reported.merge(computed, on=keys, how="outer", suffixes=("", "_computed"), indicator=True)
    lonely = both[both["_merge"] != "both"]
    wrong = {"rows": [" ".join(map(str, row)) for row in lonely[[*keys, "_merge"]].to_numpy()]}
    both = both[both["_merge"] == "both"]
    for column in DATASOURCES["panel_report"]:
        if column.name in keys:
            continue
        one, other = both[column.name], both[f"{column.name}_computed"]
        if column.type == "string":
            same = (one.fillna("") == other.fillna("")).to_numpy()
        else:
            rtol = SUN if column.name in _SUNNY else EXACT
            # sums of energies cancel out in differences: what counts is the share of what was compared
            scale = both["acum_day_computed"].abs().max() if column.name.startswith("diff_") else 1.0
            left, right = one.to_numpy(np.float64), other.to_numpy(np.float64)
            same = np.isclose(left, right, rtol=rtol, atol=EXACT * max(scale, 1.0), equal_nan=True)
        wrong[column.name] = [
            f"{row[0]} {row[1]} {row[2]}: {row[3]} not {row[4]}"
            for row in both.loc[~same, [*keys, column.name, f"{column.name}_computed"]].to_numpy()
        ]
    return wrong


class System:
    """A running stack with the plant registered, and a database, a lake and an entrance of its own."""

    def __init__(self, settings: Settings, made: Plant, name: str, max_gap_s: float) -> None:
        from selfgen.clients import kafka, mongo

        changes = {"mongodb_database": name, "batch_settle_s": 0.0, "max_gap_s": max_gap_s}
        self.settings = settings.model_copy(update=changes)
        self.made = made
        self.sent = dict.fromkeys(("panel", "light"), 0)
        kafka.ensure_topics(self.settings)
        mongo.ensure_collections(self.settings)
        self.database = mongo.database(self.settings)
        for topic in self.sent:
            for number, offset in kafka.end_offsets(self.settings, topic).items():
                identity = {"_id": f"{topic}|{number:04d}", "topic_id": topic, "partition": number}
                self.database["landing_progress"].insert_one(identity | {"next_offset": offset})

    def register(self) -> None:
        """Add what is not registered yet."""
        from couchbase_admin.add_new_element import add_element
        from couchbase_admin.add_new_install import add_client, add_install
        from couchbase_admin.installations import move_install
        from couchbase_admin.store import RegistryStore

        store = RegistryStore.open(self.settings, "oracle")
        for client in self.made.clients:
            add_client(store, client)
        for sensor, client_id in self.made.lights:
            add_element(store, sensor)
            add_install(store, "light", sensor.light_id, client_id, SINCE)
        for panel in self.made.panels:
            add_element(store, panel)
            _, first, *moves = self.made.tenures[panel.panel_id]
            add_install(store, "panel", panel.panel_id, first.client["client_id"], SINCE)
            for tenure in moves:
                moment = datetime.fromtimestamp(tenure.start, UTC)
                move_install(store, "panel", panel.panel_id, tenure.client["client_id"], moment)

    def land(self, of_topic: dict[str, Sequence[bytes]]) -> None:
        """Send messages, and wait until each of them is counted."""
        from kafka_consumers.landing import counts
        from selfgen.clients import kafka

        producer = kafka.producer(self.settings)
        for topic, values in of_topic.items():
            for value in values:
                kafka.produce(producer, topic, value, json.loads(value)[f"{topic}_id"])
            self.sent[topic] += len(values)
        if producer.flush(PATIENCE_S):
            raise RuntimeError("Kafka did not take all messages")
        deadline = time.monotonic() + PATIENCE_S
        with self._landing("panel"), self._landing("light"):
            while any(counts(self.settings)[topic]["consumed"] < sent for topic, sent in self.sent.items()):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"not landed in time: {counts(self.settings)} of {self.sent}")
                time.sleep(0.1)

    @contextmanager
    def _landing(self, topic: str) -> Iterator[None]:
        from kafka_consumers.landing import Landing, Owners

        def nobody(ids: Sequence[str], _times: Any) -> Owners:
            return Owners([None] * len(ids), [None] * len(ids), np.zeros(len(ids), bool))

        stop = threading.Event()
        thread = threading.Thread(target=Landing(topic, self.settings, nobody).run, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def compute(self, start: datetime, end: datetime, ranges: Sequence[tuple[datetime, datetime]]) -> None:
        """Compute hours, light first, and replace a range in Druid."""
        from flink_jobs import rich_panel, rich_sensor_light, write_panel

        rich_sensor_light.run(self.settings, ranges)
        rich_panel.run(self.settings, ranges)
        write_panel.run(self.settings, start, end)

    def backfill(self, start: datetime, end: datetime) -> None:
        """Compute a range as `light run` and then `panels run` do."""
        from flink_jobs import backfill

        for kind in ("light", "panel"):
            _say(str(backfill.run_and_unmark(self.settings, kind, start, end, progress=_told)))

    def catch_up(self, now: datetime) -> list[dict[str, Any]]:
        """Do what is to be done, as `batch watch` does; return what was done of panels."""
        from flink_jobs import runner

        done = []
        for kind in ("light", "panel"):
            while one := runner.run_pass(self.settings, kind, threading.Event(), _say, round(now.timestamp() * 1000)):
                done.append(one)
        return [one for one in done if one["kind"] == "panel"]

    def reports(self) -> pd.DataFrame:
        """Return what Druid has of the plant."""
        from selfgen.clients import druid

        listed = ", ".join(f'"{column.name}"' for column in DATASOURCES["panel_report"])
        rows = druid.query(
            self.settings,
            f"SELECT TIMESTAMP_TO_MILLIS(__time) AS start_ms, {listed} FROM panel_report "  # noqa: S608 - our names
            "WHERE panel_id LIKE 'oracle-%'",
        )
        frame = pd.DataFrame(rows)
        frame = frame.assign(start=frame["start_ms"] / 1000).drop(columns="start_ms")
        return frame.sort_values(["panel_id", "start", "client_id"], ignore_index=True)


def hours_around(plan: Plan) -> list[tuple[datetime, datetime]]:
    """Return the UTC hours of the plan's windows, with those beside them."""
    return [(start - 3 * HOUR, end + 3 * HOUR) for start, end in plan.windows]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _told(done: int, steps: int, text: str) -> None:
    _say(f"{done} of {steps}: {text}")


def against_oracle(settings: Settings, plan: Plan) -> list[Figure]:
    """Send a plant's messages through a running stack, and compare every column with the oracle's."""
    made = plant(plan)
    sent = messages(made, replaced=True)
    system = System(settings, made, f"oracle-{uuid.uuid4().hex[:8]}", plan.max_gap_s)
    system.register()
    system.land(sent)
    ranges = hours_around(plan)
    system.compute(ranges[0][0], ranges[-1][1], ranges)
    return compared(plan, made, sent, system.reports(), oracle(made, plan.max_gap_s))


def compared(
    plan: Plan, made: Plant, sent: dict[str, list[bytes]], reported: pd.DataFrame, computed: pd.DataFrame
) -> list[Figure]:
    """Return the figures of a comparison."""
    wrong = compare(reported, computed)
    total = {name: len(found) for name, found in wrong.items()}
    for name, found in wrong.items():
        for line in found[:3]:
            print(f"{name}: {line}", file=sys.stderr)
    zones = len({client.time_zone for client in made.clients})
    told = computed.assign(by_rdtools=panel_oracle.by_rdtools(computed, made.readings, plan.max_gap_s))
    told = reported.merge(told[told["by_rdtools"].notna()], on=["panel_id", "start"], suffixes=("", "_computed"))
    apart = ~np.isclose(told["power_gen"], told["by_rdtools"], rtol=EXACT, atol=EXACT)
    return [
        Figure("messages", sum(map(len, sent.values())), "messages"),
        Figure("panels", plan.panels, "panels"),
        Figure("time zones", zones, "zones", bar=(">=", 6)),
        Figure("rows of panel_report", len(reported), "rows", bar=("==", len(computed))),
        Figure("rows of one side only", total.pop("rows"), "rows", bar=("==", 0)),
        *(Figure(f"{name} differs", count, "rows", bar=("==", 0)) for name, count in total.items()),
        Figure("rows of which rdtools tells the energy", len(told), "rows", bar=(">=", 1)),
        Figure("another energy than rdtools'", int(apart.sum()), "rows", bar=("==", 0)),
        Figure("rows with expected energy", int(computed["expected_gen"].gt(0).sum()), "rows", bar=(">=", 1)),
        Figure("rows with a difference to last month", int(computed["diff_last_month"].count()), "rows", bar=(">=", 1)),
        Figure("rows with spread backlog", int(computed["estimated_gen"].gt(0).sum()), "rows", bar=(">=", 1)),
    ]


def held_back(sent: dict[str, list[bytes]], spans: Sequence[tuple[datetime, datetime]]) -> dict[str, list[bytes]]:
    """Take all messages of some hours of one panel and one light sensor out of those sent, and return them."""
    found: dict[str, list[bytes]] = {topic: [] for topic in sent}
    edges = [tuple(round(edge.timestamp() * 1000) for edge in span) for span in spans]
    for topic, values in sent.items():
        stays = []
        for value in values:
            told = msgspec.json.decode(value)
            late = told[f"{topic}_id"] in {"oracle-p03", "oracle-l2"}
            mine = late and any(low <= told["timestamp"] < high for low, high in edges)
            (found[topic] if mine else stays).append(value)
        sent[topic] = stays
    return found


def run(settings: Settings) -> list[Figure]:
    """Run a year of 50 panels against the oracle, on a stack of its own."""
    plan = Plan()
    _, end = plan.windows[0]
    since = end - timedelta(days=29)
    made = plant(plan)
    everything = messages(made, replaced=True)
    sent = {topic: list(values) for topic, values in everything.items()}
    late = held_back(sent, [(since, since + 3 * HOUR)])
    beside = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with beside, own_stack(settings, "chaos_panels", *SERVERS) as own:
        computing = beside.submit(oracle, made, plan.max_gap_s)
        system = System(own, made, "oracle", plan.max_gap_s)
        system.register()
        began = time.monotonic()
        system.land(sent)
        landed = time.monotonic()
        first, last = hours_around(plan)[0]
        system.backfill(first, last)
        computed = time.monotonic()
        before = system.reports()
        system.land(late)
        passes = system.catch_up(last)
        mended = time.monotonic()
        reported = system.reports()
        figures = compared(plan, made, everything, reported, computing.result())
    changed = before.merge(reported, how="outer", indicator=True)["_merge"].ne("both")
    return [
        *figures,
        Figure("landing", round(landed - began, 1), "s"),
        Figure("computing the year, light and panels", round(computed - landed, 1), "s"),
        Figure("messages after that", sum(map(len, late.values())), "messages", bar=(">=", 1)),
        Figure("rows that they changed", int(changed.sum()) // 2, "rows", bar=(">=", 1)),
        Figure(
            "hours that were replaced",
            sum(len(hours_between(*part)) for one in passes for part in one["replaced"]),
            "hours",
        ),
        Figure("mending", round(mended - computed, 1), "s"),
    ]
