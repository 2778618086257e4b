"""Secrets of the local Superset: made once, kept, and readable by their owner only."""

from __future__ import annotations

import importlib.util
import os
import stat

import pytest

from selfgen.clients import superset
from selfgen.settings import ROOT


@pytest.fixture(scope="module")
def prepare():
    spec = importlib.util.spec_from_file_location("prepare", ROOT / "stack" / "superset" / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_secret_is_made_once_and_only_its_owner_reads_it(prepare, tmp_path):
    path = tmp_path / "secret"
    assert prepare.kept(path, "first") == "first"
    assert prepare.kept(path, "second") == "first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_configuring_makes_the_signing_key_in_a_private_folder(prepare, tmp_path, monkeypatch):
    monkeypatch.delenv("SELFGEN_SUPERSET_SECRET", raising=False)
    for name in ("SUPERSET_HOME", "SUPERSET_CONFIG_PATH", "TZ"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    home = tmp_path / "superset"
    prepare.configure(home)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert len((home / "secret-key").read_text().strip()) >= 42
    assert (os.environ["SUPERSET_HOME"], os.environ["TZ"]) == (str(home), "UTC")


def test_the_client_reads_the_password_where_the_server_keeps_it(prepare):
    assert prepare.PASSWORD_FILE == superset.PASSWORD_FILE


def test_another_lock_file_is_another_version(prepare, tmp_path, monkeypatch):
    here = prepare.version()
    (tmp_path / "superset").mkdir()
    (tmp_path / "superset" / "requirements.lock").write_text("apache-superset==9.9.9\n")
    monkeypatch.setattr(prepare, "ROOT", tmp_path)
    assert prepare.version() != here
