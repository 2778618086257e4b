"""Roles as code and the file of users: what may be stated, and what follows from it."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from selfgen.cli import app
from selfgen.clients import superset_access, superset_rest
from selfgen.clients.superset import read_assets
from selfgen.clients.superset_access import (
    MAX_CLIENT_ID,
    OWNER,
    User,
    _kept_password,
    client_role,
    own_rows,
    owner_clause,
    read_passwords,
    read_roles,
    read_users,
)
from selfgen.clients.superset_rest import Client, SupersetError
from selfgen.settings import Settings
from tests.ports import free_port_base

ROLES = read_roles()


def permissions(name: str) -> set[tuple[str, str]]:
    """Return the permissions of a role of ours, with those of our roles that it is like."""
    role = ROLES[name]
    own = {(permission, view) for view, every in role.permissions.items() for permission in every}
    return own.union(*(permissions(other) for other in role.like if other in ROLES))


def users_file(folder: Path, *users: dict[str, object]) -> Path:
    file = folder / "users.yaml"
    file.write_text(yaml.safe_dump({"users": list(users)}))
    return file


def test_the_roles_are_the_four_kinds_of_people():
    assert set(ROLES) == {"operator", "analyst", "installer", "client"}
    assert all(role.description for role in ROLES.values())


def test_a_client_reads_dashboards_and_nothing_that_asks_or_writes():
    granted = permissions("client")
    assert not {view for _, view in granted} & {"SQLLab", "SQL Lab", "SQL Editor", "SavedQuery", "Query", "Datasource"}
    assert not {view for _, view in granted} & {"User", "Role", "Row Level Security", "Database", "ReportSchedule"}
    own_state = {"CurrentUserRestApi", "DashboardFilterStateRestApi", "DashboardPermalinkRestApi"}
    assert {view for permission, view in granted if "write" in permission} == own_state
    assert not {permission for permission, _ in granted if "export" in permission or "explore" in permission}
    assert (ROLES["client"].datasets, ROLES["client"].databases, ROLES["client"].like) == ("of clients", "none", [])


def test_only_who_sees_all_datasets_asks_in_sql():
    for role in ROLES.values():
        assert ("sql_lab" in role.like) <= (role.datasets == "all")
        assert (role.databases == "all") == (role.datasets == "all")


def test_the_client_role_sees_no_row_by_itself():
    rows = ROLES["client"].rows
    assert rows is not None
    assert rows.clause == "1 = 0"
    assert own_rows(ROLES, "C-1") == type(rows)(rows.group_key, "\"client_id\" = 'C-1'")
    assert [role.name for role in ROLES.values() if role.rows] == ["client"]


def test_every_dataset_of_clients_has_the_column_that_the_rules_read():
    datasets = {
        asset["table_name"]: {column["column_name"] for column in asset["columns"]}
        for name, asset in read_assets(Settings(_env_file=None)).items()
        if name.startswith("datasets/")
    }
    assert "topic_performance" in {table for table, columns in datasets.items() if OWNER not in columns}
    assert {"panel_report", "panel_alarm", "sensor_report", "sensor_alarm", "wind_report", "wind_alarm", "alarms"} <= {
        table for table, columns in datasets.items() if OWNER in columns
    }


@given(st.text(min_size=1, max_size=MAX_CLIENT_ID))
def test_a_clients_condition_is_one_literal(client_id):
    head, literal = owner_clause(client_id).split(" = ", 1)
    assert (head, literal[0], literal[-1]) == ('"client_id"', "'", "'")
    assert literal[1:-1].replace("''", "'") == client_id
    assert "'" not in literal[1:-1].replace("''", "")
    assert len(client_role(client_id)) <= 64


def test_users_are_read_with_their_role_and_client(tmp_path):
    file = users_file(
        tmp_path,
        {"username": "ana", "role": "analyst", "email": "ana@example.org"},
        {"username": "bodegas", "role": "client", "client_id": "C-1", "password_env": "BODEGAS"},
    )
    ana, bodegas = read_users(file)
    assert (ana.role, ana.client_id, ana.active) == ("analyst", None, True)
    assert (bodegas.client_id, bodegas.password_env) == ("C-1", "BODEGAS")


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        ({"username": "x", "role": "client"}, "client_id goes with role client"),
        ({"username": "x", "role": "analyst", "client_id": "C-1"}, "client_id goes with role client"),
        ({"username": "x", "role": "admin"}, "Invalid enum value 'admin'"),
        ({"username": "x", "role": "analyst", "password": "secret"}, "unknown field `password`"),
        ({"username": "x", "role": "client", "client_id": "c" * 58}, "1 to 57 characters"),
        ({"username": "x", "role": "analyst", "password_env": "A", "password_file": "b"}, "one of password_env"),
    ],
)
def test_a_user_that_cannot_be_is_refused_by_name(tmp_path, user, reason):
    with pytest.raises(SupersetError, match=reason):
        read_users(users_file(tmp_path, user))


def test_a_user_twice_and_a_file_that_is_not_there_are_refused(tmp_path):
    twice = {"username": "ana", "role": "analyst"}
    with pytest.raises(SupersetError, match="there twice: ana"):
        read_users(users_file(tmp_path, twice, twice))
    with pytest.raises(SupersetError, match=r"away\.yaml: No such file"):
        read_users(tmp_path / "away.yaml")
    (tmp_path / "list.yaml").write_text("- ana\n")
    with pytest.raises(SupersetError, match="is no list of users"):
        read_users(tmp_path / "list.yaml")


def test_a_password_is_made_up_once_and_only_its_owner_reads_it(tmp_path):
    file = tmp_path / "deeper" / "passwords.yaml"
    made = _kept_password(file, "ana: [ñ]")
    assert len(made) >= 20
    assert _kept_password(file, "ana: [ñ]") == made
    other = _kept_password(file, "bo")
    assert read_passwords(file) == {"ana: [ñ]": made, "bo": other}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


class Superset:
    """A Superset with users and their roles, that takes note of what it is asked to change."""

    def __init__(self, **users: list[str]) -> None:
        names = sorted({"analyst", "client"}.union(*users.values()))
        self.roles = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
        self.users = [self.user(*one) for one in enumerate(users.items(), 1)]
        self.changed: list[tuple[str, str, dict[str, object]]] = []

    def user(self, number: int, named: tuple[str, list[str]]) -> dict[str, object]:
        name, roles = named
        person = {"first_name": name, "last_name": " ", "email": f"{name}@localhost", "active": False}
        return {"id": number, "username": name} | person | {"roles": [r for r in self.roles if r["name"] in roles]}

    def pages(self, path: str, _order: str, filters: Sequence[dict[str, str]] = ()) -> list[dict[str, object]]:
        rules = [{"id": 1, "tables": []} for one in filters if one["value"] == "client"]
        return {"security/roles/": self.roles, "security/users/": self.users, "rowlevelsecurity/": rules}[path]

    def call(self, method: str, path: str, json: dict[str, object] | None = None) -> object:
        if path.startswith("security/users/"):
            self.changed.append((method, path, json or {}))
        return SimpleNamespace(json=lambda: {"id": 99})

    def opens(self, _username: str, _password: str) -> bool:
        return False


@pytest.fixture
def apply(monkeypatch, tmp_path):
    """Give what applies users to a Superset that is given."""

    def applied(there: Superset, users: list[User], clients: Sequence[str] = ()) -> dict[str, str]:
        monkeypatch.setattr(superset_access, "Client", lambda _settings: there)
        of_registry = [User(username=one, role="client", client_id=one) for one in clients]
        return superset_access.apply_users(
            Settings(_env_file=None), users, tmp_path / "passwords.yaml", of_registry=of_registry
        )

    return applied


def test_a_client_of_the_registry_takes_nobodys_name(apply):
    there = Superset(ana=["analyst"], bo=["client", "client:bo"], cy=["client", "client:other"])
    with pytest.raises(SupersetError, match=r"^ANA, cy: there are users of these names who are not the clients"):
        apply(there, [], ["ANA", "bo", "cy"])
    person = User(username="C-2", role="client", client_id="C-1")
    with pytest.raises(SupersetError, match="id of another client of the registry: c-2"):
        apply(there, [person], ["C-2"])
    assert there.changed == []


def test_a_clients_id_that_is_too_long_is_told_and_the_others_are_made(apply):
    there, longest = Superset(), "c" * MAX_CLIENT_ID
    done = apply(there, [], [longest + "c", longest])
    assert done == {
        longest + "c": "left out: Superset's roles take a client_id of up to 57 characters",
        longest: "created",
    }
    assert [body["username"] for _, _, body in there.changed] == [longest]


def test_the_password_of_one_who_may_not_log_in_is_not_tried(apply, monkeypatch):
    monkeypatch.setenv("GONE", "a password")
    there = Superset(gone=["analyst"])
    assert apply(there, [User(username="gone", role="analyst", active=False, password_env="GONE")]) == {
        "gone": "unchanged"
    }
    assert there.changed == []


def test_a_password_that_cannot_be_tried_is_no_traceback():
    client = object.__new__(Client)
    client.url = f"http://127.0.0.1:{free_port_base()}"
    with pytest.raises(SupersetError, match="no answer from Superset at http"):
        client.opens("ana", "a password")


def test_a_password_is_tried_again_where_log_ins_are_limited(monkeypatch):
    answers = iter([SimpleNamespace(status_code=429, ok=False), SimpleNamespace(status_code=200, ok=True)])
    monkeypatch.setattr(superset_rest, "_LIMITED_S", 0.0)
    monkeypatch.setattr(superset_rest.requests, "post", lambda *_given, **_named: next(answers))
    client = object.__new__(Client)
    client.url = "http://superset.example"
    assert client.opens("ana", "a password")


def test_applying_users_needs_a_file_or_the_registry():
    result = CliRunner().invoke(app, ["superset", "users", "apply"])
    assert result.exit_code == 1
    assert "--registry" in result.stderr
