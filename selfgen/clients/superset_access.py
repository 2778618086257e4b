"""Who may see what in Superset: roles as code, a row rule for each client, users.

A role is a file of `superset/roles/`: what it may do, the datasets it sees, and the rows it sees by itself. A client's
user has two roles: `client`, with every right and no row, and the one named for the client, with no right and a rule
that adds the client's rows. The rules of both are in one group, which Superset joins by OR: whoever has only the
first sees nothing, and a rule is part of the key under which Superset caches an answer, so that no two clients
share one.

>>> from selfgen.clients import superset_access
>>> users = superset_access.read_users(Path("users.yaml"))
>>> superset_access.apply_users(settings, users, passwords=Path("passwords.yaml"))
{'ana': 'unchanged', 'bodegas': 'created'}
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from selfgen.clients.superset_rest import Asset, Client, SupersetError
from selfgen.settings import ROOT, Settings

ROLES = ROOT / "superset" / "roles"

#: The column that says whose a row is.
OWNER = "client_id"
_CLIENT_ROLE = "client:"
#: Superset's own limit of a role's name, and what stays of it for a client.
_ROLE_NAME = 64
MAX_CLIENT_ID = _ROLE_NAME - len(_CLIENT_ROLE)

Outcome = Literal["created", "changed", "unchanged"]


class Rows(msgspec.Struct, forbid_unknown_fields=True):
    """A row rule: of one group, a row is seen where any clause holds."""

    group_key: str
    clause: str


class Role(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A role as its file states it; `like` names roles whose permissions it has too."""

    name: str
    description: str
    permissions: dict[str, list[str]]
    datasets: Literal["of clients", "all"]
    databases: Literal["none", "all"] = "none"
    like: list[str] = []
    rows: Rows | None = None


class User(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A user as the file states it; without a password of its own it gets one that is made up."""

    username: str
    role: Literal["operator", "analyst", "installer", "client"]
    client_id: str | None = None
    name: str = ""
    email: str = ""
    active: bool = True
    password_env: str = ""
    password_file: str = ""


# -- what is stated ----------------------------------------------------------------------------------


def read_roles(folder: Path = ROLES) -> dict[str, Role]:
    """Return the roles of a folder by name."""
    read = (msgspec.convert(yaml.safe_load(path.read_text()), Role) for path in sorted(folder.glob("*.yaml")))
    return {role.name: role for role in read}


def read_users(file: Path) -> list[User]:
    """Return the users of a YAML file, `users:` with a list.

    Raises
    ------
    SupersetError
        If the file cannot be read, or says of a user what cannot be.
    """
    try:
        users = msgspec.convert(yaml.safe_load(file.read_text())["users"], list[User])
        for user in users:
            _check(user)
        if twice := _repeated(users):
            raise ValueError(f"there twice: {', '.join(twice)}")
    except OSError as error:
        raise SupersetError(f"{file}: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise SupersetError(f"{file} is no list of users (users: [{{username: …, role: …}}]): {error}") from error
    return users


def _repeated(users: Sequence[User]) -> list[str]:
    """Return the names that more than one has; Superset takes capitals and small letters of them for the same."""
    counts = Counter(user.username.lower() for user in users)
    return sorted(name for name, count in counts.items() if count > 1)


def _check(user: User) -> None:
    if (user.role == "client") != (user.client_id is not None):
        raise ValueError(f"{user.username}: a client_id goes with role client, and role client with a client_id")
    if user.client_id is not None and not 1 <= len(user.client_id) <= MAX_CLIENT_ID:
        raise ValueError(f"{user.username}: Superset's roles take a client_id of 1 to {MAX_CLIENT_ID} characters")
    if user.password_env and user.password_file:
        raise ValueError(f"{user.username}: one of password_env and password_file")


def client_role(client_id: str) -> str:
    """Return the name of the role, and of the rule, that adds a client's rows."""
    return _CLIENT_ROLE + client_id


def owner_clause(client_id: str) -> str:
    """Return the SQL condition of a client's rows."""
    literal = client_id.replace("'", "''")
    return f"\"{OWNER}\" = '{literal}'"


# -- roles and rules ---------------------------------------------------------------------------------


class Access:
    """The roles, rules and users of a Superset, over its REST interface."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._roles: dict[str, int] = {role["name"]: role["id"] for role in client.pages("security/roles/", "name")}

    # ---- roles

    def role(self, name: str) -> int:
        """Return a role's id; it is made, without a right, where it is not there."""
        if name not in self._roles:
            self._roles[name] = self.client.call("POST", "security/roles/", json={"name": name}).json()["id"]
        return self._roles[name]

    def apply_roles(self, roles: Mapping[str, Role], assets: Mapping[str, Asset]) -> dict[str, Outcome]:
        """Make the roles those stated, for the datasets and dashboards of the assets.

        The rules come before the rights: at no moment does a role see more than is stated. Dashboards that show a
        dataset which is not of clients are for those roles that see all datasets.
        """
        datasets = {asset["uuid"]: asset for name, asset in assets.items() if name.startswith("datasets/")}
        ids = {one["uuid"]: one["id"] for one in self.client.pages("dataset/", "table_name")}
        of_clients = {uuid for uuid, one in datasets.items() if OWNER in _columns(one)}
        owned = sorted(ids[uuid] for uuid in of_clients)
        fresh = roles.keys() - self._roles.keys()
        done: dict[str, Outcome] = {}
        for role in roles.values():
            if role.rows:
                done[f"rule {role.name}"] = self._apply_rule(
                    role.name, role.rows, owned, description="rows of the role by itself"
                )
        for rule in self.client.pages("rowlevelsecurity/", "name"):
            if rule["name"].startswith(_CLIENT_ROLE):
                client_id = rule["name"].removeprefix(_CLIENT_ROLE)
                done[f"rule {rule['name']}"] = self._apply_rule(rule["name"], own_rows(roles, client_id), owned)
        known = {
            (one["permission"]["name"], one["view_menu"]["name"]): one["id"]
            for one in self.client.pages("security/permissions-resources/", "id")
        }
        for role in roles.values():
            seen = of_clients if role.datasets == "of clients" else set(datasets)
            wanted = {known[one] for one in self._permissions(role, roles, known)}
            wanted |= _data_access(known, {ids[uuid] for uuid in seen}, databases=role.databases == "all")
            changed = self._apply_permissions(role.name, wanted)
            done[f"role {role.name}"] = "created" if role.name in fresh else "changed" if changed else "unchanged"
        wide = sorted(self.role(role.name) for role in roles.values() if role.datasets == "all")
        return done | self._apply_dashboards(assets, of_clients, wide)

    def _permissions(
        self, role: Role, roles: Mapping[str, Role], known: Mapping[tuple[str, str], int]
    ) -> Iterator[tuple[str, str]]:
        """Return (permission, view) pairs of a role, with those of the roles it is like."""
        for view, permissions in role.permissions.items():
            for permission in permissions:
                if (permission, view) not in known:
                    raise SupersetError(f"role {role.name}: this Superset has no permission {permission} on {view}")
                yield permission, view
        for name in role.like:
            if name in roles:
                yield from self._permissions(roles[name], roles, known)
            elif name in self._roles:
                for one in self._permissions_of(self._roles[name]):
                    yield one["permission_name"], one["view_menu_name"]
            else:
                raise SupersetError(f"role {role.name} is to be like {name}, which is not there")

    def _permissions_of(self, role: int) -> list[dict[str, Any]]:
        answer = self.client.call("GET", f"security/roles/{role}/permissions/")
        found: list[dict[str, Any]] = answer.json()["result"]
        return found

    def _apply_permissions(self, name: str, wanted: set[int]) -> bool:
        role = self.role(name)
        if {one["id"] for one in self._permissions_of(role)} == wanted:
            return False
        body = {"permission_view_menu_ids": sorted(wanted)}
        self.client.call("POST", f"security/roles/{role}/permissions", json=body)
        return True

    # ---- rules

    def _apply_rule(self, name: str, rows: Rows, datasets: Sequence[int], description: str = "") -> Outcome:
        body = {
            "name": name,
            "description": description or f"rows of client {name.removeprefix(_CLIENT_ROLE)}",
            "filter_type": "Regular",
            "group_key": rows.group_key,
            "clause": rows.clause,
            "tables": list(datasets),
            "roles": [self.role(name)],
        }
        found = next((one for one in self.client.pages("rowlevelsecurity/", "name", _named("name", name))), None)
        if found is None:
            self.client.call("POST", "rowlevelsecurity/", json=body)
            return "created"
        shown = self.client.call("GET", f"rowlevelsecurity/{found['id']}").json()["result"]
        for key in ("tables", "roles"):
            shown[key] = sorted(one["id"] for one in shown[key])
        if all(shown[key] == value for key, value in body.items()):
            return "unchanged"
        self.client.call("PUT", f"rowlevelsecurity/{found['id']}", json=body)
        return "changed"

    def roles_of(self, user: User) -> list[int]:
        """Return the ids of a user's roles; role and rule of its client are made where they are not there."""
        base = next(iter(self.client.pages("rowlevelsecurity/", "name", _named("name", "client"))), None)
        if user.role not in self._roles or base is None:
            raise SupersetError("the roles are not in Superset yet: selfgen superset apply")
        if user.client_id is None:
            return [self._roles[user.role]]
        datasets = sorted(one["id"] for one in base["tables"])
        self._apply_rule(client_role(user.client_id), own_rows(read_roles(), user.client_id), datasets)
        return [self._roles[user.role], self._roles[client_role(user.client_id)]]

    # ---- dashboards

    def _apply_dashboards(
        self, assets: Mapping[str, Asset], of_clients: set[str], wide: Sequence[int]
    ) -> dict[str, Outcome]:
        charts = {one["uuid"]: one for name, one in assets.items() if name.startswith("charts/")}
        ids = {one["uuid"]: one for one in self.client.pages("dashboard/", "dashboard_title")}
        done: dict[str, Outcome] = {}
        for name, dashboard in assets.items():
            if not name.startswith("dashboards/"):
                continue
            shown = {charts[uuid]["dataset_uuid"] for uuid in _chart_uuids(dashboard)}
            roles = [] if shown <= of_clients else list(wide)
            found = ids[dashboard["uuid"]]
            if sorted(role["id"] for role in found["roles"]) != roles:
                self.client.call("PUT", f"dashboard/{found['id']}", json={"roles": roles})
                done[f"who sees dashboard {dashboard['dashboard_title']}"] = "changed"
        return done

    # ---- users

    def users(self) -> dict[str, dict[str, Any]]:
        """Return the users by name, as Superset has them."""
        return {user["username"]: user for user in self.client.pages("security/users/", "username")}


def own_rows(roles: Mapping[str, Role], client_id: str) -> Rows:
    """Return the rule of a client's rows, in the group of the role `client`."""
    base = roles["client"].rows
    if base is None:
        raise SupersetError("role client has no rule: its users would see all rows")
    return Rows(base.group_key, owner_clause(client_id))


def _columns(dataset: Asset) -> set[str]:
    return {column["column_name"] for column in dataset["columns"]}


def _chart_uuids(dashboard: Asset) -> set[str]:
    items = [item for item in dashboard["position"].values() if isinstance(item, dict)]
    return {item["meta"]["uuid"] for item in items if item["type"] == "CHART"}


def _data_access(known: Mapping[tuple[str, str], int], datasets: Iterable[int], *, databases: bool) -> set[int]:
    """Return the permissions that open datasets, and the databases to SQL."""
    endings = tuple(f"](id:{number})" for number in datasets)
    opened = {
        i for (permission, view), i in known.items() if permission == "datasource_access" and view.endswith(endings)
    }
    if len(opened) != len(endings):
        raise SupersetError("Superset has not made its permissions of all datasets yet: apply again")
    return opened | {i for (permission, _), i in known.items() if databases and permission == "database_access"}


def _named(column: str, value: str) -> list[dict[str, str]]:
    return [{"col": column, "opr": "eq", "value": value}]


# -- users -------------------------------------------------------------------------------------------


def list_users(settings: Settings) -> list[dict[str, Any]]:
    """Return each user's name, role, client, e-mail and whether it may log in."""
    return [_described(user) for _, user in sorted(Access(Client(settings)).users().items())]


def _described(user: Mapping[str, Any]) -> dict[str, Any]:
    names = [role["name"] for role in user["roles"]]
    clients = [name.removeprefix(_CLIENT_ROLE) for name in names if name.startswith(_CLIENT_ROLE)]
    return {
        "username": user["username"],
        "role": ", ".join(sorted(name for name in names if not name.startswith(_CLIENT_ROLE))),
        "client_id": ", ".join(clients),
        "name": f"{user['first_name']} {user['last_name']}".strip(),
        "email": user["email"],
        "active": user["active"],
    }


def apply_users(
    settings: Settings,
    users: Sequence[User],
    passwords: Path,
    base: Path = Path(),
    of_registry: Sequence[User] = (),
) -> dict[str, str]:
    """Make users those stated; others stay as they are.

    A user keeps the password it has, unless the statement names another. One that is new and names none gets a
    password that is made up, and written to `passwords` before the user is made, so that none is lost.

    Parameters
    ----------
    passwords : Path
        YAML of user names and passwords, readable by its owner only; added to.
    base : Path
        Folder that `password_file` starts from.
    of_registry : sequence of User
        Clients' users that nobody named: each becomes one only under a name that is free, or its own already.

    Returns
    -------
    dict of str to str
        `created`, `changed` or `unchanged`, by user; of a client whose id is too long, that.

    Raises
    ------
    SupersetError
        If a name is somebody else's, Superset does not answer or refuses, or a password that is named is not there.
        What was done before stays.
    """
    too_long = [user for user in of_registry if len(user.client_id or "") > MAX_CLIENT_ID]
    stated = [*users, *(user for user in of_registry if user not in too_long)]
    if twice := _repeated(stated):
        raise SupersetError(f"named in the file, and the id of another client of the registry: {', '.join(twice)}")
    given = {user.username: _given_password(user, base) for user in stated}
    access = Access(Client(settings))
    there = access.users()
    if settings.superset_user in given:
        raise SupersetError(f"{settings.superset_user} is the administrator, who is no user of this kind")
    if taken := _taken(there, of_registry):
        raise SupersetError(
            f"{', '.join(taken)}: there are users of these names who are not the clients of these ids; give the clients"
            " users of other names in a file"
        )
    done: dict[str, str] = {
        user.username: f"left out: Superset's roles take a client_id of up to {MAX_CLIENT_ID} characters"
        for user in too_long
    }
    for user in stated:
        done[user.username] = _apply_user(access, there.get(user.username), user, given[user.username], passwords)
    return done


def _taken(there: Mapping[str, Mapping[str, Any]], of_registry: Sequence[User]) -> list[str]:
    """Return the clients' ids that are names of users, but not of these clients'."""
    roles = {name.lower(): {role["name"] for role in user["roles"]} for name, user in there.items()}
    held = {user.username: roles.get(user.username.lower()) for user in of_registry}
    return [name for name, names in held.items() if names is not None and client_role(name) not in names]


def _apply_user(
    access: Access,
    there: Mapping[str, Any] | None,
    user: User,
    password: str | None,
    passwords: Path,
) -> Outcome:
    first, _, last = (user.name or user.username).partition(" ")
    body: dict[str, Any] = {
        "username": user.username,
        "first_name": first,
        "last_name": last or " ",
        "email": user.email or f"{user.username}@localhost",
        "active": user.active,
        "roles": sorted(access.roles_of(user)),
    }
    if there is None:
        body["password"] = password or _kept_password(passwords, user.username)
        access.client.call("POST", "security/users/", json=body)
        return "created"
    before = {**there, "roles": sorted(role["id"] for role in there["roles"])}
    changes = {key: value for key, value in body.items() if before[key] != value}
    # one who may not log in is opened by no password
    if password and user.active and not access.client.opens(user.username, password):
        changes["password"] = password
    if not changes:
        return "unchanged"
    access.client.call("PUT", f"security/users/{there['id']}", json=changes)
    return "changed"


def _given_password(user: User, base: Path) -> str | None:
    if user.password_env:
        if not (password := os.environ.get(user.password_env, "")):
            raise SupersetError(f"{user.username}: {user.password_env} is not set")
        return password
    if user.password_file:
        try:
            return (base / user.password_file).read_text().strip()
        except OSError as error:
            raise SupersetError(f"{user.username}: {base / user.password_file}: {error.strerror}") from error
    return None


def _kept_password(file: Path, username: str) -> str:
    """Return a user's password of the file; one is made up and added where there is none."""
    kept = read_passwords(file)
    if username not in kept:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a") as opened:
            os.fchmod(descriptor, 0o600)
            kept[username] = secrets.token_urlsafe(15)
            opened.write(yaml.safe_dump({username: kept[username]}, allow_unicode=True))
            opened.flush()
            os.fsync(descriptor)
    return kept[username]


def read_passwords(file: Path) -> dict[str, str]:
    """Return what a file of passwords holds, by user name."""
    kept: dict[str, str] = yaml.safe_load(file.read_text()) or {} if file.exists() else {}
    return kept
