"""RichSensorWind: topic `wind` → one-second windows for each sensor, with place and owner → topic `wind_rich`.

    wind ─► well-formed readings ─► each once ─┬─► in time: 1 s windows ─► enrichment valid at the window ─► wind_rich
                                               └─► too late for its window ────────────────────────────────► wind_late

All of it is Flink SQL but the enrichment, a vectorised look-up in the registry's cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flink_jobs import keeper, runtime
from flink_jobs.contract import element_id, known_fields, known_time, limits, number, well_formed
from selfgen.columns import DATASOURCES, ENRICHMENT
from selfgen.messages import MAX_AHEAD_MS
from selfgen.settings import Settings

if TYPE_CHECKING:
    from pyflink.table import StatementSet, StreamTableEnvironment

NAME = "rich_sensor_wind"

#: A late reading, and how many whole seconds of event time the others were past it.
LATE_DDL = "`timestamp` BIGINT, wind_id STRING, wind_speed DOUBLE, wind_direction DOUBLE, late_s BIGINT"

#: Whether a reading's window has closed: the very condition on which Flink drops it.
IS_LATE = """COALESCE(
    CURRENT_WATERMARK(event_time) >= FLOOR(event_time TO SECOND) + INTERVAL '0.999' SECOND, FALSE)"""


def event_ms(time: str) -> str:
    """Return epoch ms of a text that is RFC 3339 with an offset, or epoch ms already; else NULL."""
    return rf"""
        CASE WHEN REGEXP({time}, '^[0-9]{{1,15}}$') THEN CAST({time} AS BIGINT)
             WHEN REGEXP({time}, '^\d{{4}}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$') THEN
                 UNIX_TIMESTAMP(CONCAT(SUBSTRING({time}, 1, 10), ' ', SUBSTRING({time}, 12, 8))) * 1000
                 + COALESCE(CAST(RPAD(REGEXP_EXTRACT({time}, '\.(\d{{1,3}})', 1), 3, '0') AS BIGINT), 0)
                 - COALESCE(
                     CAST(CONCAT(REGEXP_EXTRACT({time}, '([+-])\d\d:\d\d$', 1), '1') AS BIGINT) * 60000 * (
                         60 * CAST(REGEXP_EXTRACT({time}, '[+-](\d\d):\d\d$', 1) AS BIGINT)
                         + CAST(REGEXP_EXTRACT({time}, '[+-]\d\d:(\d\d)$', 1) AS BIGINT)), 0)
        END"""


def epoch_ms(time: str) -> str:
    """Return epoch ms of a SQL timestamp; the session's time zone is UTC."""
    return f"1000 * UNIX_TIMESTAMP(CAST({time} AS STRING)) + EXTRACT(MILLISECOND FROM {time})"


def columns(settings: Settings) -> str:
    """Return the source's columns.

    A reading without a usable time, or far ahead of the broker's clock, gets the time 1970: it moves no watermark
    (which may not be NULL), and is left out of the windows. One that is a little ahead moves the watermark only to
    when the broker had it, so that a fast clock does not make the other sensors late.
    """
    # one computed column cannot refer to another
    text = "CAST(message AS STRING)"
    sent = event_ms(f"JSON_VALUE({text}, '$.timestamp')")
    event_time = f"TO_TIMESTAMP_LTZ({sent}, 3)"
    ahead = f"appended_at + INTERVAL '{MAX_AHEAD_MS // 1000}' SECOND(3)"
    delay = f"INTERVAL '{settings.wind_watermark_delay_ms / 1000:.3f}' SECOND"
    return f"""
        message BYTES,
        text AS {text},
        appended_at TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
        arrival AS PROCTIME(),
        event_time AS CASE WHEN {event_time} <= {ahead} THEN {event_time} ELSE TO_TIMESTAMP_LTZ(0, 3) END,
        WATERMARK FOR event_time AS LEAST(event_time, appended_at) - {delay}"""


def create_source(env: StreamTableEnvironment, settings: Settings, **options: str) -> str:
    """Create the table of topic `wind`; without a checkpoint it is read from its first message.

    Parameters
    ----------
    **options
        Of the Kafka connector, over the job's own.
    """
    own = {
        "format": "raw",
        "scan.startup.mode": "earliest-offset",
        "scan.watermark.idle-timeout": f"{settings.wind_idle_s} s",
    }
    source = runtime.kafka_source(settings, "wind", NAME, **own | options)
    env.execute_sql(f"CREATE TABLE wind ({columns(settings)}) WITH ({source})")
    return "wind"


def create_sinks(env: StreamTableEnvironment, settings: Settings) -> tuple[str, str]:
    """Create the tables of topics `wind_rich` and `wind_late`."""
    for topic, ddl in (("wind_rich", runtime.ddl(DATASOURCES["wind_report"])), ("wind_late", LATE_DDL)):
        env.execute_sql(f"CREATE TABLE {topic} ({ddl}) WITH ({runtime.kafka_sink(settings, topic, 'wind_id')})")
    return "wind_rich", "wind_late"


def enrichment(settings: Settings):
    """Return the vectorised look-up `(wind_id, event_ms) → ROW of the enrichment`, valid at the event time."""
    from pyflink.table import DataTypes
    from pyflink.table.udf import ScalarFunction, udf

    types = {"string": DataTypes.STRING(), "double": DataTypes.DOUBLE(), "long": DataTypes.BIGINT()}

    class Enrich(ScalarFunction):
        def open(self, function_context):
            from couchbase_admin.registry import Registry

            self.registry = Registry(settings)

        def eval(self, wind_ids, event_ms):
            found = self.registry.lookup("wind", wind_ids.to_numpy(), event_ms.to_numpy())
            return found[[column.name for column in ENRICHMENT]]

    row = DataTypes.ROW([DataTypes.FIELD(column.name, types[column.type]) for column in ENRICHMENT])
    return udf(Enrich(), result_type=row, func_type="pandas")


def build_pipeline(
    env: StreamTableEnvironment, settings: Settings, source: str, sink: str, late: str, enrich
) -> StatementSet:
    """Return the job from a table of raw readings to a table of enriched windows and one of late readings.

    Each reading is told apart once, after duplicates were taken out, so that it is in a window or late, never both.
    """
    env.create_temporary_function("enrich", enrich)
    # holds for the duplicates only: windows are forgotten when they close
    env.get_config().set("table.exec.state.ttl", f"{settings.wind_duplicate_s} s")
    # UNNEST of one row keeps the planner from writing an expression out at each place that uses it
    env.execute_sql(f"""
        CREATE TEMPORARY VIEW message AS
        SELECT event_time, arrival, known
        FROM {source} CROSS JOIN UNNEST(ARRAY[{known_fields("wind", "text")}]) AS k (known)
        WHERE {well_formed("wind", "message", "text", "known")}""")
    values = f"""JSON_VALUE(known, '$.wind_id'), {number("known", "wind_speed")}, {number("known", "wind_direction")}"""
    env.execute_sql(f"""
        CREATE TEMPORARY VIEW reading AS
        SELECT wind_id, event_time, arrival, wind_speed, wind_direction
        FROM message CROSS JOIN UNNEST(ARRAY[ROW({values})]) AS v (wind_id, wind_speed, wind_direction)
        WHERE {known_time("event_time")} AND {element_id("wind_id")}
          AND {limits("wind", "wind_speed")} AND {limits("wind", "wind_direction")}""")
    env.execute_sql("""
        CREATE TEMPORARY VIEW once AS
        SELECT wind_id, event_time, wind_speed, wind_direction
        FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY wind_id, event_time ORDER BY arrival) AS place FROM reading)
        WHERE place = 1""")
    env.execute_sql(f"CREATE TEMPORARY VIEW in_time AS SELECT * FROM once WHERE NOT {IS_LATE}")
    env.execute_sql("""
        CREATE TEMPORARY VIEW windowed AS
        SELECT wind_id, window_start,
               AVG(wind_speed) AS wind_speed, MAX(wind_speed) AS wind_gust, MIN(wind_speed) AS wind_min,
               DEGREES(ATAN2(SUM(wind_speed * SIN(RADIANS(wind_direction))),
                             SUM(wind_speed * COS(RADIANS(wind_direction))))) AS angle,
               COUNT(*) AS samples
        FROM TABLE(TUMBLE(TABLE in_time, DESCRIPTOR(event_time), INTERVAL '1' SECOND))
        GROUP BY window_start, window_end, wind_id""")
    env.execute_sql("""
        CREATE TEMPORARY VIEW enriched AS
        SELECT wind_id, start_ms, wind_speed, wind_gust, wind_min, wind_direction, samples,
               enrich(wind_id, start_ms) AS place
        FROM (SELECT wind_id, 1000 * UNIX_TIMESTAMP(CAST(window_start AS STRING)) AS start_ms,
                     wind_speed, wind_gust, wind_min, samples,
                     CASE WHEN angle < 0 THEN angle + 360 ELSE angle END AS wind_direction
              FROM windowed)""")
    values = {column.name: f"place.`{column.name}`" for column in ENRICHMENT}
    selected = ", ".join(
        ["start_ms", *(values.get(column.name, f"`{column.name}`") for column in DATASOURCES["wind_report"])]
    )
    job = env.create_statement_set()
    job.add_insert_sql(f"INSERT INTO {sink} SELECT {selected} FROM enriched")
    job.add_insert_sql(f"""
        INSERT INTO {late}
        SELECT {epoch_ms("event_time")}, wind_id, wind_speed, wind_direction,
               TIMESTAMPDIFF(SECOND, event_time, CURRENT_WATERMARK(event_time))
        FROM once WHERE {IS_LATE}""")
    return job


def submit(settings: Settings, restore_from: str | None) -> None:
    """Submit the job to the cluster."""
    env = runtime.streaming(settings, NAME, restore_from)
    source = create_source(env, settings)
    build_pipeline(env, settings, source, *create_sinks(env, settings), enrichment(settings)).execute()


if __name__ == "__main__":
    keeper.main(NAME, __doc__, submit)
