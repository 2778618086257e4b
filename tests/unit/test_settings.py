from __future__ import annotations

from selfgen.settings import PORT_OFFSETS, Settings


def test_every_setting_says_what_it_is():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_environment_gives_a_child_the_same_settings(monkeypatch, tmp_path):
    given = Settings(port_base=20_000, build_dir=tmp_path, max_gap_s=60, superset_password="s")
    for name, value in given.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == given


def test_no_two_listeners_share_a_port():
    assert len(set(PORT_OFFSETS.values())) == len(PORT_OFFSETS)


def test_an_address_that_is_given_wins_over_the_local_stack():
    assert Settings(kafka_bootstrap="kafka:9092").bootstrap_servers == "kafka:9092"
    assert Settings(port_base=20_000).bootstrap_servers == "127.0.0.1:20001"


def test_a_secret_is_not_printed():
    assert "hidden" not in repr(Settings(superset_password="hidden"))
