"""WriteSensorWind: topic `wind_rich` → topics `wind_report` and `wind_alarm`, which Druid takes in as they come.

wind_rich ─┬─► wind_report
           └─► own thresholds ─► by area: who moved last ─► by sensor: incidents raised, cleared ─► wind_alarm

The alarms' definitions are those of `selfgen.wind_alarms`; here are only their state, their timers and their order.
Sensors, and areas, are keyed by groups of them: what Python changes of a key's state goes to Flink once for each bundle
of windows, and with a key for each sensor that took most of the job's time.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from flink_jobs import keeper, runtime
from flink_jobs.passage import Passage
from selfgen.columns import DATASOURCES
from selfgen.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pyflink.table import StatementSet, StreamTableEnvironment

    from couchbase_admin.registry import Registry

NAME = "write_sensor_wind"
WINDOW_COLUMNS = ("timestamp", *(column.name for column in DATASOURCES["wind_report"]))
ALARM_COLUMNS = ("timestamp", *(column.name for column in DATASOURCES["wind_alarm"]))
#: As many tasks can share the alarms at most. States are kept by it: another number does not find them.
GROUPS = 16
#: Sensors that are to be looked at within so many ms are looked at together.
_TOGETHER_MS = 100


def group_of(name: str) -> int:
    """Return the group of a sensor, or of an area."""
    return zlib.crc32(name.encode()) % GROUPS


def create_source(env: StreamTableEnvironment, settings: Settings, **options: str) -> str:
    """Create the table of topic `wind_rich`; without a checkpoint it is read from its first window.

    Parameters
    ----------
    **options
        Of the Kafka connector, over the job's own.
    """
    own = {"scan.startup.mode": "earliest-offset"}
    source = runtime.kafka_source(settings, "wind_rich", NAME, **own | options)
    columns = f"{runtime.ddl(DATASOURCES['wind_report'])}, kafka_partition INT METADATA FROM 'partition' VIRTUAL"
    env.execute_sql(f"CREATE TABLE wind_rich ({columns}) WITH ({source})")
    return "wind_rich"


def create_sink(env: StreamTableEnvironment, settings: Settings, topic: str) -> str:
    """Create the table of a topic that Druid takes in."""
    sink = runtime.kafka_sink(settings, topic, "wind_id")
    env.execute_sql(f"CREATE TABLE {topic} ({runtime.ddl(DATASOURCES[topic])}) WITH ({sink})")
    return topic


def own_thresholds(settings: Settings):
    """Return the vectorised look-up `(wind_id, event_ms) → JSON text` of what concerns alarms in `variable_data`.

    It is NULL where nothing is known because Couchbase is away: then what was known before holds.
    """
    from pyflink.table import DataTypes
    from pyflink.table.udf import ScalarFunction, udf

    class OwnThresholds(ScalarFunction):
        def open(self, function_context):
            self.registry = runtime.open_registry(settings, function_context.get_metric_group())

        def eval(self, wind_ids, event_ms):
            import pandas as pd

            return pd.Series(own_texts(self.registry, wind_ids.to_numpy(), event_ms.to_numpy()), dtype=object)

    return udf(OwnThresholds(), result_type=DataTypes.STRING(), func_type="pandas")


def own_texts(registry: Registry, wind_ids: Sequence[str], event_ms: Sequence[int]) -> list[str | None]:
    """Look up what `own_thresholds` returns."""
    import msgspec

    found = registry.variable_data("wind", wind_ids, event_ms)
    return [
        None if data is None else msgspec.json.encode({"alarms": data.get("alarms", {})}).decode() for data in found
    ]


def area_of(window: Mapping[str, Any]) -> str:
    """Return the area of a window's sensor; one without an area has no neighbours."""
    return window["postal_code"] or f"\0{window['wind_id']}"


def area_function():
    """Return the keyed function: windows of a group of areas → each with when its neighbours moved."""
    import msgspec
    from pyflink.common import Types
    from pyflink.datastream import KeyedProcessFunction
    from pyflink.datastream.state import MapStateDescriptor

    from selfgen.thresholds import WindThresholds
    from selfgen.wind_alarms import Mover, follow_area

    class Area(KeyedProcessFunction):
        def open(self, runtime_context):
            self.anchors = runtime_context.get_map_state(MapStateDescriptor("anchors", Types.STRING(), Types.DOUBLE()))
            self.movers = runtime_context.get_map_state(MapStateDescriptor("movers", Types.STRING(), Types.STRING()))

        def process_element(self, value, ctx):
            window, partition, own = value
            area = area_of(window)
            sensor = f"{area}\0{window['wind_id']}"
            text, before = self.movers.get(area), self.anchors.get(sensor)
            movers = msgspec.json.decode(text, type=list[Mover]) if text else []
            anchor, after, neighbours = follow_area(before, movers, window, WindThresholds.read(own).stuck)
            if anchor != before:
                self.anchors.put(sensor, anchor)
            if after != movers:
                self.movers.put(area, msgspec.json.encode(after).decode())
            yield window, partition, own, neighbours

    return Area()


def alarm_function(settings: Settings):
    """Return the keyed function: windows of a group of sensors → their alarms.

    A processing-time timer asks whether sensors are silent. Each is looked at when its `look_at` comes, which a look
    moves on, and a window only to where it is looked at sooner; the timer is set for the next of a group. After a
    restart it fires for all of the time it was away. Of a silent sensor it looks up the own thresholds, which no window
    brings. Where the other sensors are silent too, Kafka is asked whether something is still on its way. One that
    nobody has any more may be silent: what was open is cleared, and only a window has it watched again. What is silent
    for long without an incident is forgotten.
    """
    import msgspec
    import pandas as pd
    from pyflink.common import Types
    from pyflink.datastream import KeyedProcessFunction
    from pyflink.datastream.state import MapStateDescriptor

    from couchbase_admin.registry import Registry
    from selfgen.registry import Unavailable
    from selfgen.thresholds import WindThresholds
    from selfgen.wind_alarms import (
        Kept,
        Looks,
        Progress,
        as_far_as,
        follow,
        give_up,
        is_abandoned,
        is_forgotten,
        is_overdue,
        next_look_s,
        silence,
    )

    class Alarms(KeyedProcessFunction):
        def open(self, runtime_context):
            self.state = runtime_context.get_map_state(MapStateDescriptor("sensors", Types.STRING(), Types.STRING()))
            self.looks = {}  # by group
            self.progress = Progress()
            self.passage = Passage(settings)
            self.registry = Registry(settings)
            group = runtime_context.get_metrics_group()
            self.counts = {state: group.counter(f"selfgen_alarms_{state}") for state in ("raised", "cleared")}
            for count in self.counts.values():
                count.inc(0)  # Flink hears of a counter of Python once it has counted

        def process_element(self, value, ctx):
            window, partition, own, neighbours = value
            wind_id, looks = window["wind_id"], self._looks(ctx)
            kept = self._kept(wind_id)
            kept.own, kept.alone = kept.own if own is None else own, kept.alone or partition != kept.partition
            kept.partition = partition
            kept.heard_at = ctx.timer_service().current_processing_time()
            self.progress.note(partition, wind_id, window["timestamp"])
            thresholds = WindThresholds.read(kept.own)
            kept.sensor, rows = follow(kept.sensor, window, thresholds, neighbours)
            look_at = self._next_look(kept, self.progress.of(kept), thresholds, kept.heard_at)
            if kept.look_at is None or look_at < kept.look_at:
                kept.look_at = look_at
                looks.add(wind_id, look_at)
                self._wake(ctx, looks)
            yield from self._keep(wind_id, kept, rows)

        def on_timer(self, timestamp, ctx):
            looks, now = self._looks(ctx), ctx.timer_service().current_processing_time()
            if timestamp == looks.woken_at:
                looks.woken_at = None
            for wind_id, at in looks.due(now):
                kept = self._kept(wind_id)
                if kept.look_at == at:  # or it was to be looked at sooner, and was
                    yield from self._look(wind_id, kept, looks, now)
            self._wake(ctx, looks)

        def _look(self, wind_id, kept, looks, now):
            silent_ms = now - (kept.heard_at or now)
            at = kept.sensor.last + silent_ms
            if is_forgotten(kept.sensor, silent_ms):
                self.state.remove(wind_id)
                return []
            if silent_ms > settings.registry_ttl_s * 1000:
                [own] = own_texts(self.registry, [wind_id], [at])
                kept.own = kept.own if own is None else own
            thresholds = WindThresholds.read(kept.own)
            self.progress.note(kept.partition, wind_id)
            others = self.progress.of(kept)
            if is_overdue(kept, others, now, thresholds):
                others = as_far_as(kept, self.passage.passed_ms()) or others
            sensor, rows = silence(kept.sensor, others, thresholds)
            if rows:
                at = rows[0]["timestamp"]
            if (rows or is_abandoned(sensor, silent_ms, thresholds)) and self._is_given_up(wind_id, at):
                sensor, rows = give_up(kept.sensor, at)
            kept.sensor = sensor
            kept.look_at = self._next_look(kept, others, thresholds, now)
            looks.add(wind_id, kept.look_at)
            return self._keep(wind_id, kept, rows)

        def _is_given_up(self, wind_id, at_ms):
            try:
                periods = self.registry.history("wind", [wind_id])
            except Unavailable:  # it may be somebody's
                return False
            at = pd.Timestamp(at_ms, unit="ms", tz="UTC")
            return len(periods) > 0 and not (periods["end"].isna() | (periods["end"] > at)).any()

        def _next_look(self, kept, others, thresholds, now):
            return now + round(1000 * next_look_s(kept.sensor, others, thresholds, now - (kept.heard_at or now)))

        def _wake(self, ctx, looks):
            if looks.next is None:
                return
            at = -(-looks.next // _TOGETHER_MS) * _TOGETHER_MS
            if looks.woken_at is not None:
                if looks.woken_at <= at:
                    return
                ctx.timer_service().delete_processing_time_timer(looks.woken_at)
            ctx.timer_service().register_processing_time_timer(at)
            looks.woken_at = at

        def _looks(self, ctx):
            group = ctx.get_current_key()
            if group not in self.looks:  # the first time since the start
                before = [(wind_id, self._read(text).look_at) for wind_id, text in self.state.items()]
                self.looks[group] = Looks((wind_id, at) for wind_id, at in before if at is not None)
            return self.looks[group]

        def _kept(self, wind_id):
            text = self.state.get(wind_id)
            return self._read(text) if text else Kept()

        def _read(self, text):
            return msgspec.json.decode(text, type=Kept)

        def _keep(self, wind_id, kept, rows):
            self.state.put(wind_id, msgspec.json.encode(kept).decode())
            for row in rows:
                self.counts[row["state"]].inc()
            return [tuple(row[name] for name in ALARM_COLUMNS) for row in rows]

    return Alarms()


def build_pipeline(
    env: StreamTableEnvironment, settings: Settings, source: str, report: str, alarm: str, thresholds
) -> StatementSet:
    """Return the job from a table of enriched windows to tables of reports and alarms."""
    from pyflink.common import Row, Types

    kinds = {"string": Types.STRING(), "double": Types.DOUBLE(), "long": Types.LONG()}
    row_type = Types.ROW_NAMED(
        list(ALARM_COLUMNS), [Types.LONG(), *(kinds[column.type] for column in DATASOURCES["wind_alarm"])]
    )
    env.create_temporary_function("own_thresholds", thresholds)
    names = ", ".join(f"`{name}`" for name in WINDOW_COLUMNS)
    windows = env.sql_query(f"""
        SELECT {names}, kafka_partition, own_thresholds(wind_id, `timestamp`) AS own FROM {source}
        WHERE wind_id IS NOT NULL AND `timestamp` IS NOT NULL AND wind_speed IS NOT NULL AND wind_gust IS NOT NULL""")

    def parted(row):
        *columns, partition, own = row
        return dict(zip(WINDOW_COLUMNS, columns, strict=True)), partition, own

    alarms = (
        env.to_data_stream(windows)
        .map(parted)
        .key_by(lambda value: group_of(area_of(value[0])), key_type=Types.INT())
        .process(area_function())
        .key_by(lambda value: group_of(value[0]["wind_id"]), key_type=Types.INT())
        .process(alarm_function(settings))
        .map(lambda values: Row(*values), output_type=row_type)
    )
    env.create_temporary_view("alarm", env.from_data_stream(alarms))
    job = env.create_statement_set()
    job.add_insert_sql(f"INSERT INTO {report} SELECT {names} FROM {source}")
    job.add_insert_sql(f"INSERT INTO {alarm} SELECT {', '.join(f'`{name}`' for name in ALARM_COLUMNS)} FROM alarm")
    return job


def submit(settings: Settings, restore_from: str | None) -> None:
    """Submit the job to the cluster."""
    env = runtime.streaming(settings, NAME, restore_from)
    source = create_source(env, settings)
    report, alarm = (create_sink(env, settings, topic) for topic in ("wind_report", "wind_alarm"))
    build_pipeline(env, settings, source, report, alarm, own_thresholds(settings)).execute()


if __name__ == "__main__":
    keeper.main(NAME, __doc__, submit)
