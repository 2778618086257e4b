"""The servers of the local stack, each declared once.

A `Server` says how it starts, which ports it takes, how it is known to be ready, what it needs first, and which
configuration files are written for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template

import yaml

from selfgen.settings import PORT_OFFSETS, ROOT, Settings
from stack import probes

HERE = Path(__file__).parent

#: The serial collector stays smaller.
JVM = ("-XX:+UseSerialGC", "-Duser.timezone=UTC", "-Dfile.encoding=UTF-8")
#: A JVM with one JIT tier starts sooner.
ONE_TIER = "-XX:TieredStopAtLevel=1"
#: The classes that a client of Flink loads, as Java keeps them in memory, below `jars_dir`; of other jars, or for
#: another Java, it is ignored.
CLIENT_CLASSES = "flink/client.jsa"
DRUID_JVM = (
    "--add-exports=java.base/jdk.internal.misc=ALL-UNNAMED",
    "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=jdk.management/com.sun.management.internal=ALL-UNNAMED",
    "-Djava.util.logging.manager=org.apache.logging.log4j.jul.LogManager",
    "-XX:+ExitOnOutOfMemoryError",
)


@dataclass(frozen=True)
class Server:
    """One server: everything the stack knows of it."""

    name: str
    command: Callable[[Settings], list[str]]
    ready: probes.Probe
    ports: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    #: configuration files, by path below the server's folder
    files: Callable[[Settings], Mapping[str, str]] = lambda _settings: {}
    environment: Callable[[Settings], Mapping[str, str]] = lambda _settings: {}
    #: a command to run before each start, once it is told that it is needed
    prepare: Callable[[Settings], list[str] | None] = lambda _settings: None
    folders: tuple[str, ...] = field(default=())
    #: seconds it is given to be ready, and to stop
    patience_s: float = 300.0
    stop_s: int = 20
    description: str = ""


def folder(settings: Settings, name: str) -> Path:
    """Return the folder of a server's data and configuration."""
    return settings.stack_dir / name


def classpath(settings: Settings, *parts: str) -> str:
    """Return a Java class path over folders of jars."""
    return os.pathsep.join(f"{settings.jars_dir / part}/*" for part in parts)


def render(settings: Settings, template: str, **values: object) -> str:
    """Fill a configuration template of this folder with ports, addresses, and the values given."""
    ports = {name: settings.port(name) for name in PORT_OFFSETS}
    return Template((HERE / template).read_text()).substitute(ports, host=settings.host, **values)


# ---------------------------------------------------------------------------------------------- Kafka
def _kafka_java(settings: Settings, heap_mib: int, *arguments: str) -> list[str]:
    log = f"-Dlog4j2.configurationFile={HERE / 'kafka' / 'log4j2.xml'}"
    return [
        "java",
        f"-Xmx{heap_mib}m",
        "-XX:+UseSerialGC",
        log,
        "-cp",
        classpath(settings, "kafka"),
        *arguments,
    ]


def _kafka_format(settings: Settings) -> list[str] | None:
    if (folder(settings, "kafka") / "data" / "meta.properties").exists():
        return None
    configuration = str(folder(settings, "kafka") / "server.properties")
    cluster = "c2VsZmdlbi1sb2NhbC1zdA"
    return _kafka_java(settings, 128, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", configuration)


KAFKA = Server(
    name="kafka",
    description="Kafka broker and controller (KRaft)",
    ports=("kafka", "kafka_controller"),
    files=lambda s: {"server.properties": render(s, "kafka/server.properties", data=folder(s, "kafka") / "data")},
    prepare=_kafka_format,
    command=lambda s: _kafka_java(s, s.kafka_heap_mib, "kafka.Kafka", str(folder(s, "kafka") / "server.properties")),
    ready=probes.kafka,
    stop_s=30,
)

# -------------------------------------------------------------------------------------------- MongoDB
MONGODB = Server(
    name="mongodb",
    description="MongoDB, a replica set of one, journaled",
    ports=("mongodb",),
    folders=("data",),
    command=lambda s: [
        str(Path(sys.prefix) / f"lib/python3.{sys.version_info.minor}/site-packages/fiftyone/db/bin/mongod"),
        *("--dbpath", str(folder(s, "mongodb") / "data"), "--replSet", "selfgen"),
        *("--bind_ip", s.host, "--port", str(s.port("mongodb"))),
        *("--wiredTigerCacheSizeGB", str(s.mongodb_cache_mib / 1024), "--oplogSize", "990"),
        *("--setParameter", "diagnosticDataCollectionEnabled=false", "--nounixsocket", "--quiet"),
    ],
    ready=probes.mongodb,
    stop_s=30,
)

# ------------------------------------------------------------------------------------------ Couchbase
COUCHBASE = Server(
    name="couchbase",
    description="Couchbase stand-in (its vendor's test server), with a journal on disk",
    ports=("couchbase", "couchbase_rest"),
    folders=("data",),
    command=lambda s: [
        *("java", f"-Xmx{s.couchbase_heap_mib}m", *JVM, ONE_TIER, "-cp", classpath(s, "couchbase")),
        *("selfgen.stack.CouchbaseStandIn", s.host, str(s.port("couchbase")), str(s.port("couchbase_rest"))),
        *(s.couchbase_bucket, str(folder(s, "couchbase") / "data" / "journal.jsonl"), "1"),
    ],
    ready=probes.couchbase,
)

# ---------------------------------------------------------------------------------------------- Druid
ZOOKEEPER = Server(
    name="zookeeper",
    description="ZooKeeper, for Druid and Flink",
    ports=("zookeeper",),
    folders=("data",),
    files=lambda s: {
        "zoo.cfg": f"tickTime=2000\ndataDir={folder(s, 'zookeeper') / 'data'}\nclientPort={s.port('zookeeper')}\n"
        f"clientPortAddress={s.host}\nadmin.enableServer=false\n4lw.commands.whitelist=ruok,srvr\nmaxClientCnxns=0\n"
        "autopurge.purgeInterval=1\n"
    },
    command=lambda s: [
        *("java", f"-Xmx{s.zookeeper_heap_mib}m", *JVM, ONE_TIER, "-cp"),
        f"{HERE / 'druid'}{os.pathsep}{classpath(s, 'druid/lib')}",
        *("org.apache.zookeeper.server.quorum.QuorumPeerMain", str(folder(s, "zookeeper") / "zoo.cfg")),
    ],
    ready=probes.zookeeper,
)


def _druid(
    role: str,
    ports: tuple[str, ...],
    needs: tuple[str, ...],
    ready: probes.Probe,
    direct_mib: int,
    description: str,
    jit: tuple[str, ...] = (ONE_TIER,),
) -> Server:
    def files(settings: Settings) -> Mapping[str, str]:
        data, extensions = folder(settings, "druid"), settings.jars_dir / "druid" / "extensions"
        return {
            "common.runtime.properties": render(
                settings, "druid/common.runtime.properties", data=data, extensions=extensions
            ),
            "runtime.properties": render(settings, f"druid/{role}.runtime.properties", data=data),
        }

    def command(settings: Settings) -> list[str]:
        path = os.pathsep.join([str(folder(settings, role)), str(HERE / "druid"), classpath(settings, "druid/lib")])
        return [
            *(
                "java",
                f"-Xmx{getattr(settings, f'{role}_heap_mib')}m",
                f"-XX:MaxDirectMemorySize={direct_mib}m",
            ),
            *(*JVM, *jit, *DRUID_JVM, f"-Djava.io.tmpdir={folder(settings, role) / 'tmp'}"),
            *(f"-Dderby.stream.error.file={folder(settings, role) / 'derby.log'}", "-cp", path),
            *("org.apache.druid.cli.Main", "server", role),
        ]

    return Server(
        name=role, description=description, ports=ports, needs=needs, files=files, command=command, ready=ready,
        folders=("tmp",),
    )  # fmt: skip


COORDINATOR = _druid(
    "coordinator", ("coordinator", "derby"), ("zookeeper",), probes.http("coordinator", "/druid/indexer/v1/isLeader"),
    64, "Druid coordinator and overlord, with the metadata",
)  # fmt: skip
BROKER = _druid(
    "broker",
    ("broker",),
    ("zookeeper",),
    probes.http("broker", "/druid/broker/v1/readiness"),
    128,
    "Druid broker: SQL",
)
# of these two the loops over millions of rows are worth all tiers
HISTORICAL = _druid(
    "historical", ("historical",), ("zookeeper",), probes.http("historical", "/druid/historical/v1/readiness"),
    128, "Druid historical: segments", jit=(),
)  # fmt: skip
_INDEXER = _druid(
    "indexer", ("indexer",), ("zookeeper",), probes.indexer, 512, "Druid indexer: ingestion tasks", jit=()
)
INDEXER = replace(
    _INDEXER,
    command=lambda s: [
        *(sys.executable, "-m", "stack.indexer", s.coordinator, s.address("indexer")),
        *_INDEXER.command(s),
    ],
)


# ---------------------------------------------------------------------------------------------- Flink
def flink_environment(settings: Settings) -> dict[str, str]:
    """Return the variables of everything that runs Flink: the cluster's processes and the jobs' clients."""
    import pyflink

    home = Path(pyflink.__file__).parent
    return {
        "FLINK_HOME": str(home),
        "FLINK_LIB_DIR": str(settings.jars_dir / "flink" / "lib"),
        "FLINK_CONF_DIR": str(folder(settings, "flink")),
        "FLINK_LOG_DIR": str(folder(settings, "flink") / "logs"),
        "FLINK_PID_DIR": str(folder(settings, "flink") / "data"),
        # Python workers: no bytecode cache races, no thread pools that fight for two cores
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _flink_files(settings: Settings) -> Mapping[str, str]:
    import pyflink

    shipped = yaml.safe_load((Path(pyflink.__file__).parent / "conf" / "config.yaml").read_text())
    data = folder(settings, "flink") / "data"
    configuration = render(
        settings,
        "flink/config.yaml",
        add_opens=shipped["env"]["java"]["opts"]["all"] + " -XX:+UseSerialGC",
        logs=folder(settings, "flink") / "logs",
        data=data,
        checkpoints=settings.checkpoints_dir,
        jobmanager_memory=settings.jobmanager_memory_mib,
        taskmanager_memory=settings.taskmanager_memory_mib,
        slots=settings.taskmanager_slots,
        python=sys.executable,
    )
    logs = {name: (HERE / "flink" / name).read_text() for name in ("log4j-console.properties", "log4j-cli.properties")}
    return {
        "../flink/config.yaml": configuration,
        **{f"../flink/{name}": text for name, text in logs.items()},
    }


def _flink_script(name: str, number: int) -> Callable[[Settings], list[str]]:
    def command(settings: Settings) -> list[str]:
        script = f"{flink_environment(settings)['FLINK_HOME']}/bin/{name}.sh"
        return ["bash", script, "start-foreground", *_prometheus(settings, number)]

    return command


def _prometheus(settings: Settings, number: int) -> list[str]:
    """Return the arguments that open a Flink process's metrics; the reporter's jar ships in pyflink's plugins."""
    if not settings.flink_prometheus_port:
        return []
    reporter = "org.apache.flink.metrics.prometheus.PrometheusReporterFactory"
    return [
        *("-D", f"metrics.reporter.prometheus.factory.class={reporter}"),
        *("-D", f"metrics.reporter.prometheus.port={settings.flink_prometheus_port + number}"),
    ]


JOBMANAGER = Server(
    name="jobmanager",
    description="Flink JobManager; its page shows the jobs",
    ports=("flink", "flink_rpc", "flink_blob"),
    needs=("zookeeper",),
    files=_flink_files,
    environment=flink_environment,
    folders=("../flink/logs", "../flink/data/tmp", "../flink/data/ha"),
    command=_flink_script("jobmanager", 0),
    ready=probes.http("flink", "/overview"),
)
TASKMANAGER = Server(
    name="taskmanager",
    description="Flink TaskManager: the jobs' slots",
    ports=("taskmanager_rpc", "taskmanager_data"),
    needs=("zookeeper",),
    files=_flink_files,
    environment=flink_environment,
    command=_flink_script("taskmanager", 1),
    ready=probes.taskmanager,
)

# ------------------------------------------------------------------------------------------- Superset
SUPERSET = Server(
    name="superset",
    description="Superset: the dashboards",
    ports=("superset",),
    command=lambda s: [
        *(str(ROOT / ".venv-superset/bin/python"), str(HERE / "superset/serve.py")),
        *(s.address("superset"), str(s.superset_workers)),
    ],
    environment=lambda s: {"SUPERSET_HOME": str(folder(s, "superset"))},
    ready=probes.http("superset", "/health"),
)

SERVERS: dict[str, Server] = {
    server.name: server
    for server in (
        KAFKA, MONGODB, COUCHBASE, ZOOKEEPER, COORDINATOR, BROKER, HISTORICAL, INDEXER, JOBMANAGER, TASKMANAGER,
        SUPERSET,
    )
}  # fmt: skip

#: Names that stand for several servers.
GROUPS: dict[str, tuple[str, ...]] = {
    "druid": ("zookeeper", "coordinator", "broker", "historical", "indexer"),
    "flink": ("zookeeper", "jobmanager", "taskmanager"),
}
