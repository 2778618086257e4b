"""docker-compose.yml says the same as stack/: servers, versions, ports, settings. Nothing of it is run here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from string import Template
from typing import Any

import pytest
import typer.main
import yaml

from selfgen.cli import app
from selfgen.settings import PORT_OFFSETS, ROOT, Settings
from stack.programs import BATCH, LANDING, WIND
from stack.servers import SERVERS

#: The settings as they are without any environment: what the file's defaults must be.
DEFAULTS = Settings(
    _env_file=None, **{name: field.default for name, field in Settings.model_fields.items() if not field.is_required()}
)
PORTS = {name: DEFAULTS.port(name) for name in PORT_OFFSETS}

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]

#: The system's own processes; the stack's other programs belong to the demo.
PROCESSES = {process.name: process for process in (*LANDING, *WIND, BATCH)}

SECRETS = {
    "SELFGEN_COUCHBASE_PASSWORD": "c0uchbase",
    "SELFGEN_COUCHBASE_ADMIN_PASSWORD": "adm1nistrator",
    "SELFGEN_SUPERSET_PASSWORD": "sup3rset",
}
DRUID_ROLES = ("coordinator", "broker", "historical", "indexer")

#: Listeners that only servers themselves use: inside on their usual port, not published.
INTERNAL = {
    "kafka_controller", "zookeeper", "derby", "flink_rpc", "flink_blob", "taskmanager_rpc", "taskmanager_data",
    "rich_sensor_wind", "write_sensor_wind",
}  # fmt: skip
#: Ports that Couchbase's image fixes.
FIXED = {"couchbase": 11210, "couchbase_rest": 8091}


def published(service: dict[str, Any]) -> list[tuple[str, str, int, int]]:
    """Return (address, variable, its default, container's port) of each published port."""
    matches = [
        re.fullmatch(r"([\d.]+):\$\{(\w+):-(\d+)\}:(\d+)", port) or pytest.fail(f"{port!r} is not as the others are")
        for port in service.get("ports", [])
    ]
    return [(match[1], match[2], int(match[3]), int(match[4])) for match in matches]


def plain(value: str) -> str:
    """Return a value with its variables replaced by their defaults."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))


def properties(path: str) -> dict[str, str]:
    """Return a template of stack/ with the default ports filled in."""
    text = Template((ROOT / "stack" / path).read_text()).safe_substitute(
        {name: str(port) for name, port in PORTS.items()}
    )
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def pom_version(pom: str, artifact: str) -> str:
    """Return the version of a dependency of a pom of stack/."""
    for dependency in ET.parse(ROOT / "stack" / pom / "pom.xml").iter():  # noqa: S314 - our own file
        if dependency.tag.endswith("dependency"):
            values = {child.tag.rpartition("}")[2]: child.text for child in dependency}
            if values["artifactId"] == artifact:
                return values["version"] or ""
    return pytest.fail(f"stack/{pom}/pom.xml has no {artifact}")


def locked(path: str, package: str) -> str:
    """Return a package's version in a lock file."""
    match = re.search(rf"^{package}==(\S+)$", (ROOT / path).read_text(), re.MULTILINE)
    return match[1] if match else pytest.fail(f"{path} has no {package}")


def base_image(service: str) -> str:
    """Return the image that a service's own image is made from, or its image."""
    if "build" not in SERVICES[service]:
        return str(SERVICES[service]["image"])
    dockerfile = (ROOT / SERVICES[service]["build"]["dockerfile"]).read_text()
    return re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)[-1]


# ------------------------------------------------------------------------------------- what there is
def test_every_server_and_every_process_of_the_stack_is_a_service():
    assert len(SERVERS) == 11
    assert set(SERVERS) <= {name for name, service in SERVICES.items() if "profiles" not in service}
    assert set(PROCESSES) <= {name for name, service in SERVICES.items() if service.get("profiles") == ["project"]}
    production = {name for name, service in SERVICES.items() if service.get("profiles") == ["production"]}
    assert production == {"superset-database", "superset-redis", "superset-reports"}
    assert set(SERVICES) - set(SERVERS) - set(PROCESSES) - production == {"couchbase-init", "prepare", "selfgen"}


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_runs_the_module_that_the_stack_runs(name):
    program, *arguments = PROCESSES[name].command(DEFAULTS)
    assert SERVICES[name]["command"] == ["selfgen" if program.endswith("selfgen") else "python", *arguments]


@pytest.mark.parametrize("name", [*SERVERS, *PROCESSES])
def test_a_service_waits_for_what_the_stack_says_it_needs(name):
    needs = {"couchbase": "couchbase-init"}
    conditions = {need: condition["condition"] for need, condition in SERVICES[name].get("depends_on", {}).items()}
    needed = {needs.get(need, need) for need in {**SERVERS, **PROCESSES}[name].needs}
    assert needed <= set(conditions)
    for need, condition in conditions.items():
        once = need in {"couchbase-init", "prepare"}
        assert condition == ("service_completed_successfully" if once else "service_healthy")
        assert once or "healthcheck" in SERVICES[need]


def test_the_preparation_is_made_of_commands_that_exist():
    commands = SERVICES["prepare"]["command"][-1].split(" && ")
    assert len(commands) == 3
    root = typer.main.get_command(app)
    for command in commands:
        program, group, name = command.split()
        assert program == "selfgen"
        assert name in root.commands[group].commands  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("service", "image"),
    [
        ("kafka", f"apache/kafka:{pom_version('kafka', 'kafka_2.13')}"),
        ("mongodb", "mongo:6.0"),
        *((role, f"apache/druid:{pom_version('druid', 'druid-services')}") for role in DRUID_ROLES),
        ("jobmanager", f"flink:{locked('requirements.lock', 'apache-flink')}-scala_2.12-java17"),
        ("taskmanager", f"flink:{locked('requirements.lock', 'apache-flink')}-scala_2.12-java17"),
        ("superset", f"apache/superset:{locked('superset/requirements.lock', 'apache-superset')}"),
    ],
)
def test_an_image_has_the_version_of_the_stack(service, image):
    assert base_image(service) == image


def test_every_image_names_its_version_and_every_build_its_files():
    for name, service in SERVICES.items():
        assert re.search(r":[\w.-]*\d+\.\d+", base_image(name)), name
        if "build" in service:
            dockerfile = ROOT / service["build"]["dockerfile"]
            copied = re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile.read_text(), re.MULTILINE)
            assert copied
            for pattern in " ".join(copied).split():
                assert list(ROOT.glob(pattern)), f"{dockerfile.name} copies {pattern}, which is not there"
    assert base_image("couchbase") == base_image("couchbase-init")


# ---------------------------------------------------------------------------------- ports and secrets
def test_host_ports_are_those_of_the_settings_on_loopback_only():
    found = {}
    for service in SERVICES.values():
        assert "network_mode" not in service
        for address, variable, port, container in published(service):
            name = variable.removeprefix("SELFGEN_PORT_").lower()
            assert address == "127.0.0.1"
            assert container == FIXED.get(name, PORTS[name])
            found[name] = port
    assert found == {name: port for name, port in PORTS.items() if name not in INTERNAL}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_publishes_its_own_ports(name):
    names = {variable.removeprefix("SELFGEN_PORT_").lower() for _, variable, _, _ in published(SERVICES[name])}
    assert names == set(SERVERS[name].ports) - INTERNAL


def test_secrets_come_from_the_environment():
    found = set()
    for service in SERVICES.values():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN", variable, re.IGNORECASE):
                match = re.fullmatch(r"\$\{(\w+)(:-|:\?set (\w+) in \.env)\}", value)
                assert match, f"{variable} has a value"
                assert match[3] in {None, match[1]}
                found.add((match[1], match[3] is not None))
    optional = {"SELFGEN_SUPERSET_SECRET", "SELFGEN_SUPERSET_DATABASE_PASSWORD", "SELFGEN_SUPERSET_SMTP_PASSWORD"}
    assert found == {*((name, True) for name in SECRETS), *((name, False) for name in optional)}
    text = (ROOT / "docker-compose.yml").read_text()
    assert not re.search(r"://[^/\s]*:[^/\s]*@", text), "an address carries a password"


def test_the_example_names_every_variable_and_no_secret():
    text = (ROOT / ".env.example").read_text()
    assert set(re.findall(r"^(\w+)=$", text, re.MULTILINE)) == {*SECRETS, "SELFGEN_SUPERSET_SECRET"}
    assert not re.findall(r"^\w+=.+$", text, re.MULTILINE)
    ports = {f"SELFGEN_PORT_{name.upper()}": str(port) for name, port in PORTS.items() if name not in INTERNAL}
    assert dict(re.findall(r"^# (\w+)=(\d+)$", text, re.MULTILINE)) == ports


# ------------------------------------------------------------------------------------------- settings
def test_kafka_has_the_properties_of_the_stack():
    environment = SERVICES["kafka"]["environment"]
    ours = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): plain(value)
        for name, value in environment.items()
        if name.startswith("KAFKA_") and name != "KAFKA_HEAP_OPTS"
    }
    places = {
        "listeners",
        "advertised.listeners",
        "listener.security.protocol.map",
        "controller.quorum.voters",
        "log.dirs",
    }
    stack = properties("kafka/server.properties")
    assert set(ours) == set(stack)
    assert {key: ours[key] for key in ours.keys() - places} == {key: stack[key] for key in stack.keys() - places}
    assert environment["KAFKA_HEAP_OPTS"] == f"-Xmx{DEFAULTS.kafka_heap_mib}m"
    assert ours["advertised.listeners"].split(",")[1] == f"HOST://127.0.0.1:{PORTS['kafka']}"
    assert ours["controller.quorum.voters"] == f"1@kafka:{PORTS['kafka_controller']}"
    assert f"HOST://:{PORTS['kafka']}" in ours["listeners"].split(",")


def test_mongodb_is_the_replica_set_of_the_stack():
    command = SERVICES["mongodb"]["command"]
    stack = SERVERS["mongodb"].command(DEFAULTS)
    for option in ("--replSet", "--port", "--wiredTigerCacheSizeGB", "--oplogSize", "--setParameter"):
        assert command[command.index(option) + 1] == stack[stack.index(option) + 1], option
    check = SERVICES["mongodb"]["healthcheck"]["test"][-1]
    assert f"_id: 'selfgen', members: [{{_id: 0, host: 'mongodb:{PORTS['mongodb']}'}}]" in check


@pytest.mark.parametrize("role", DRUID_ROLES)
def test_druid_has_the_properties_of_the_stack(role):
    environment = SERVICES[role]["environment"]
    ours = {name.replace("_", "."): value for name, value in environment.items() if name.startswith("druid_")}
    stack = properties("druid/common.runtime.properties") | properties(f"druid/{role}.runtime.properties")
    # the image's own folder of extensions; metadata only where they are kept
    left_out = {"druid.extensions.directory"}
    left_out |= {key for key in stack if key.startswith("druid.metadata.") and role != "coordinator"}
    places = {key for key, value in stack.items() if "$" in value}
    assert set(ours) == set(stack) - left_out
    assert {key: ours[key] for key in ours.keys() - places} == {
        key: stack[key] for key in stack.keys() - places - left_out
    }
    assert ours["druid.host"] == role
    assert ours["druid.zk.service.host"] == f"zookeeper:{PORTS['zookeeper']}"
    assert ours["druid.indexing.doubleStorage"] == "double"


@pytest.mark.parametrize("role", DRUID_ROLES)
def test_druid_has_the_memory_of_the_stack(role):
    environment, command = SERVICES[role]["environment"], SERVERS[role].command(DEFAULTS)
    assert f"-Xmx{environment['DRUID_XMX']}" in command
    assert f"-XX:MaxDirectMemorySize={environment['DRUID_MAXDIRECTMEMORYSIZE']}" in command
    # the image's own start at many GiB, more than the greatest here
    assert environment["DRUID_XMS"] == environment["DRUID_XMX"]


def test_druid_loads_what_the_batch_jobs_leave_and_shares_its_segments():
    assert "lake:/data/lake:ro" in SERVICES["indexer"]["volumes"]
    assert "lake:/data/lake" in SERVICES["taskmanager"]["volumes"]
    for role in ("coordinator", "historical", "indexer"):
        assert "druid:/opt/shared" in SERVICES[role]["volumes"]
    assert SERVICES["indexer"]["environment"]["druid_storage_storageDirectory"] == "/opt/shared/segments"


@pytest.mark.parametrize("service", ["jobmanager", "taskmanager", *(process.name for process in WIND)])
def test_flink_has_the_properties_of_the_stack(service):
    ours = yaml.safe_load(SERVICES[service]["environment"]["FLINK_PROPERTIES"])
    values = {
        "jobmanager_memory": DEFAULTS.jobmanager_memory_mib,
        "taskmanager_memory": DEFAULTS.taskmanager_memory_mib,
        "slots": DEFAULTS.taskmanager_slots,
    }
    template = Template((ROOT / "stack/flink/config.yaml").read_text())
    stack = yaml.safe_load(template.safe_substitute(PORTS, **values))
    # the image's own: Java's options and the folders of logs and temporary files
    left_out = {"env.java.opts.all", "env.log.dir", "env.pid.dir", "io.tmp.dirs"}
    places = {key for key, value in stack.items() if "$" in str(value)}
    assert set(ours) == set(stack) - left_out
    assert {key: ours[key] for key in ours.keys() - places} == {
        key: stack[key] for key in stack.keys() - places - left_out
    }
    assert ours["high-availability.zookeeper.quorum"] == f"zookeeper:{PORTS['zookeeper']}"
    assert ours["execution.checkpointing.dir"] == "file:///data/checkpoints"


def test_zookeeper_has_the_settings_of_the_stack():
    environment = SERVICES["zookeeper"]["environment"]
    stack = dict(line.split("=", 1) for line in SERVERS["zookeeper"].files(DEFAULTS)["zoo.cfg"].splitlines())
    assert environment["ZOO_SERVERS"].rpartition(";")[2] == stack["clientPort"]
    assert environment["ZOO_TICK_TIME"] == stack["tickTime"]
    assert environment["ZOO_4LW_COMMANDS_WHITELIST"] == stack["4lw.commands.whitelist"]
    assert environment["ZOO_MAX_CLIENT_CNXNS"] == stack["maxClientCnxns"]
    assert environment["ZOO_ADMINSERVER_ENABLED"] == stack["admin.enableServer"]
    assert environment["ZK_SERVER_HEAP"] == str(DEFAULTS.zookeeper_heap_mib)


@pytest.mark.parametrize("service", ["taskmanager", "prepare", "selfgen", *PROCESSES])
def test_the_project_finds_the_servers(service):
    environment = {
        name: value for name, value in SERVICES[service]["environment"].items() if name.startswith("SELFGEN_")
    }
    fields = {name.removeprefix("SELFGEN_").lower(): plain(value) for name, value in environment.items()}
    assert set(fields) <= set(Settings.model_fields), "a variable that no setting has"
    settings = Settings(_env_file=None, **fields)
    assert settings.bootstrap_servers == "kafka:9092"
    assert settings.mongodb == f"mongodb://mongodb:{PORTS['mongodb']}/?replicaSet=selfgen"
    assert settings.couchbase == "couchbase://couchbase"
    assert settings.coordinator == f"http://coordinator:{PORTS['coordinator']}"
    assert settings.broker == f"http://broker:{PORTS['broker']}"
    assert settings.flink == f"jobmanager:{PORTS['flink']}"
    assert settings.superset == f"http://superset:{PORTS['superset']}"
    assert settings.lake_dir == Path("/data/lake")
    assert settings.checkpoints_dir == Path("/data/checkpoints")
    for name in ("mongodb_database", "couchbase_user", "couchbase_bucket", "superset_user"):
        assert getattr(settings, name) == getattr(DEFAULTS, name), name


def test_couchbase_is_made_with_the_names_of_the_settings():
    environment = SERVICES["couchbase-init"]["environment"]
    assert plain(environment["SELFGEN_COUCHBASE_USER"]) == DEFAULTS.couchbase_user
    assert plain(environment["SELFGEN_COUCHBASE_BUCKET"]) == DEFAULTS.couchbase_bucket
    assert plain(environment["SELFGEN_PORT_COUCHBASE"]) == str(PORTS["couchbase"])
    script = (ROOT / "stack/docker/couchbase-init.sh").read_text()
    assert [word for word in re.findall(r"couchbase-cli (\S+)", script) if word != "reads"] == [
        "server-list", "cluster-init", "bucket-list", "bucket-create", "user-manage", "setting-alternate-address",
    ]  # fmt: skip
    used = set(re.findall(r"\$([A-Z_]+)", script))
    assert used == set(environment)


@pytest.mark.parametrize("service", ["superset", "superset-reports"])
def test_superset_is_given_every_variable_that_its_configuration_reads(service):
    configuration = (ROOT / "stack/superset/superset_config.py").read_text()
    read = {f"SELFGEN_SUPERSET_{name}" for name in re.findall(r'_(?:given|is_true)\("(\w+)"', configuration)}
    given = SERVICES[service]["environment"]
    assert {name: plain(given[name]) for name in read} == dict.fromkeys(read, "") | {
        "SELFGEN_SUPERSET_URL": f"http://superset:{PORTS['superset']}"
    }
    fields = {name.removeprefix("SELFGEN_").lower() for name in read} - {"superset_secret"}
    assert fields <= set(Settings.model_fields)


def test_pairs_that_talk_much_are_on_one_node_and_one_network():
    def node(service: str) -> list[str]:
        return SERVICES[service]["deploy"]["placement"]["constraints"]

    assert node("kafka") == node("mongodb") == ["node.labels.selfgen.ingest == true"]
    assert (
        {*map(tuple, map(node, DRUID_ROLES))} == {tuple(node("superset"))} == {("node.labels.selfgen.serving == true",)}
    )
    assert SERVICES["kafka"]["networks"] == SERVICES["mongodb"]["networks"] == ["ingest"]
    assert SERVICES["superset"]["networks"] == ["serving"]
    assert all("serving" in SERVICES[role]["networks"] for role in DRUID_ROLES)


def test_named_volumes_are_declared_and_all_used():
    used = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if not volume.startswith(".")
    }
    assert used == set(COMPOSE["volumes"])


# --------------------------------------------------------------------------------- docker-compose itself
def compose_config(folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `docker-compose config -q` with these variables and no others of ours."""
    binary = shutil.which("docker-compose")
    if binary is None:
        pytest.fail("docker-compose is not installed: apt-get install --no-install-recommends docker-compose")
    nothing = folder / "env"
    nothing.touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SELFGEN_", "COMPOSE_"))}
    return subprocess.run(
        [binary, "--file", str(ROOT / "docker-compose.yml"), "--env-file", str(nothing), "config", "-q"],
        env=environment | variables, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_docker_compose_accepts_the_file(tmp_path):
    done = compose_config(tmp_path, SECRETS)
    assert done.returncode == 0, done.stderr


def test_docker_compose_names_a_secret_that_is_not_set(tmp_path):
    missing = "SELFGEN_COUCHBASE_ADMIN_PASSWORD"
    done = compose_config(tmp_path, {name: value for name, value in SECRETS.items() if name != missing})
    assert done.returncode != 0
    assert f"set {missing} in .env" in done.stderr
