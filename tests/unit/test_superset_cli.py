from __future__ import annotations

import pytest
from typer.testing import CliRunner

from selfgen.cli import app
from selfgen.settings import get_settings
from tests.ports import free_port_base


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Settings of a stack that does not run."""
    monkeypatch.setenv("SELFGEN_PORT_BASE", str(free_port_base()))
    monkeypatch.setenv("SELFGEN_BUILD_DIR", str(tmp_path))
    get_settings.cache_clear()
    yield get_settings()
    get_settings.cache_clear()


def test_apply_without_a_password_says_how_to_get_one(elsewhere):
    result = CliRunner().invoke(app, ["superset", "apply"])
    assert result.exit_code == 1
    assert "SELFGEN_SUPERSET_PASSWORD" in result.stderr


def test_apply_without_a_server_names_its_address(elsewhere, monkeypatch):
    monkeypatch.setenv("SELFGEN_SUPERSET_PASSWORD", "any")
    get_settings.cache_clear()
    result = CliRunner().invoke(app, ["superset", "apply", "--json"])
    assert result.exit_code == 1
    assert elsewhere.superset in result.stderr
    assert result.stdout == ""
