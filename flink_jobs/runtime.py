"""How every job gets its Flink environment: on the cluster of the settings, or in the process.

The class path, configuration and interpreter are the stack's (`stack.servers.flink_environment`), the same for the
cluster's processes and for the clients that submit to it.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tenacity import Retrying, retry_if_result, wait_fixed

from selfgen.columns import Column
from selfgen.settings import Settings
from stack.servers import CLIENT_CLASSES, ONE_TIER, flink_environment

if TYPE_CHECKING:
    from pyflink.table import StreamTableEnvironment, TableResult

#: How often a job is asked whether it has ended, s.
POLL_S = 0.1
#: How long a worker that begins waits for the registry: what it enriches without it stays without owner.
REGISTRY_PATIENCE_S = 60.0
FLINK_TYPES = {"string": "STRING", "double": "DOUBLE", "long": "BIGINT"}


def batch(settings: Settings, name: str) -> StreamTableEnvironment:
    """Return a batch table environment."""
    overrides = {
        "restart-strategy.type": "fixed-delay",
        # by the bytes of a list of splits Flink would take one worker to be enough
        "execution.batch.adaptive.auto-parallelism.enabled": "false",
    }
    return _table_environment(settings, name, "batch", overrides)


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
        # of each key that Python has: it asks Flink for what it does not remember, one after the other
        "python.map-state.read-cache-size": "20000",
        # the operators of SQL are made for it: rows are not copied between those that are chained
        "pipeline.object-reuse": "true",
    }
    if restore_from:
        overrides["execution.state-recovery.path"] = restore_from
    if settings.flink_target == "local":
        host, port = settings.flink.rsplit(":", 1)
        overrides |= {"rest.port": port, "rest.bind-address": host, "restart-strategy.type": "exponential-delay"}
    return _table_environment(settings, name, "streaming", overrides)


def _table_environment(settings: Settings, name: str, mode: str, overrides: dict[str, str]) -> StreamTableEnvironment:
    os.environ.update(flink_environment(settings))
    # these read the class path above when they are imported
    from pyflink.common import Configuration
    from pyflink.datastream import StreamExecutionEnvironment
    from pyflink.table import EnvironmentSettings, StreamTableEnvironment

    gateway = _client(settings)
    values = {
        "pipeline.name": name,
        "execution.runtime-mode": mode.upper(),
        "parallelism.default": str(settings.flink_parallelism),
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
        "table.local-time-zone": "UTC",
    }
    if settings.flink_target == "local":
        values |= {"rest.port": "0", "restart-strategy.type": "none", "high-availability.type": "none"}
    options = Configuration()
    for key, value in (values | overrides).items():
        options.set_string(key, value)
    if settings.flink_target == "local":
        env = StreamExecutionEnvironment.get_execution_environment(options)
    else:
        host, port = settings.flink.rsplit(":", 1)
        java = gateway.jvm.org.apache.flink.streaming.api.environment.StreamExecutionEnvironment
        no_jars = gateway.new_array(gateway.jvm.String, 0)
        env = StreamExecutionEnvironment(
            java.createRemoteEnvironment(host, int(port), options._j_configuration, no_jars)
        )
    table_settings = EnvironmentSettings.new_instance().with_configuration(options)
    table_settings = table_settings.in_batch_mode() if mode == "batch" else table_settings.in_streaming_mode()
    return StreamTableEnvironment.create(env, table_settings.build())


def _client(settings: Settings) -> Any:
    """Return the gateway to the client's Java, which starts from archived classes if it does not run yet.

    Its code runs for a moment only and is compiled quickly rather than well, unless the job runs in it.
    """
    from pyflink.java_gateway import get_gateway

    options = [f"-XX:SharedArchiveFile={settings.jars_dir / CLIENT_CLASSES}", "-Xlog:disable"]
    if settings.flink_target == "remote":
        options.append(ONE_TIER)
    given = os.environ.get("JVM_ARGS", "")
    os.environ["JVM_ARGS"] = " ".join([*options, given])
    try:
        return get_gateway()
    finally:
        # not for servers that this process may start
        os.environ["JVM_ARGS"] = given


def await_end(submitted: TableResult) -> None:
    """Wait for the end of a job; raise what it failed with.

    Flink's own `wait` asks the cluster ever more seldom, each 2 s in the end, which is long for a job of some seconds.
    """
    from py4j.protocol import Py4JError
    from pyflink.util.exceptions import JavaException

    job = submitted.get_job_client()
    if job is not None:
        ended = Retrying(retry=retry_if_result(lambda status: not status.is_terminal_state()), wait=wait_fixed(POLL_S))
        with suppress(Py4JError, JavaException):  # a cluster that does not answer: `wait` says why, or is more patient
            ended(lambda: job.get_job_status().result())
    submitted.wait()


def ddl(columns: tuple[Column, ...]) -> str:
    """Return columns as the inside of a CREATE TABLE, with `timestamp` (epoch ms) first."""
    return ", ".join(["`timestamp` BIGINT", *(f"`{column.name}` {FLINK_TYPES[column.type]}" for column in columns)])


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


def kafka_sink(settings: Settings, topic: str, key: str, **extra: str) -> str:
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
        | extra
    )


def open_registry(settings: Settings, metric_group: Any) -> Any:
    """Return a worker's look-up in the registry, once that answers, or after a minute without it.

    Its look-ups are metrics of the operator: all, reads from Couchbase, answers without it, whether it is away.
    """
    from prometheus_client import REGISTRY

    from couchbase_admin.registry import Registry

    registry = Registry(settings)
    registry.await_answer(REGISTRY_PATIENCE_S)
    for name in ("lookups_total", "misses_total", "stale_total", "away"):
        sample = f"selfgen_registry_{name}"
        metric_group.gauge(sample, lambda sample=sample: int(REGISTRY.get_sample_value(sample) or 0))
    return registry
