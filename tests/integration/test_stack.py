from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import psutil
import pytest
from tenacity import retry, stop_after_delay, wait_fixed

from selfgen.settings import PORT_OFFSETS
from stack import lifecycle
from stack.errors import StackError
from stack.install import install
from stack.programs import WIND_JOBS
from stack.servers import CLIENT_CLASSES, SERVERS
from stack.supervisor import leftovers
from tests.ports import free_port_base

#: A program that starts a client of Flink, and says which archives of classes its Java has mapped.
CLIENT = """
import psutil
from flink_jobs import runtime
from selfgen.settings import get_settings

runtime.batch(get_settings(), "any")
[java] = psutil.Process().children()
print(*(mapped.path for mapped in java.memory_maps() if mapped.path.endswith(".jsa")))
"""


def selfgen(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from selfgen.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


@pytest.fixture
def lean(tmp_path, monkeypatch):
    """Settings of another stack beside the run's own: another port base, another folder."""
    from selfgen.settings import Settings

    settings = Settings(build_dir=tmp_path / "build", port_base=free_port_base())
    yield settings
    lifecycle.down(settings)


def test_each_port_of_the_settings_belongs_to_one_server_or_wind_job():
    ports = [port for server in SERVERS.values() for port in server.ports]
    assert sorted([*ports, *(job.name for job in WIND_JOBS)]) == sorted(PORT_OFFSETS)


def test_needs_start_first():
    assert lifecycle.expand(["taskmanager"])[-1] == "taskmanager"
    assert set(lifecycle.expand(["druid"])) == {"zookeeper", "coordinator", "broker", "historical", "indexer"}
    assert lifecycle.expand(["druid"])[0] == "zookeeper"
    with pytest.raises(StackError, match="there is no server named nosql"):
        lifecycle.expand(["nosql"])


def test_two_stacks_run_side_by_side_and_down_leaves_no_process(stack, lean):
    stack.up("mongodb")
    lifecycle.up(lean, ["mongodb", "zookeeper"])
    states = {state.name: state.state for state in lifecycle.status(lean)}
    assert states["mongodb"] == states["zookeeper"] == "ready"
    assert states["kafka"] == "stopped"
    assert lifecycle.up(lean, ["mongodb"])["mongodb"] < 5  # it runs already
    marked = leftovers(lean)
    assert len(marked) >= 3  # two servers and their supervisor
    lifecycle.down(lean)
    assert leftovers(lean) == []
    assert not any(process.is_running() and process.status() != "zombie" for process in marked)
    assert {state.name: state.state for state in lifecycle.status(stack.settings)}["mongodb"] == "ready"


def test_a_killed_server_comes_back_by_itself(lean):
    lifecycle.up(lean, ["zookeeper"])
    first = next(state.pid for state in lifecycle.status(lean) if state.name == "zookeeper")
    psutil.Process(first).kill()

    @retry(stop=stop_after_delay(30), wait=wait_fixed(0.2))
    def again() -> int:
        state = next(state for state in lifecycle.status(lean) if state.name == "zookeeper")
        assert state.state == "ready"
        assert state.pid != first
        return state.pid

    assert again() != first


def kill_supervisor(settings) -> None:
    supervisor = psutil.Process(int((settings.stack_dir / "supervisord.pid").read_text()))
    supervisor.kill()
    supervisor.wait(10)  # a killed process is there for a moment more


def test_a_killed_supervisor_leaves_nothing_that_up_or_down_cannot_handle(lean):
    lifecycle.up(lean, ["zookeeper"])
    kill_supervisor(lean)
    assert len(leftovers(lean)) == 1  # the orphan
    lifecycle.up(lean, ["zookeeper"])
    assert next(state for state in lifecycle.status(lean) if state.name == "zookeeper").state == "ready"
    kill_supervisor(lean)
    lifecycle.down(lean)
    assert leftovers(lean) == []


def test_a_port_in_use_is_named_with_its_holder(lean):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", lean.port("zookeeper")))
        holder.listen()
        with pytest.raises(StackError, match=rf"port {lean.port('zookeeper')}, .* in use by process {os.getpid()}"):
            lifecycle.up(lean, ["zookeeper"])


def test_a_server_that_dies_at_its_start_shows_its_last_lines(lean):
    home = lean.stack_dir / "mongodb"
    home.mkdir(parents=True)
    (home / "data").write_text("not a folder")
    done = selfgen(
        "stack", "up", "mongodb", SELFGEN_BUILD_DIR=str(lean.build_dir), SELFGEN_PORT_BASE=str(lean.port_base)
    )
    assert done.returncode == 1
    assert "mongodb" in done.stderr
    (home / "data").unlink()
    (home / "data").mkdir()
    (home / "data" / "storage.bson").write_text("not bson")
    with pytest.raises(StackError, match="mongodb died at its start") as raised:
        lifecycle.up(lean, ["mongodb"])
    assert "aborting after fassert() failure" in raised.value.details


def test_a_full_disk_is_said(lean, monkeypatch):
    monkeypatch.setattr(lifecycle, "LEAST_FREE_MIB", 2**40)
    with pytest.raises(StackError, match="is full"):
        lifecycle.up(lean, ["zookeeper"])


def test_status_as_json_and_its_exit_code(stack):
    stack.up("mongodb")
    done = selfgen("stack", "status", "--json")
    states = {server["name"]: server for server in json.loads(done.stdout)["servers"]}
    assert states["mongodb"]["state"] == "ready"
    assert states["mongodb"]["memory_mib"] > 10
    assert done.returncode == 3  # not all of them run


def test_data_are_there_again_after_down_and_up(stack):
    from selfgen.clients import mongo

    stack.up("mongodb")
    found = mongo.database(stack.settings)
    found["kept"].replace_one({"_id": 1}, {"_id": 1, "value": 42}, upsert=True)
    stack.down("mongodb")
    stack.up("mongodb")
    assert mongo.database(stack.settings)["kept"].find_one({"_id": 1})["value"] == 42


@pytest.mark.parametrize("target", ["remote", "local"])
def test_a_client_of_flink_starts_from_archived_classes(lean, target):
    install(lean)
    lifecycle.prepare(lean, SERVERS["jobmanager"])
    environment = os.environ | lean.environment() | {"SELFGEN_FLINK_TARGET": target}
    done = subprocess.run([sys.executable, "-c", CLIENT], capture_output=True, text=True, env=environment, check=True)
    assert str(lean.jars_dir / CLIENT_CLASSES) in done.stdout.split()
    assert len(done.stdout.splitlines()) == 1  # Java says nothing of it
