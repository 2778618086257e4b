"""Both wind jobs as one, submitted to the running cluster: `python -m benchmarks.wind_one_job`."""

from __future__ import annotations

from flink_jobs import rich_sensor_wind, runtime, write_sensor_wind
from selfgen.columns import ENRICHMENT
from selfgen.settings import Settings, get_settings


def submit(settings: Settings) -> None:
    """Submit windows, enrichment, reports and alarms without a topic in between; what is late goes nowhere."""
    env = runtime.streaming(settings, "both_in_one")
    source = rich_sensor_wind.create_source(env, settings)
    rich_sensor_wind.create_views(env, settings, source, rich_sensor_wind.enrichment(settings))
    place = "CONCAT('{', place, '}')"
    values = {
        column.name: f"CAST(JSON_VALUE({place}, '$.{column.name}') AS {runtime.FLINK_TYPES[column.type]})"
        for column in ENRICHMENT
    }
    columns = ", ".join(f"{values.get(name, name)} AS {name}" for name in write_sensor_wind.WINDOW_COLUMNS[1:])
    every = env.sql_query(f"SELECT start_ms AS `timestamp`, {columns}, 0 AS kafka_partition FROM enriched")  # noqa: S608 - our own
    env.create_temporary_view("windows", env.to_data_stream(every))  # once, for reports and alarms
    report, alarm = (write_sensor_wind.create_sink(env, settings, topic) for topic in ("wind_report", "wind_alarm"))
    thresholds = write_sensor_wind.own_thresholds(settings)
    write_sensor_wind.build_pipeline(env, settings, "windows", report, alarm, thresholds).execute()


if __name__ == "__main__":
    submit(get_settings())
