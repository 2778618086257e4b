"""Every setting has one home, a default, an environment variable (`SELFGEN_…`) and a line of documentation.

>>> from selfgen.settings import get_settings
>>> get_settings().port("kafka")
18001
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parents[1]

#: Distance of each port of the local stack from `port_base`.
PORT_OFFSETS: dict[str, int] = {
    "kafka": 1,
    "kafka_controller": 2,
    "mongodb": 3,
    "couchbase": 4,
    "couchbase_rest": 5,
    "zookeeper": 6,
    "derby": 7,
    "coordinator": 8,
    "broker": 9,
    "historical": 10,
    "indexer": 11,
    "flink": 12,
    "flink_rpc": 13,
    "flink_blob": 14,
    "taskmanager_rpc": 15,
    "taskmanager_data": 16,
    "superset": 17,
    # the pages of the wind jobs where each is a cluster of its own
    "rich_sensor_wind": 18,
    "write_sensor_wind": 19,
}


class Settings(BaseSettings):
    """The settings of every process; read from the environment, then from `.env` at the project's root."""

    model_config = SettingsConfigDict(env_prefix="SELFGEN_", env_file=ROOT / ".env", extra="ignore", frozen=True)

    # where things are
    build_dir: Path = Field(ROOT / "build", description="Folder of everything that is made: jars, data, logs, reports")
    host: str = Field("127.0.0.1", description="Address the local stack listens on")
    port_base: int = Field(18000, ge=1024, le=65400, description="First port of the local stack; the rest follow it")

    # Kafka
    kafka_bootstrap: str = Field("", description="Kafka's bootstrap servers; empty: the local stack's")
    partitions: int = Field(2, ge=1, description="Partitions of each topic")

    # MongoDB
    mongodb_url: str = Field("", description="MongoDB's connection string; empty: the local stack's")
    mongodb_database: str = Field("selfgen", description="MongoDB's database")

    # landing
    landing_batch: int = Field(10_000, ge=1, description="Most messages that are landed at once")
    landing_report_s: float = Field(10.0, gt=0, description="Time between two reports of a topic's performance, s")
    landing_http_port: int = Field(
        0, ge=0, le=65535, description="Port of a landing process's /health, /ready and /metrics; 0: none"
    )
    raw_retention_days: float = Field(400.0, gt=0, description="How long raw readings are kept in MongoDB, days")
    alarm_retention_days: float = Field(400.0, gt=0, le=24_855, description="How long MongoDB's alarms are kept, days")

    # the hours' batch
    batch_settle_s: float = Field(600.0, ge=0, description="How long after its end an hour is computed, s")
    batch_poll_s: float = Field(30.0, gt=0, description="Time between two looks for hours to compute, s")

    # Couchbase
    couchbase_url: str = Field("", description="Couchbase's connection string; empty: the local stack's stand-in")
    couchbase_user: str = Field("selfgen", description="Couchbase's user")
    couchbase_password: SecretStr = Field(SecretStr("selfgen"), description="Couchbase's password")
    couchbase_bucket: str = Field("selfgen", description="Couchbase's bucket")
    couchbase_scope: str = Field("_default", description="Couchbase's scope")
    couchbase_collection: str = Field("_default", description="Couchbase's collection")
    couchbase_durability: Literal["none", "majority", "majority_and_persist_to_active", "persist_to_majority"] = Field(
        "none", description="When a registry write is acknowledged; the stand-in knows only none"
    )
    couchbase_ca_certificate: str = Field(
        "", description="Certificate file that couchbases:// trusts; empty: the public authorities"
    )
    couchbase_timeout_s: float = Field(2.5, gt=0, description="Longest wait for Couchbase, s")
    registry_ttl_s: float = Field(30.0, gt=0, le=45, description="Age of a cached element to read it again, s")
    registry_unknown_ttl_s: float = Field(5.0, gt=0, description="The same for unknown elements, s")
    registry_cache_elements: int = Field(50_000, ge=1, description="Most elements of a kind in the cache")

    # Druid
    druid_coordinator_url: str = Field("", description="Druid's coordinator-overlord; empty: the local stack's")
    druid_broker_url: str = Field("", description="Druid's broker; empty: the local stack's")

    # Flink
    flink_target: Literal["remote", "local"] = Field("remote", description="Run jobs on a cluster, or in the process")
    flink_url: str = Field("", description="host:port of Flink's REST interface; empty: the local stack's")
    flink_parallelism: int = Field(1, ge=1, description="Parallelism of a job")
    flink_prometheus_port: int = Field(
        0,
        ge=0,
        le=65534,
        description="Port of the JobManager's metrics for Prometheus, the TaskManager's is the next; "
        "Flink opens them on all addresses; 0: none",
    )
    checkpoint_interval_ms: int = Field(1000, ge=100, description="Time between checkpoints of the wind jobs, ms")
    wind_watermark_delay_ms: int = Field(2000, ge=0, description="How late a wind reading may be for its window, ms")
    wind_duplicate_s: int = Field(
        900, ge=1, description="How long after a wind reading the same one again is known as a duplicate, s"
    )
    wind_idle_s: int = Field(
        60,
        ge=1,
        description="How long a partition of wind may be silent before the others stop waiting for it, s; an outage of "
        "Kafka shorter than this makes no reading late",
    )

    wind_seconds_h: float = Field(
        48.0, gt=3, description="How long Druid keeps wind by the second, then minutes, hours"
    )
    wind_minutes_days: float = Field(
        90.0, gt=1, description="How long Druid keeps wind by the minute, then hours, days"
    )

    # Superset
    superset_url: str = Field("", description="Superset's address; empty: the local stack's")
    superset_user: str = Field("admin", description="Superset's administrator")
    superset_password: SecretStr = Field(
        SecretStr(""),
        description="The administrator's password; empty: made at the first start, kept in a file",
    )

    superset_database: SecretStr = Field(
        SecretStr(""), description="SQLAlchemy URI of Superset's metadata; empty: SQLite in its folder"
    )
    superset_redis: SecretStr = Field(
        SecretStr(""), description="URL of Redis for Superset's caches and scheduled work; empty: files, and none"
    )
    superset_behind_proxy: bool = Field(
        False, description="A proxy in front of Superset speaks HTTPS and sets X-Forwarded-For, -Proto, -Host, -Port"
    )
    superset_public_url: str = Field(
        "", description="Superset's address that people use, for links in e-mails; empty: superset_url"
    )
    superset_smtp_host: str = Field("", description="Mail server of Superset's scheduled reports; empty: none")
    superset_smtp_port: int = Field(587, ge=1, le=65535, description="The mail server's port")
    superset_smtp_user: str = Field("", description="The mail server's user; empty: it asks for none")
    superset_smtp_password: SecretStr = Field(SecretStr(""), description="The mail server's password")
    superset_smtp_starttls: bool = Field(True, description="Speak TLS with the mail server, and check its certificate")
    superset_smtp_from: str = Field("selfgen@localhost", description="Sender of Superset's reports")

    # the rules
    max_gap_s: float = Field(300.0, gt=0, description="Longest gap between samples that still counts as energy, s")

    # memory of the local stack's servers, MiB
    kafka_heap_mib: int = Field(384, ge=128, description="Kafka's heap")
    mongodb_cache_mib: int = Field(256, ge=256, description="MongoDB's WiredTiger cache")
    couchbase_heap_mib: int = Field(192, ge=64, description="The Couchbase stand-in's heap")
    zookeeper_heap_mib: int = Field(96, ge=64, description="ZooKeeper's heap")
    coordinator_heap_mib: int = Field(256, ge=128, description="Druid coordinator-overlord's heap")
    broker_heap_mib: int = Field(384, ge=128, description="Druid broker's heap")
    historical_heap_mib: int = Field(512, ge=128, description="Druid historical's heap")
    indexer_heap_mib: int = Field(512, ge=256, description="Druid indexer's heap")
    jobmanager_memory_mib: int = Field(640, ge=512, description="Flink JobManager's whole process")
    taskmanager_memory_mib: int = Field(1280, ge=1024, description="Flink TaskManager's whole process")
    taskmanager_slots: int = Field(6, ge=3, description="Flink TaskManager's slots: the two wind jobs take one each")
    superset_workers: int = Field(1, ge=1, description="gunicorn's workers of Superset")

    def port(self, name: str) -> int:
        """Return the port of one of the local stack's listeners (a key of `PORT_OFFSETS`)."""
        return self.port_base + PORT_OFFSETS[name]

    def address(self, name: str) -> str:
        """Return `host:port` of one of the local stack's listeners."""
        return f"{self.host}:{self.port(name)}"

    @property
    def bootstrap_servers(self) -> str:
        """Kafka's bootstrap servers."""
        return self.kafka_bootstrap or self.address("kafka")

    @property
    def mongodb(self) -> str:
        """MongoDB's connection string."""
        return self.mongodb_url or f"mongodb://{self.address('mongodb')}/?replicaSet=selfgen"

    @property
    def couchbase(self) -> str:
        """Couchbase's connection string."""
        return self.couchbase_url or f"couchbase://{self.address('couchbase')}"

    @property
    def coordinator(self) -> str:
        """URL of Druid's coordinator-overlord."""
        return self.druid_coordinator_url or f"http://{self.address('coordinator')}"

    @property
    def broker(self) -> str:
        """URL of Druid's broker."""
        return self.druid_broker_url or f"http://{self.address('broker')}"

    @property
    def flink(self) -> str:
        """`host:port` of Flink's REST interface."""
        return self.flink_url or self.address("flink")

    @property
    def superset(self) -> str:
        """URL of Superset."""
        return self.superset_url or f"http://{self.address('superset')}"

    @property
    def jars_dir(self) -> Path:
        """Folder of the servers' jars; shared by all port bases."""
        return ROOT / "build" / "jars"

    @property
    def stack_dir(self) -> Path:
        """Folder of the servers' data, configuration, and logs."""
        return self.build_dir / "stack"

    @property
    def lake_dir(self) -> Path:
        """Folder of the lake's Parquet files."""
        return self.build_dir / "lake"

    @property
    def checkpoints_dir(self) -> Path:
        """Folder of Flink's checkpoints and savepoints."""
        return self.build_dir / "checkpoints"

    def environment(self) -> dict[str, str]:
        """Return the variables that give a child process these same settings, over this process's own."""
        values = {
            f"SELFGEN_{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in self
        }
        return {**os.environ, **values}


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the settings of this process, read once."""
    return Settings()
