"""docs/installers.md is what the commands really print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from selfgen.cli import app
from selfgen.settings import ROOT
from tests.integration.registry_support import couchbase_settings

pytestmark = pytest.mark.integration

GUIDE = ROOT / "docs" / "installers.md"
BLOCK = re.compile(r"^```(?P<kind>console|csv (?P<file>\S+))\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
#: What is another each time: the present instant, and how long something took.
PRESENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z|\(\d+\.\d s\)")


def carry_out(command: str) -> str:
    """Return what a command of the guide prints."""
    program, *arguments = shlex.split(command.removeprefix("$ "))
    if program == "cat":
        return Path(arguments[0]).read_text().replace("\r\n", "\n")
    assert program == "selfgen"
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output


def performed(text: str) -> str:
    """Return the guide with the output that its commands have now."""

    def block(found: re.Match[str]) -> str:
        if found["file"]:
            Path(found["file"]).write_text(found["text"])
            return found[0]
        printed = "".join(
            f"{command}\n{carry_out(command)}" for command in found["text"].splitlines() if command.startswith("$ ")
        )
        lines = "\n".join(line.rstrip() for line in printed.splitlines())
        return f"```console\n{lines}\n```"

    return BLOCK.sub(block, text)


@pytest.fixture
def as_in_the_guide(stack, tmp_path, monkeypatch):
    couchbase_settings(stack)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SELFGEN_OPERATOR", "ana")
    for module in ("couchbase_admin.terminal", "selfgen.cli.registry"):
        monkeypatch.setattr(f"{module}.out.width", 110)


def test_the_guide_shows_what_the_commands_print(as_in_the_guide):
    written = GUIDE.read_text()
    assert PRESENT.sub("…", performed(written)) == PRESENT.sub("…", written)
