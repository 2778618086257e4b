"""WriteSensorWind: topic `wind_rich` → topics `wind_report` and `wind_alarm`, which Druid takes in as they come.

wind_rich ─┬─► wind_report
           └─► windows by sensor ─► high wind raised, cleared ─► wind_alarm
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from flink_jobs import keeper, runtime
from selfgen.columns import DATASOURCES
from selfgen.settings import Settings

if TYPE_CHECKING:
    from pyflink.table import StatementSet, StreamTableEnvironment

NAME = "write_sensor_wind"
WINDOW_COLUMNS = ("timestamp", *(column.name for column in DATASOURCES["wind_report"]))
ALARM_COLUMNS = ("timestamp", *(column.name for column in DATASOURCES["wind_alarm"]))


def create_source(env: StreamTableEnvironment, settings: Settings) -> str:
    """Create the table of topic `wind_rich`."""
    source = runtime.kafka_source(settings, "wind_rich", NAME, **{"scan.startup.mode": "earliest-offset"})
    env.execute_sql(f"CREATE TABLE wind_rich ({runtime.ddl(DATASOURCES['wind_report'])}) WITH ({source})")
    return "wind_rich"


def create_sink(env: StreamTableEnvironment, settings: Settings, topic: str) -> str:
    """Create the table of a topic that Druid takes in."""
    sink = runtime.kafka_sink(settings, topic, "wind_id")
    env.execute_sql(f"CREATE TABLE {topic} ({runtime.ddl(DATASOURCES[topic])}) WITH ({sink})")
    return topic


def alarm_function():
    """Return the keyed function: windows of one sensor → its alarms; the state is `selfgen.alarms`' own, as JSON."""
    from pyflink.common import Types
    from pyflink.datastream import KeyedProcessFunction
    from pyflink.datastream.state import ValueStateDescriptor

    from selfgen.alarms import high_wind

    class Alarms(KeyedProcessFunction):
        def open(self, runtime_context):
            self.state = runtime_context.get_state(ValueStateDescriptor("high_wind", Types.STRING()))

        def process_element(self, value, ctx):
            kept = self.state.value()
            state, events = high_wind(json.loads(kept) if kept else None, dict(zip(WINDOW_COLUMNS, value, strict=True)))
            self.state.update(json.dumps(state))
            for event in events:
                yield tuple(event[name] for name in ALARM_COLUMNS)

    return Alarms()


def build_pipeline(env: StreamTableEnvironment, source: str, report: str, alarm: str) -> StatementSet:
    """Return the job from a table of enriched windows to tables of reports and alarms."""
    from pyflink.common import Row, Types

    kinds = {"string": Types.STRING(), "double": Types.DOUBLE(), "long": Types.LONG()}
    row_type = Types.ROW_NAMED(
        list(ALARM_COLUMNS), [Types.LONG(), *(kinds[column.type] for column in DATASOURCES["wind_alarm"])]
    )
    windows = env.to_data_stream(env.from_path(source))
    alarms = (
        windows.key_by(lambda row: row[WINDOW_COLUMNS.index("wind_id")], key_type=Types.STRING())
        .process(alarm_function())
        .map(lambda values: Row(*values), output_type=row_type)
    )
    env.create_temporary_view("alarm", env.from_data_stream(alarms))
    names = ", ".join(f"`{name}`" for name in WINDOW_COLUMNS)
    job = env.create_statement_set()
    job.add_insert_sql(f"INSERT INTO {report} SELECT {names} FROM {source}")
    job.add_insert_sql(f"INSERT INTO {alarm} SELECT {', '.join(f'`{name}`' for name in ALARM_COLUMNS)} FROM alarm")
    return job


def submit(settings: Settings, restore_from: str | None) -> None:
    """Submit the job to the cluster."""
    env = runtime.streaming(settings, NAME, restore_from)
    source = create_source(env, settings)
    report, alarm = (create_sink(env, settings, topic) for topic in ("wind_report", "wind_alarm"))
    build_pipeline(env, source, report, alarm).execute()


if __name__ == "__main__":
    keeper.main(NAME, __doc__, submit)
