from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from stack import prerequisites

SCRIPT = Path(prerequisites.__file__)


def tool(folder: Path, name: str, prints: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)


def run(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT)],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{path}:/bin"},
        check=False,
    )


def complete(folder: Path) -> None:
    tool(folder, "java", 'openjdk version "17.0.15" 2025-04-15')
    tool(folder, "javac", "javac 17.0.15")
    tool(folder, "mvn", "\033[1mApache Maven 3.8.7\033[m")
    tool(folder, "make", "GNU Make 4.3")


def test_nothing_is_said_where_all_is_there(tmp_path):
    complete(tmp_path)
    done = run(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_old_java_is_named_in_one_line(tmp_path):
    complete(tmp_path)
    tool(tmp_path, "java", 'openjdk version "11.0.2" 2019-01-15')
    done = run(tmp_path)
    assert done.returncode == 1
    assert done.stderr == "Java 17 is needed, this is 11: install openjdk-17-jdk-headless\n"


def test_an_old_maven_is_named(tmp_path):
    complete(tmp_path)
    tool(tmp_path, "mvn", "Apache Maven 3.0.5")
    assert run(tmp_path).stderr == "Maven 3.6 or newer is needed, this is 3.0: install maven\n"


def test_a_tool_that_cannot_run_counts_as_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert prerequisites.version_of(["java", "-version"]) is None
    found = prerequisites.problems()
    assert any(line.startswith("Java is missing") for line in found)
    assert any(line.startswith("Maven is missing") for line in found)
    assert any(line.startswith("make is missing") for line in found)


def test_an_old_python_is_named(monkeypatch):
    monkeypatch.setattr(prerequisites.sys, "version_info", (3, 9, 18))
    assert prerequisites.problems()[0].startswith("Python 3.11 or 3.12 is needed, this is 3.9.18")
