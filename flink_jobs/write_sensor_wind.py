"""WriteSensorWind: topic `wind_rich` → topics `wind_report` and `wind_alarm`, which Druid takes in as they come.

wind_rich ─┬─► wind_report
           └─► own thresholds ─► by area: who moved last ─► by sensor: incidents raised, cleared ─► wind_alarm

The alarms' definitions are those of `selfgen.wind_alarms`; here are only their state, their timers and their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flink_jobs import keeper, runtime
from flink_jobs.passage import Passage
from selfgen.columns import DATASOURCES
from selfgen.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyflink.table import StatementSet, StreamTableEnvironment

    from couchbase_admin.registry import Registry

NAME = "write_sensor_wind"
WINDOW_COLUMNS = ("timestamp", *(column.name for column in DATASOURCES["wind_report"]))
ALARM_COLUMNS = ("timestamp", *(column.name for column in DATASOURCES["wind_alarm"]))


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


def area_function():
    """Return the keyed function: windows of one area → each with when its neighbours moved."""
    import msgspec
    from pyflink.common import Types
    from pyflink.datastream import KeyedProcessFunction
    from pyflink.datastream.state import MapStateDescriptor, ValueStateDescriptor

    from selfgen.thresholds import WindThresholds
    from selfgen.wind_alarms import Mover, follow_area

    class Area(KeyedProcessFunction):
        def open(self, runtime_context):
            self.anchors = runtime_context.get_map_state(MapStateDescriptor("anchors", Types.STRING(), Types.DOUBLE()))
            self.movers = runtime_context.get_state(ValueStateDescriptor("movers", Types.STRING()))

        def process_element(self, value, ctx):
            window, partition, own = value
            text, before = self.movers.value(), self.anchors.get(window["wind_id"])
            movers = msgspec.json.decode(text, type=list[Mover]) if text else []
            anchor, after, neighbours = follow_area(before, movers, window, WindThresholds.read(own).stuck)
            if anchor != before:
                self.anchors.put(window["wind_id"], anchor)
            if after != movers:
                self.movers.update(msgspec.json.encode(after).decode())
            yield window, partition, own, neighbours

    return Area()


def alarm_function(settings: Settings):
    """Return the keyed function: windows of one sensor → its alarms.

    A processing-time timer asks whether a sensor is silent. It is set again by itself, and by a window only where that
    has it looked at sooner; there is never more than one, at `look_at`. After a restart it fires for all of the time it
    was away. Of a silent sensor it looks up the own thresholds, which no window brings. Where the other sensors are
    silent too, Kafka is asked whether something is still on its way. One that nobody has any more may be silent: what
    was open is cleared, and only a window has it watched again. What is silent for long without an incident is
    forgotten.
    """
    import msgspec
    import pandas as pd
    from pyflink.common import Types
    from pyflink.datastream import KeyedProcessFunction
    from pyflink.datastream.state import ValueStateDescriptor

    from couchbase_admin.registry import Registry
    from selfgen.registry import Unavailable
    from selfgen.thresholds import WindThresholds
    from selfgen.wind_alarms import (
        Kept,
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
            self.state = runtime_context.get_state(ValueStateDescriptor("sensor", Types.STRING()))
            self.progress = Progress()
            self.passage = Passage(settings)
            self.registry = Registry(settings)
            group = runtime_context.get_metrics_group()
            self.counts = {state: group.counter(f"selfgen_alarms_{state}") for state in ("raised", "cleared")}
            for count in self.counts.values():
                count.inc(0)  # Flink hears of a counter of Python once it has counted

        def process_element(self, value, ctx):
            window, partition, own, neighbours = value
            kept = self._kept()
            kept.partition, kept.own = partition, kept.own if own is None else own
            kept.heard_at = ctx.timer_service().current_processing_time()
            self.progress.note(partition, window["wind_id"], window["timestamp"])
            thresholds = WindThresholds.read(kept.own)
            kept.sensor, rows = follow(kept.sensor, window, thresholds, neighbours)
            look_at = self._next_look(kept, self.progress.of(partition), thresholds, kept.heard_at)
            if kept.look_at is None or look_at < kept.look_at:
                self._look(kept, ctx, look_at)
            yield from self._keep(kept, rows)

        def on_timer(self, timestamp, ctx):
            kept, wind_id, now = self._kept(), ctx.get_current_key(), ctx.timer_service().current_processing_time()
            silent_ms = now - (kept.heard_at or now)
            at = kept.sensor.last + silent_ms
            if is_forgotten(kept.sensor, silent_ms):
                self.state.clear()
                return []
            if silent_ms > settings.registry_ttl_s * 1000:
                [own] = own_texts(self.registry, [wind_id], [at])
                kept.own = kept.own if own is None else own
            thresholds = WindThresholds.read(kept.own)
            self.progress.note(kept.partition, wind_id)
            others = self.progress.of(kept.partition)
            if is_overdue(kept, others, now, thresholds):
                others = as_far_as(kept, self.passage.passed_ms()) or others
            sensor, rows = silence(kept.sensor, others, thresholds)
            if rows:
                at = rows[0]["timestamp"]
            if (rows or is_abandoned(sensor, silent_ms, thresholds)) and self._is_given_up(wind_id, at):
                sensor, rows = give_up(kept.sensor, at)
            kept.sensor = sensor
            self._look(kept, ctx, self._next_look(kept, others, thresholds, now))
            return self._keep(kept, rows)

        def _is_given_up(self, wind_id, at_ms):
            try:
                periods = self.registry.history("wind", [wind_id])
            except Unavailable:  # it may be somebody's
                return False
            at = pd.Timestamp(at_ms, unit="ms", tz="UTC")
            return len(periods) > 0 and not (periods["end"].isna() | (periods["end"] > at)).any()

        def _next_look(self, kept, others, thresholds, now):
            return now + round(1000 * next_look_s(kept.sensor, others, thresholds, now - (kept.heard_at or now)))

        def _look(self, kept, ctx, at):
            if kept.look_at is not None:
                ctx.timer_service().delete_processing_time_timer(kept.look_at)
            ctx.timer_service().register_processing_time_timer(at)
            kept.look_at = at

        def _kept(self):
            text = self.state.value()
            return msgspec.json.decode(text, type=Kept) if text else Kept()

        def _keep(self, kept, rows):
            self.state.update(msgspec.json.encode(kept).decode())
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

    def area(value):
        # a sensor without an area has no neighbours
        return value[0]["postal_code"] or f"\0{value[0]['wind_id']}"

    alarms = (
        env.to_data_stream(windows)
        .map(parted)
        .key_by(area, key_type=Types.STRING())
        .process(area_function())
        .key_by(lambda value: value[0]["wind_id"], key_type=Types.STRING())
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
