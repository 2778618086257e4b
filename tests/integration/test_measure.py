"""Benchmarks and failure tests as commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from tenacity import retry, stop_after_delay, wait_fixed

from selfgen.settings import Settings
from stack.supervisor import leftovers

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_measurement_that_is_stopped_stops_its_servers(tmp_path, number, code):
    command = [sys.executable, "-c", "from selfgen.cli import main; main()", "bench", "registry"]
    process = subprocess.Popen(command, env=os.environ | {"SELFGEN_BUILD_DIR": str(tmp_path)})
    own = Settings(build_dir=tmp_path / "measure" / "registry")

    @retry(stop=stop_after_delay(60), wait=wait_fixed(0.1), reraise=True)
    def started() -> None:
        assert any("CouchbaseStandIn" in " ".join(found.cmdline()) for found in leftovers(own))

    started()
    process.send_signal(number)
    assert process.wait(60) == code
    assert leftovers(own) == []
