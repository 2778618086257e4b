"""RichSensorWind: topic `wind` → one-second windows for each sensor, with place and owner → topic `wind_rich`.

    wind ─► what the contract takes ─► each once ─┬─► in time: 1 s windows ─► enrichment valid then ─► wind_rich
                                                  └─► too late for its window ──────────────────────► wind_late

All of it is Flink SQL but the enrichment, a vectorised look-up in the registry's cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flink_jobs import contract, keeper, runtime
from selfgen.columns import DATASOURCES, ENRICHMENT
from selfgen.messages import MAX_AHEAD_MS
from selfgen.settings import Settings

if TYPE_CHECKING:
    from pyflink.table import StatementSet, StreamTableEnvironment

NAME = "rich_sensor_wind"

#: A late reading, and how many whole seconds of event time the others were past it.
LATE_DDL = "`timestamp` BIGINT, wind_id STRING, wind_speed DOUBLE, wind_direction DOUBLE, late_s BIGINT"

#: A mean vector of so little of the way that the wind went has no direction: calm, or winds that cancel out.
NO_DIRECTION = 1e-9

#: The time of a reading that is too far ahead to have one.
NO_TIME = "TO_TIMESTAMP_LTZ(0, 3)"


def epoch_ms(time: str) -> str:
    """Return epoch ms of a SQL timestamp; the session's time zone is UTC."""
    return f"1000 * EXTRACT(EPOCH FROM {time}) + EXTRACT(MILLISECOND FROM {time})"


def columns(settings: Settings) -> str:
    """Return the source's columns.

    A reading far ahead of the broker's clock gets the time 1970: it moves no watermark (which may not be NULL), and is
    left out of the windows. One that is a little ahead moves the watermark only to when the broker had it, so that a
    fast clock does not make the other sensors late.
    """
    ahead = f"appended_at + INTERVAL '{MAX_AHEAD_MS // 1000}' SECOND(3)"
    delay = f"INTERVAL '{settings.wind_watermark_delay_ms / 1000:.3f}' SECOND"
    return f"""
        {contract.columns("wind")},
        appended_at TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
        event_time AS CASE WHEN `timestamp` <= {ahead} THEN `timestamp` ELSE {NO_TIME} END,
        WATERMARK FOR event_time AS LEAST(event_time, appended_at) - {delay}"""


def create_source(env: StreamTableEnvironment, settings: Settings, **options: str) -> str:
    """Create the table of topic `wind`; without a checkpoint it is read from its first message.

    Parameters
    ----------
    **options
        Of the Kafka connector, over the job's own.
    """
    own = contract.options("wind") | {
        "scan.startup.mode": "earliest-offset",
        "scan.watermark.idle-timeout": f"{settings.wind_idle_s} s",
    }
    source = runtime.kafka_source(settings, "wind", NAME, **own | options)
    env.execute_sql(f"CREATE TABLE wind ({columns(settings)}) WITH ({source})")
    return "wind"


def create_sinks(env: StreamTableEnvironment, settings: Settings) -> tuple[str, str]:
    """Create the tables of topics `wind_rich`, whose messages are made before, and `wind_late`."""
    rich = runtime.kafka_sink(
        settings, "wind_rich", "wind_id", **{"value.format": "raw", "value.fields-include": "EXCEPT_KEY"}
    )
    env.execute_sql(f"CREATE TABLE wind_rich (wind_id STRING, message STRING) WITH ({rich})")
    late = runtime.kafka_sink(settings, "wind_late", "wind_id")
    env.execute_sql(f"CREATE TABLE wind_late ({LATE_DDL}) WITH ({late})")
    return "wind_rich", "wind_late"


def enrichment(settings: Settings):
    """Return the vectorised look-up `(wind_id, event_ms) → JSON members of the enrichment`, valid at the event time.

    As JSON, for they go into the message as they are: a thousand windows have the same ones each second, and columns
    would be made, carried over from Python and written anew for each.
    """
    from pyflink.table import DataTypes
    from pyflink.table.udf import ScalarFunction, udf

    class Enrich(ScalarFunction):
        def open(self, function_context):
            self.registry = runtime.open_registry(settings, function_context.get_metric_group())

        def eval(self, wind_ids, event_ms):
            import pandas as pd

            return pd.Series(self.registry.texts("wind", wind_ids.to_numpy(), event_ms.to_numpy()), dtype=object)

    return udf(Enrich(), result_type=DataTypes.STRING(), func_type="pandas")


def message() -> str:
    """Return the SQL of an enriched window's message: the columns of `wind_report`, as JSON."""
    own = [column for column in DATASOURCES["wind_report"] if column not in ENRICHMENT]
    texts = {  # JSON_QUOTE would write an emoji as two wrong characters
        column.name: f"JSON_STRING({column.name})"
        if column.type == "string"
        else f"COALESCE(CAST({column.name} AS STRING), 'null')"
        for column in own
    }
    members = ", ".join(f"""',"{name}":', {text}""" for name, text in texts.items())
    return f"""CONCAT('{{"timestamp":', CAST(start_ms AS STRING), {members}, ',', place, '}}')"""


def create_views(env: StreamTableEnvironment, settings: Settings, source: str, enrich) -> None:
    """Create what lies between a table of readings and its enriched windows, the view `enriched`.

    Each reading is told apart once, after duplicates were taken out, so that it is in one of the views `in_time` and
    `late`, never in both.
    """
    from pyflink.java_gateway import get_gateway

    env.create_temporary_function("enrich", enrich)
    readings = env.sql_query(
        f"SELECT wind_id, event_time, wind_speed, wind_direction FROM {source} WHERE event_time <> {NO_TIME}"
    )
    first_arrivals = get_gateway().jvm.selfgen.flink.FirstArrivals
    kept_ms = settings.wind_duplicate_s * 1000
    first_arrivals.createViews(env._j_tenv, readings._j_table, kept_ms, "in_time", "late")
    env.execute_sql("""
        CREATE TEMPORARY VIEW windowed AS
        SELECT wind_id, window_start,
               AVG(wind_speed) AS wind_speed, MAX(wind_speed) AS wind_gust, MIN(wind_speed) AS wind_min,
               SUM(wind_speed * SIN(RADIANS(wind_direction))) AS east,
               SUM(wind_speed * COS(RADIANS(wind_direction))) AS north,
               COUNT(*) AS samples
        FROM TABLE(TUMBLE(TABLE in_time, DESCRIPTOR(event_time), INTERVAL '1' SECOND))
        GROUP BY window_start, window_end, wind_id""")
    env.execute_sql(f"""
        CREATE TEMPORARY VIEW enriched AS
        SELECT wind_id, start_ms, wind_speed, wind_gust, wind_min, wind_direction, samples,
               enrich(wind_id, start_ms) AS place
        FROM (SELECT wind_id, 1000 * EXTRACT(EPOCH FROM window_start) AS start_ms,
                     wind_speed, wind_gust, wind_min, samples,
                     CASE WHEN angle < 360 THEN angle WHEN angle >= 360 THEN 0E0 END AS wind_direction
              FROM (SELECT *, CASE WHEN SQRT(east * east + north * north) > {NO_DIRECTION} * samples * wind_speed
                                   THEN 180 + DEGREES(ATAN2(-east, -north)) END AS angle
                    FROM windowed))""")


def build_pipeline(
    env: StreamTableEnvironment, settings: Settings, source: str, sink: str, late: str, enrich
) -> StatementSet:
    """Return the job from a table of readings to a table of enriched windows and one of late readings."""
    create_views(env, settings, source, enrich)
    job = env.create_statement_set()
    job.add_insert_sql(f"INSERT INTO {sink} SELECT wind_id, {message()} FROM enriched")
    job.add_insert_sql(f"""
        INSERT INTO {late}
        SELECT {epoch_ms("event_time")}, wind_id, wind_speed, wind_direction, late_s
        FROM late""")
    return job


def submit(settings: Settings, restore_from: str | None) -> None:
    """Submit the job to the cluster."""
    env = runtime.streaming(settings, NAME, restore_from)
    source = create_source(env, settings)
    build_pipeline(env, settings, source, *create_sinks(env, settings), enrichment(settings)).execute()


if __name__ == "__main__":
    keeper.main(NAME, __doc__, submit)
