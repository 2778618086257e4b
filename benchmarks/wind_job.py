"""One contestant of the wind benchmark, on one core: `python -m benchmarks.wind_job KIND MESSAGES`."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable

from flink_jobs import rich_sensor_wind, runtime
from selfgen.settings import Settings, get_settings
from stack.servers import flink_environment

PLAIN_DDL = (
    "`timestamp` BIGINT, wind_id STRING, wind_speed DOUBLE, wind_gust DOUBLE, wind_min DOUBLE, angle DOUBLE,"
    " samples BIGINT"
)


def _bounded(messages: int) -> dict[str, str]:
    return {
        "scan.bounded.mode": "specific-offsets",
        "scan.bounded.specific-offsets": f"partition:0,offset:{messages}",
        # a source that is done reads on for this, so that some jobs never end
        "properties.commit.offsets.on.checkpoint": "false",
    }


def enriched(settings: Settings, messages: int) -> None:
    """Run the job as it is."""
    env = runtime.streaming(settings, "bench")
    source = rich_sensor_wind.create_source(env, settings, **_bounded(messages))
    sinks = rich_sensor_wind.create_sinks(env, settings)
    rich_sensor_wind.build_pipeline(
        env, settings, source, *sinks, rich_sensor_wind.enrichment(settings)
    ).execute().wait()


def plain(settings: Settings, messages: int) -> None:
    """Run the same windows in SQL, without enrichment, and without a look at what came twice or late."""
    env = runtime.streaming(settings, "bench")
    source = rich_sensor_wind.create_source(env, settings, **_bounded(messages))
    sink = runtime.kafka_sink(settings, "wind_rich", "wind_id")
    env.execute_sql(f"CREATE TABLE plain ({PLAIN_DDL}) WITH ({sink})")
    env.execute_sql(f"""
        INSERT INTO plain
        SELECT 1000 * UNIX_TIMESTAMP(CAST(window_start AS STRING)), wind_id,
               AVG(wind_speed), MAX(wind_speed), MIN(wind_speed),
               DEGREES(ATAN2(SUM(wind_speed * SIN(RADIANS(wind_direction))),
                             SUM(wind_speed * COS(RADIANS(wind_direction))))),
               COUNT(*)
        FROM TABLE(TUMBLE(TABLE {source}, DESCRIPTOR(event_time), INTERVAL '1' SECOND))
        GROUP BY window_start, window_end, wind_id""").wait()  # noqa: S608 - a name of our own


def by_hand(settings: Settings, messages: int) -> None:
    """Run the same windows in the DataStream API in Python, as people write it, without enrichment."""
    os.environ.update(flink_environment(settings))
    from pyflink.common import Configuration, Duration, Time, Types, WatermarkStrategy
    from pyflink.common.serialization import SimpleStringSchema
    from pyflink.common.watermark_strategy import TimestampAssigner
    from pyflink.datastream import ProcessWindowFunction, StreamExecutionEnvironment
    from pyflink.datastream.connectors.kafka import (
        KafkaOffsetsInitializer,
        KafkaRecordSerializationSchema,
        KafkaSink,
        KafkaSource,
        KafkaTopicPartition,
    )
    from pyflink.datastream.window import TumblingEventTimeWindows

    class EventTime(TimestampAssigner):
        def extract_timestamp(self, value, record_timestamp):
            return value["timestamp"]

    class Window(ProcessWindowFunction):
        def process(self, key, context, elements):
            speeds = [element["wind_speed"] for element in elements]
            angles = [math.radians(element["wind_direction"]) for element in elements]
            east = sum(speed * math.sin(angle) for speed, angle in zip(speeds, angles, strict=True))
            north = sum(speed * math.cos(angle) for speed, angle in zip(speeds, angles, strict=True))
            window = {
                "timestamp": context.window().start,
                "wind_id": key,
                "wind_speed": sum(speeds) / len(speeds),
                "wind_gust": max(speeds),
                "wind_min": min(speeds),
                "wind_direction": math.degrees(math.atan2(east, north)) % 360,
                "samples": len(speeds),
            }
            yield json.dumps(window)

    end = KafkaOffsetsInitializer.offsets({KafkaTopicPartition("wind", 0): messages})
    source = (
        KafkaSource.builder()
        .set_bootstrap_servers(settings.bootstrap_servers)
        .set_topics("wind")
        .set_starting_offsets(KafkaOffsetsInitializer.earliest())
        .set_bounded(end)
        .set_property("commit.offsets.on.checkpoint", "false")
        .set_value_only_deserializer(SimpleStringSchema())
        .build()
    )
    sink = (
        KafkaSink.builder()
        .set_bootstrap_servers(settings.bootstrap_servers)
        .set_record_serializer(
            KafkaRecordSerializationSchema.builder()
            .set_topic("wind_rich")
            .set_value_serialization_schema(SimpleStringSchema())
            .build()
        )
        .build()
    )
    times = WatermarkStrategy.for_bounded_out_of_orderness(
        Duration.of_millis(settings.wind_watermark_delay_ms)
    ).with_timestamp_assigner(EventTime())
    options = Configuration()
    options.set_string("python.executable", sys.executable)
    options.set_string("python.client.executable", sys.executable)
    # no checkpoints: with them, this job does not always end
    env = StreamExecutionEnvironment.get_execution_environment(options)
    env.set_parallelism(1)
    windows = (
        env.from_source(source, WatermarkStrategy.no_watermarks(), "wind")
        .map(json.loads)
        .assign_timestamps_and_watermarks(times)
        .key_by(lambda reading: reading["wind_id"], key_type=Types.STRING())
        .window(TumblingEventTimeWindows.of(Time.seconds(1)))
        .process(Window(), output_type=Types.STRING())
    )
    windows.sink_to(sink)
    env.execute("bench")


CONTESTANTS: dict[str, Callable[[Settings, int], None]] = {"enriched": enriched, "plain": plain, "by_hand": by_hand}


def main() -> None:
    """Run one of them."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # what this starts inherits it
    settings = get_settings().model_copy(update={"flink_target": "local", "flink_parallelism": 1})
    CONTESTANTS[sys.argv[1]](settings, int(sys.argv[2]))


if __name__ == "__main__":
    main()
