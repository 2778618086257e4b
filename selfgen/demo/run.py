"""The demonstration's stages, in order, and what each must show.

The stores are empty at its start: what an earlier demonstration left is removed, what anybody else left is not
touched (the demonstration then refuses to run).
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from selfgen.columns import DATASOURCES
from selfgen.demo import oracle, summary
from selfgen.settings import Settings
from selfgen.simulation.batch import Message, read_lines
from selfgen.simulation.fleet import KINDS, Fleet, demo_fleet
from selfgen.simulation.measured import replay
from selfgen.simulation.truth import Truth
from stack import lifecycle
from stack.programs import LANDING, WIND
from stack.servers import SERVERS

#: Marks the stores' data as a demonstration's.
MARK = "demo-data"
LIVE_SECONDS = 45
#: The last hours are left to the next run: a slot of any clock has ended two hours after its UTC hour began.
SETTLE = timedelta(hours=1)
TOLERANCE_WH = 1e-6
#: How long the last figures may take from Kafka to Druid's answers.
PATIENCE_S = 180

Say = Callable[[str], None]


class DemoError(Exception):
    """What does not hold, in a sentence."""


class NotYet(Exception):
    """What is waited for."""


@dataclass
class Demo:
    """One demonstration: where it runs, what it replays, and what it found."""

    settings: Settings
    days: int
    say: Say
    #: told of each stage: (name, None) at its start, (name, seconds) at its end
    stage_seen: Callable[[str, float | None], None]
    fleet: Fleet = field(default_factory=demo_fleet)
    truth: Truth = field(default_factory=Truth)
    stages: list[dict[str, Any]] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    stopped: threading.Event = field(default_factory=threading.Event)
    figures: summary.Figures = field(default_factory=lambda: summary.Figures([], [], []))

    def __post_init__(self) -> None:
        """Fix the hours: replayed until the last full one, reported but for those still to settle."""
        self.until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        self.start = self.until - timedelta(days=self.days)
        self.end = self.until - SETTLE

    @property
    def folder(self) -> Path:
        """Where the demonstration keeps its logs of what it produced."""
        return self.settings.build_dir / "demo"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and tell of it."""
        begun = time.monotonic()
        self.stage_seen(name, None)
        yield
        seconds = round(time.monotonic() - begun, 1)
        self.stages.append({"name": name, "seconds": seconds})
        self.stage_seen(name, seconds)

    def messages(self) -> Iterator[Message]:
        """Yield everything that was produced."""
        for name in ("replay.jsonl", "live.jsonl"):
            if (self.folder / name).exists():
                yield from read_lines(self.folder / name)


def awaiting(demo: Demo, seconds: float) -> Retrying:
    """Return the loop that tries until what it does raises no `NotYet`, or the demonstration is stopped."""

    def go_on(_state: RetryCallState) -> None:
        if demo.stopped.is_set():
            raise DemoError("stopped")

    return Retrying(
        retry=retry_if_exception_type(NotYet),
        stop=stop_after_delay(seconds),
        wait=wait_fixed(0.5),
        before=go_on,
        reraise=True,
    )


def run(demo: Demo, keep: bool) -> dict[str, Any]:
    """Run all stages; return the report. `keep` leaves the stack and the live feed running.

    Raises
    ------
    DemoError, StackError
        Something does not hold, or cannot be started.
    """
    _begin_empty(demo)
    with ThreadPoolExecutor() as pool:
        try:
            _run_stages(demo, pool)
            demo.report["kept"] = keep
            if keep:
                lifecycle.up(demo.settings, ["live_feed"])
        except BaseException:
            _stop(demo)
            raise
    if not keep:
        with demo.stage("stop the stack"):
            lifecycle.down(demo.settings)
    return demo.report


def _stop(demo: Demo) -> None:
    """Stop everything, however impatiently Ctrl-C is pressed."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    demo.say("stopping the stack")
    demo.stopped.set()
    lifecycle.down(demo.settings)


def _run_stages(demo: Demo, pool: ThreadPoolExecutor) -> None:
    with demo.stage("start the servers"):
        lifecycle.up(demo.settings, SERVERS, lambda name, text: demo.say(f"{name}: {text}"))
    with demo.stage("declare topics, collections, data sources"):
        _declare(demo.settings)
    with demo.stage("register clients, elements, installations"):
        _register(demo)
    wind = pool.submit(_start_wind, demo)
    with demo.stage("replay measurements"):
        lifecycle.up(demo.settings, [program.name for program in LANDING])
        _replay(demo)
    with demo.stage("land them"):
        await_landed(demo)
    live = pool.submit(_live_feed, demo, wind)
    with demo.stage("compute the hours"):
        _batch(demo)
    with demo.stage("live feed"):
        live.result()
        await_landed(demo)
    with demo.stage("dashboard"):
        _dashboard(demo)
    with demo.stage("reconcile"):
        _reconcile(demo)
        demo.figures = summary.read(demo.settings)


def _begin_empty(demo: Demo) -> None:
    settings = demo.settings
    mark = settings.stack_dir / MARK
    if (settings.stack_dir / "mongodb").exists() and not mark.exists():
        raise DemoError(
            f"the stores below {settings.stack_dir} hold data that are not a demonstration's; set SELFGEN_BUILD_DIR to "
            "another folder (and SELFGEN_PORT_BASE to other ports), or remove them by hand"
        )
    lifecycle.down(settings)
    for path in (settings.stack_dir, settings.lake_dir, settings.checkpoints_dir, demo.folder):
        shutil.rmtree(path, ignore_errors=True)
    demo.folder.mkdir(parents=True)
    mark.parent.mkdir(parents=True)
    mark.touch()


def _declare(settings: Settings) -> None:
    from selfgen.clients import druid, kafka, mongo

    kafka.ensure_topics(settings)
    mongo.ensure_collections(settings)
    druid.apply_supervisors(settings)


def _register(demo: Demo) -> None:
    from couchbase_admin.add_new_element import add_element
    from couchbase_admin.add_new_install import add_client, add_install
    from couchbase_admin.store import RegistryStore

    store = RegistryStore.open(demo.settings, operator="demo")
    for client in demo.fleet.clients:
        add_client(store, client)
    for kind in KINDS:
        for element in demo.fleet.elements(kind):
            add_element(store, element)
    for item in demo.fleet.installations:
        add_install(store, item.kind, item.element_id, item.client_id, item.init_date)
    demo.say(
        f"{len(demo.fleet.clients)} clients, {len(demo.fleet.panels)} panels, {len(demo.fleet.lights)} light sensors, "
        f"{len(demo.fleet.winds)} wind sensors"
    )


def _start_wind(demo: Demo) -> None:
    names = [program.name for program in WIND]
    lifecycle.up(demo.settings, names, lambda name, text: demo.say(f"{name}: {text}"))


def _replay(demo: Demo) -> None:
    from selfgen.clients.delivery import send

    batches = replay(demo.fleet, demo.until, demo.days, truth=demo.truth)
    delivered = send(demo.settings, batches, log=demo.folder / "replay.jsonl")
    demo.truth.write(demo.folder / "truth.json")
    sent = sum(topic.produced for topic in delivered.values())
    demo.say(f"{sent} messages of {demo.days} days")


def await_landed(demo: Demo) -> None:
    """Wait until landing has consumed everything that is in the topics."""
    from kafka_consumers.landing import counts
    from selfgen.clients.kafka import end_offsets

    for attempt in awaiting(demo, 240):
        with attempt:
            consumed = {topic: count["consumed"] for topic, count in counts(demo.settings).items()}
            for topic in KINDS:
                sent = sum(end_offsets(demo.settings, topic).values())
                if consumed.get(topic, 0) < sent:
                    raise NotYet(f"{topic}: {consumed.get(topic, 0)} of {sent} messages were landed or refused")


def _batch(demo: Demo) -> None:
    """Run the batch jobs of panels and light sensors for every replayed hour."""
    hours = ["--from", f"{demo.start:%Y-%m-%dT%H}", "--to", f"{demo.end:%Y-%m-%dT%H}", "--json"]

    def run_subject(subject: str) -> None:
        command = [str(Path(sys.executable).with_name("selfgen")), subject, "run", *hours]
        environment = demo.settings.environment() | {"NO_COLOR": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode != 0:
            raise DemoError(f"selfgen {subject} run failed: {(done.stderr or done.stdout).strip()[-1500:]}")
        demo.say(f"{subject}: hours replaced in Druid")

    for subject in ("light", "panels"):  # panels are judged by the light there was
        run_subject(subject)


def _live_feed(demo: Demo, wind: Future[None]) -> None:
    """Let the devices send at real speed for a while, once the wind jobs run."""
    wind.result()
    lifecycle.up(demo.settings, ["live_feed"])
    demo.say(f"live feed: devices send for {LIVE_SECONDS} s")
    end = time.monotonic() + LIVE_SECONDS
    for attempt in awaiting(demo, LIVE_SECONDS + 120):
        with attempt:
            if time.monotonic() < end:
                raise NotYet("the live feed goes on")
            if not _rows(demo.settings, "wind_alarm"):
                raise NotYet("no wind alarm has reached Druid")
    lifecycle.down(demo.settings, ["live_feed"])


def _dashboard(demo: Demo) -> None:
    from selfgen.clients import superset

    superset.apply(demo.settings)


# ------------------------------------------------------------------------------------- what must hold
def _rows(settings: Settings, datasource: str) -> int:
    from selfgen.clients import druid

    try:
        return int(druid.query(settings, f'SELECT COUNT(*) AS c FROM "{datasource}"')[0]["c"])
    except druid.UnknownDatasource:
        return 0


def _reconcile(demo: Demo) -> None:
    """Fill the report, and raise where something does not hold."""
    settings = demo.settings
    wrong: list[str] = []
    topics = count_topics(demo, wrong)
    energy = _energy_difference(demo, wrong)
    wind = count_wind(demo, wrong)
    for attempt in awaiting(demo, PATIENCE_S + 30):
        with attempt:
            datasources = {name: _rows(settings, name) for name in DATASOURCES}
            empty = [name for name, rows in datasources.items() if not rows]
            if empty and (attempt.retry_state.seconds_since_start or 0) < PATIENCE_S:
                raise NotYet(f"no rows yet: {empty}")
    wrong += [f"data source {name} has no rows" for name in empty]
    demo.report |= {
        "ok": not wrong,
        "wrong": wrong,
        "stages": demo.stages,
        "topics": topics,
        "datasources": datasources,
        "energy_difference_wh": energy,
        "wind_samples": wind,
        "memory_mib": {state.name: state.memory_mib for state in lifecycle.status(settings) if state.pid},
        "addresses": _addresses(settings),
    }


def count_topics(demo: Demo, wrong: list[str]) -> dict[str, Any]:
    """Count each topic: produced (by the log of what Kafka took) against what landing and the stores say."""
    from kafka_consumers.landing import counts, stored

    produced: dict[str, dict[str, int]] = {topic: {} for topic in KINDS}
    for message in demo.messages():
        mine = produced[message.topic]
        mine[message.outcome] = mine.get(message.outcome, 0) + 1
    counted, kept = counts(demo.settings), stored(demo.settings)
    result: dict[str, Any] = {}
    for topic in KINDS:
        expected, found = produced[topic], counted[topic]
        refused = {reason: count for reason, count in sorted(found["refused"].items()) if count}
        result[topic] = {
            "produced": sum(expected.values()),
            "landed": found["landed"],
            "duplicates": found["duplicates"],
            "replaced": found["replaced"],
            "refused": refused,
        }
        total = found["landed"] + found["duplicates"] + found["replaced"] + sum(refused.values())
        if total != sum(expected.values()):
            wrong.append(f"{topic}: {sum(expected.values())} produced, {total} accounted for")
        said = {"landed": found["landed"], "duplicate": found["duplicates"], **refused}
        if said != expected:
            wrong.append(f"{topic}: outcomes {said}, expected {expected}")
        if kept[topic]["landed"] != found["landed"]:
            wrong.append(f"{topic}: {kept[topic]['landed']} documents in MongoDB, {found['landed']} landed")
    return result


def _energy_difference(demo: Demo, wrong: list[str]) -> float:
    """Compare every panel's energy of every reported hour in Druid with the independent computation."""
    from selfgen.clients import druid

    zones = {
        panel: client.time_zone
        for panel, client in zip(demo.fleet.ids("panel"), demo.fleet.owners("panel"), strict=True)
    }
    computed = oracle.panel_energy(demo.messages(), zones)
    computed = computed[(computed["start"] >= demo.start) & (computed["start"] < demo.end)]
    rows = druid.query(
        demo.settings,
        'SELECT panel_id, TIMESTAMP_TO_MILLIS(__time) AS ms, power_gen AS energy FROM "panel_report"',
    )
    reported = pd.DataFrame(rows, columns=["panel_id", "ms", "energy"])
    reported["start"] = pd.to_datetime(reported.pop("ms"), unit="ms", utc=True)
    if reported.duplicated(["panel_id", "start"]).any():
        wrong.append("panel_report has an hour of a panel twice")
    difference = oracle.energy_difference(reported, computed)
    if difference > TOLERANCE_WH:
        wrong.append(f"panel energy differs by {difference} Wh from the independent computation")
    demo.report["energy_wh"] = float(computed["energy"].sum())
    return round(difference, 6)


def count_wind(demo: Demo, wrong: list[str]) -> dict[str, int]:
    """Compare the samples of all wind windows in Druid with the distinct readings that were sent."""
    from selfgen.clients import druid

    live = list(read_lines(demo.folder / "live.jsonl"))
    expected, until_ms = oracle.wind_readings(live, demo.settings.wind_watermark_delay_ms)
    since_ms = min(message.event_ms for message in live if message.topic == "wind")
    sql = (
        "SELECT SUM(samples) AS samples FROM wind_report "
        "WHERE TIMESTAMP_TO_MILLIS(__time) >= %(since)s AND TIMESTAMP_TO_MILLIS(__time) < %(until)s"
    )
    found = 0
    for attempt in awaiting(demo, PATIENCE_S + 30):
        with attempt:
            try:
                rows = druid.query(demo.settings, sql, {"since": since_ms // 1000 * 1000, "until": until_ms})
                found = int(rows[0]["samples"] or 0)
            except druid.DruidError:  # it has been restarted, and its tasks begin again
                found = 0
            if found < expected and (attempt.retry_state.seconds_since_start or 0) < PATIENCE_S:
                raise NotYet(f"{found} of {expected} wind readings are in windows")
    if found != expected:
        wrong.append(f"wind: {expected} distinct readings sent, {found} in the windows of Druid")
    return {"sent": expected, "in_windows": found}


def _addresses(settings: Settings) -> dict[str, str]:
    from selfgen.clients.superset import dashboard_url

    return {
        "dashboard": dashboard_url(settings),
        "superset": settings.superset,
        "superset_password_file": str(settings.stack_dir / "superset" / "superset-admin-password"),
        "flink": f"http://{settings.flink}",
        "druid": settings.broker,
        "kafka": settings.bootstrap_servers,
        "mongodb": settings.mongodb,
    }
