"""What is written before a server starts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from selfgen.settings import Settings
from stack import lifecycle
from stack.servers import JOBMANAGER, TASKMANAGER


@pytest.mark.parametrize("server", [JOBMANAGER, TASKMANAGER], ids=lambda server: server.name)
def test_a_server_that_shares_its_configuration_can_be_the_first_in_an_empty_folder(server, tmp_path):
    settings = Settings(build_dir=tmp_path)
    lifecycle.prepare(settings, server)
    shared = settings.stack_dir / "flink"
    assert yaml.safe_load((shared / "config.yaml").read_text())["rest.port"] == settings.port("flink")


def test_a_shared_configuration_is_whole_at_every_moment(tmp_path):
    settings = Settings(build_dir=tmp_path)
    lifecycle.prepare(settings, JOBMANAGER)
    path = settings.stack_dir / "flink" / "config.yaml"
    whole = path.read_text()
    with ThreadPoolExecutor(1) as pool:
        preparing = pool.submit(lambda: [lifecycle.prepare(settings, TASKMANAGER) for _ in range(50)])
        seen = {path.read_text()}
        while not preparing.done():
            seen.add(path.read_text())
        preparing.result()
    assert seen == {whole}
    assert {found.name for found in path.parent.iterdir() if found.is_file()} == {
        "config.yaml", "log4j-cli.properties", "log4j-console.properties",
    }  # fmt: skip
