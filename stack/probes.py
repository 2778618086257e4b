"""How each server is known to be ready: it is asked, and says why not."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import requests

from selfgen.settings import Settings

#: None where ready, else the reason.
Probe = Callable[[Settings], str | None]

TIMEOUT_S = 3.0


def http(port: str, path: str, accept: Callable[[Any], str | None] | None = None) -> Probe:
    """Return a probe that wants a 200 of `path`, and of its JSON body what `accept` wants."""

    def probe(settings: Settings) -> str | None:
        url = f"http://{settings.address(port)}{path}"
        try:
            response = requests.get(url, timeout=TIMEOUT_S)
        except requests.RequestException as error:
            return f"{url} does not answer ({type(error).__name__})"
        if response.status_code != requests.codes.ok:
            return f"{url} answers {response.status_code}"
        return accept(response.json()) if accept else None

    return probe


def kafka(settings: Settings) -> str | None:
    """Ask the broker for its metadata."""
    from confluent_kafka import KafkaException

    from selfgen.clients.kafka import ping

    try:
        ping(settings)
    except KafkaException as error:
        return f"{settings.bootstrap_servers} does not answer ({error.args[0].name()})"
    return None


def mongodb(settings: Settings) -> str | None:
    """Ask for a writable primary; make the single-node replica set where there is none yet."""
    import pymongo
    from pymongo.errors import OperationFailure, PyMongoError

    not_yet_initialised = 94
    address = settings.address("mongodb")
    try:
        with pymongo.MongoClient(
            f"mongodb://{address}/?directConnection=true", serverSelectionTimeoutMS=1000
        ) as client:
            if client.admin.command("hello")["isWritablePrimary"]:
                return None
            try:
                client.admin.command("replSetGetStatus")
            except OperationFailure as error:
                if error.code != not_yet_initialised:
                    raise
                members = [{"_id": 0, "host": address}]
                client.admin.command("replSetInitiate", {"_id": "selfgen", "members": members})
            return "the replica set has no primary yet"
    except PyMongoError as error:
        return f"{address} does not answer ({type(error).__name__})"


def couchbase(settings: Settings) -> str | None:
    """Ask for the bucket's key-value service."""
    from selfgen.clients.couchbase import ping

    return None if ping(settings) else f"{settings.address('couchbase')} does not answer"


def zookeeper(settings: Settings) -> str | None:
    """Ask `ruok`."""
    try:
        with socket.create_connection((settings.host, settings.port("zookeeper")), timeout=TIMEOUT_S) as connection:
            connection.sendall(b"ruok")
            return None if connection.recv(16) == b"imok" else "does not answer ruok"
    except OSError as error:
        return f"{settings.address('zookeeper')} does not answer ({error.strerror})"


def indexer(settings: Settings) -> str | None:
    """Ask the overlord whether it knows the indexer."""
    return http(
        "coordinator",
        "/druid/indexer/v1/workers",
        lambda workers: None if workers else "the overlord has no worker yet",
    )(settings)


def taskmanager(settings: Settings) -> str | None:
    """Ask the JobManager for its TaskManagers' slots."""
    return http(
        "flink",
        "/overview",
        lambda body: None if body["taskmanagers"] else "no TaskManager is registered yet",
    )(settings)


def flink_job(name: str) -> Probe:
    """Return a probe that wants a job of this name to run on the cluster, every task of it."""

    def running(body: Any) -> str | None:
        jobs = [job for job in body["jobs"] if job["name"] == name]
        if any(job["state"] == "RUNNING" and job["tasks"]["running"] == job["tasks"]["total"] for job in jobs):
            return None
        return f"the cluster has no job {name} that runs"

    return http("flink", "/jobs/overview", running)
