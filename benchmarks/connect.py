"""MongoDB's own sink connector on Kafka Connect, as a peer of the landing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from selfgen.settings import Settings
from stack.install import HERE as STACK
from stack.install import copy_jars

_POM = Path(__file__).with_name("connect.pom.xml")
_SINK = "com.mongodb.kafka.connect.sink"
_STOP_S = 30.0

#: What a worker must be told, and nothing else: the connector's default form.
DEFAULT: Mapping[str, str] = {}
#: Every setting that helps; the identity is deterministic, so that a second delivery doubles nothing.
TUNED: Mapping[str, str] = {
    "tasks.max": "2",
    "writemodel.strategy": f"{_SINK}.writemodel.strategy.InsertOneDefaultStrategy",
    "document.id.strategy": f"{_SINK}.processor.id.strategy.KafkaMetaDataStrategy",
    "bulk.write.ordered": "false",
    "consumer.override.max.poll.records": "10000",
    "consumer.override.max.partition.fetch.bytes": "8388608",
}


def jars(settings: Settings) -> Path:
    """Return the folder of the connector's jars; Maven brings them once for every change of the pom."""
    target = settings.jars_dir / "connect"
    brought = target / _POM.name
    if not brought.exists() or brought.read_bytes() != _POM.read_bytes():
        copy_jars(_POM, target, settings.jars_dir / "work" / "connect")
        shutil.copyfile(_POM, brought)
    return target


@contextmanager
def connector(
    settings: Settings, topic: str, collection: str, form: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker with one connector meanwhile.

    Parameters
    ----------
    settings : Settings
        Where the servers are; the database's name is the connector's too, for it keeps its offsets under its name.
    topic, collection : str
        From where to where.
    form : mapping
        Properties of the connector.
    """
    name = settings.mongodb_database
    folder = settings.build_dir / "connect" / name
    (folder / "plugins").mkdir(parents=True, exist_ok=True)
    worker = {
        "bootstrap.servers": settings.bootstrap_servers,
        "listeners": f"http://{settings.host}:0",
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "org.apache.kafka.connect.storage.StringConverter",
        "offset.storage.file.filename": str(folder / "offsets"),
        "plugin.path": str(folder / "plugins"),  # must not be empty; the connector is on the class path
        "connector.client.config.override.policy": "All",
        "consumer.auto.offset.reset": "earliest",
    }
    sink = {
        "name": name,
        "connector.class": "com.mongodb.kafka.connect.MongoSinkConnector",
        "topics": topic,
        "connection.uri": f"{settings.mongodb}&w=majority&journal=true",
        "database": settings.mongodb_database,
        "collection": collection,
        **form,
    }
    for file, properties in (("worker.properties", worker), ("sink.properties", sink)):
        (folder / file).write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    command = [
        *("java", "-Xmx1g", f"-Dlog4j2.configurationFile={STACK / 'kafka' / 'log4j2.xml'}"),
        *("-cp", f"{jars(settings)}/*", "org.apache.kafka.connect.cli.ConnectStandalone"),
        *(str(folder / "worker.properties"), str(folder / "sink.properties")),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
