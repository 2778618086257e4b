"""How every job gets its Flink environment: on the cluster of the settings, or in the process.

The class path, configuration and interpreter are the stack's (`stack.servers.flink_environment`), the same for the
cluster's processes and for the clients that submit to it.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from selfgen.columns import Column
from selfgen.settings import Settings
from stack.servers import flink_environment

if TYPE_CHECKING:
    from pyflink.common import Configuration
    from pyflink.table import StreamTableEnvironment, TableEnvironment

FLINK_TYPES = {"string": "STRING", "double": "DOUBLE", "long": "BIGINT"}


def configuration(settings: Settings, name: str, **overrides: str) -> Configuration:
    """Return the configuration of a job; `overrides` are Flink options with `_` for `.` where that is easier."""
    os.environ.update(flink_environment(settings))
    from pyflink.common import Configuration

    address, port = settings.flink.rsplit(":", 1)
    options = {
        "pipeline.name": name,
        "parallelism.default": str(settings.flink_parallelism),
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
        "table.local-time-zone": "UTC",
    }
    if settings.flink_target == "remote":
        options |= {"execution.target": "remote", "rest.address": address, "rest.port": port}
    else:
        options |= {
            "execution.target": "local",
            "high-availability.type": "NONE",
            "rest.port": "0",
            "restart-strategy.type": "none",
        }
    result = Configuration()
    for key, value in (options | overrides).items():
        result.set_string(key, value)
    return result


def batch(settings: Settings, name: str) -> TableEnvironment:
    """Return a batch table environment."""
    options = configuration(settings, name, **{"restart-strategy.type": "fixed-delay"})
    from pyflink.table import EnvironmentSettings, TableEnvironment

    return TableEnvironment.create(
        EnvironmentSettings.new_instance().in_batch_mode().with_configuration(options).build()
    )


def streaming(settings: Settings, name: str, restore_from: str | None = None) -> StreamTableEnvironment:
    """Return a streaming table environment with exactly-once checkpoints, which outlive the job.

    Parameters
    ----------
    restore_from : str, optional
        Path of a checkpoint or savepoint to go on from.
    """
    overrides = {
        "execution.checkpointing.interval": f"{settings.checkpoint_interval_ms} ms",
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.dir": f"file://{settings.checkpoints_dir / name}",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.num-retained": "2",
        "execution.checkpointing.max-concurrent-checkpoints": "1",
        "python.fn-execution.bundle.time": "100",
    }
    if restore_from:
        overrides["execution.state-recovery.path"] = restore_from
    options = configuration(settings, name, **overrides)
    from pyflink.datastream import StreamExecutionEnvironment
    from pyflink.table import StreamTableEnvironment

    return StreamTableEnvironment.create(StreamExecutionEnvironment.get_execution_environment(options))


def ddl(columns: tuple[Column, ...]) -> str:
    """Return columns as the inside of a CREATE TABLE, with `timestamp` (epoch ms) first."""
    return ", ".join(
        ["`timestamp` BIGINT", *(f"`{column.name}` {FLINK_TYPES[column.type]}" for column in columns)]
    )


def quoted(value: str) -> str:
    """Return a SQL string literal."""
    return "'" + value.replace("'", "''") + "'"


def options(values: dict[str, str]) -> str:
    """Return table options as the inside of a WITH clause."""
    return ", ".join(f"{quoted(key)} = {quoted(value)}" for key, value in values.items())


def kafka_source(settings: Settings, topic: str, group: str, **extra: str) -> str:
    """Return the WITH clause of a Kafka topic read with committed transactions only."""
    return options(
        {
            "connector": "kafka",
            "topic": topic,
            "properties.bootstrap.servers": settings.bootstrap_servers,
            "properties.group.id": group,
            "properties.isolation.level": "read_committed",
            "format": "json",
        }
        | extra
    )


def kafka_sink(settings: Settings, topic: str, key: str) -> str:
    """Return the WITH clause of a Kafka topic written in transactions, keyed by a column."""
    return options(
        {
            "connector": "kafka",
            "topic": topic,
            "properties.bootstrap.servers": settings.bootstrap_servers,
            "key.format": "raw",
            "key.fields": key,
            "value.format": "json",
            "sink.delivery-guarantee": "exactly-once",
            "sink.transactional-id-prefix": f"selfgen-{topic}",
            # longer than any outage the job may sleep through, within the broker's own bound of 15 min
            "properties.transaction.timeout.ms": "600000",
        }
    )
