"""Superset: its dashboards as code, applied over its REST interface.

`superset/assets/` holds what Superset's own export writes, but for two things that have their home elsewhere
and are filled in here: the columns of a data source (`selfgen.columns`) and the address of Druid's broker
(settings).

>>> from selfgen.clients import superset
>>> superset.apply(settings).changed
('chart Energy by hour',)
>>> superset.dashboard_url(settings, "selfgen-overview")
'http://127.0.0.1:18017/superset/dashboard/selfgen-overview/'
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from pathlib import Path
from string import Template
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
import yaml

from selfgen.columns import Column
from selfgen.derived import stored
from selfgen.settings import ROOT, Settings

ASSETS = ROOT / "superset" / "assets"
OVERVIEW = "selfgen-overview"
PASSWORD_FILE = "superset-admin-password"  # noqa: S105 - its name, not a password

_TIME = {"column_name": "__time", "verbose_name": "Time (UTC)", "type": "TIMESTAMP", "is_dttm": True}
# the client's own clock, as its rows carry it: time grains and ranges on it are local hours, days, months
_LOCAL = {
    "column_name": "local",
    "verbose_name": "Local time",
    "type": "TIMESTAMP",
    "is_dttm": True,
    "expression": 'TIME_PARSE(SUBSTRING("local_time", 1, 19))',
}
_TYPES = {"string": "VARCHAR", "double": "DOUBLE", "long": "BIGINT"}
_TIMEOUT_S = 120.0

Asset = dict[str, Any]

#: the field that people know an asset by, by kind
_NAMES = {
    "databases": "database_name",
    "datasets": "table_name",
    "charts": "slice_name",
    "dashboards": "dashboard_title",
}


class SupersetError(Exception):
    """Superset cannot be reached, or refused what was asked; the message says which and why."""


class Applied(NamedTuple):
    """What an application of the assets did.

    `assets` counts what was applied, by kind; `created` and `changed` name what that made or altered.
    """

    assets: dict[str, int]
    created: tuple[str, ...]
    changed: tuple[str, ...]


def password(settings: Settings) -> str:
    """Return the administrator's password: the configured one, or the one Superset's first start made.

    Raises
    ------
    SupersetError
        If there is neither.
    """
    configured = settings.superset_password.get_secret_value()
    if configured:
        return configured
    kept = settings.stack_dir / "superset" / PASSWORD_FILE
    if not kept.exists():
        raise SupersetError(
            f"no password for Superset: set SELFGEN_SUPERSET_PASSWORD, or start Superset, which makes {kept}"
        )
    return kept.read_text().strip()


def dashboard_url(settings: Settings, slug: str = OVERVIEW) -> str:
    """Return the address of a dashboard."""
    return f"{settings.superset}/superset/dashboard/{slug}/"


def dataset_column(column: Column) -> Asset:
    """Return a data source's column as Superset describes it; its unit stands in its label."""
    label = f"{column.label} ({column.unit})" if column.unit else column.label
    return {"column_name": column.name, "verbose_name": label, "type": _TYPES[column.type]}


def dataset_columns(datasource: str) -> list[Asset]:
    """Return all columns of a data source as Superset describes them."""
    columns = [_TIME, *map(dataset_column, stored(datasource))]
    return [*columns, _LOCAL] if any(column["column_name"] == "local_time" for column in columns) else columns


def read_assets(settings: Settings, folder: Path = ASSETS) -> dict[str, Asset]:
    """Return the assets of a folder by their path in it, with columns and addresses filled in."""
    broker = urlsplit(settings.broker).netloc
    assets: dict[str, Asset] = {}
    for path in sorted(folder.rglob("*.yaml")):
        name = path.relative_to(folder).as_posix()
        asset: Asset = yaml.safe_load(path.read_text())
        if name.startswith("databases/"):
            asset["sqlalchemy_uri"] = Template(asset["sqlalchemy_uri"]).substitute(broker=broker)
        elif name.startswith("datasets/") and "columns" not in asset:
            asset["columns"] = dataset_columns(asset["table_name"])
        assets[name] = asset
    return assets


def pack(assets: dict[str, Asset]) -> bytes:
    """Return the assets as the zip file that Superset imports."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, asset in assets.items():
            bundle.writestr(f"assets/{name}", yaml.safe_dump(asset, sort_keys=False, allow_unicode=True))
    return buffer.getvalue()


class Client:
    """A session with Superset's REST interface, logged in as the administrator."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.superset
        self.session = requests.Session()
        login = {"username": settings.superset_user, "password": password(settings), "provider": "db"}
        token = self.call("POST", "security/login", json=login).json()["access_token"]
        self.session.headers["Authorization"] = f"Bearer {token}"
        csrf = self.call("GET", "security/csrf_token/").json()["result"]
        self.session.headers.update({"X-CSRFToken": csrf, "Referer": self.url})

    def call(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """Return the answer to a request below `/api/v1/`.

        Raises
        ------
        SupersetError
            If there is no answer, or it is an error.
        """
        url = f"{self.url}/api/v1/{path}"
        try:
            answer = self.session.request(method, url, timeout=_TIMEOUT_S, **arguments)
        except requests.RequestException as error:
            raise SupersetError(f"no answer from Superset at {self.url}: {error}") from error
        if not answer.ok:
            raise SupersetError(f"{method} {url}: {answer.status_code} {answer.text[:1000]}")
        return answer

    def export(self) -> dict[str, Asset]:
        """Return all assets that Superset has, by their path in its export (`charts/Energy_1.yaml`)."""
        content = self.call("GET", "assets/export/").content
        with zipfile.ZipFile(io.BytesIO(content)) as bundle:
            found = {name.partition("/")[2]: bundle.read(name) for name in bundle.namelist()}
        return {name: yaml.safe_load(text) for name, text in found.items() if name.split("/")[0] in _NAMES}

    def load(self, assets: dict[str, Asset]) -> None:
        """Create the assets, or make those that exist the ones given."""
        files = {"bundle": ("assets.zip", pack(assets), "application/zip")}
        self.call("POST", "assets/import/", files=files, data={"passwords": "{}"})


def apply(settings: Settings, folder: Path = ASSETS) -> Applied:
    """Make Superset's databases, datasets, charts and dashboards those of a folder.

    What exists is updated, and nothing is doubled: applying again changes nothing. Druid need not run.

    Raises
    ------
    SupersetError
        If Superset does not answer or refuses.
    """
    client = Client(settings)
    assets = read_assets(settings, folder)
    before = _by_uuid(client.export())
    client.load(assets)
    after = _by_uuid(client.export())
    return Applied(
        assets=dict(Counter(name.split("/")[0] for name in assets if name != "metadata.yaml")),
        created=tuple(sorted(after[uuid][0] for uuid in after.keys() - before.keys())),
        changed=tuple(sorted(after[uuid][0] for uuid in after.keys() & before.keys() if after[uuid] != before[uuid])),
    )


def _by_uuid(exported: dict[str, Asset]) -> dict[str, tuple[str, Asset]]:
    """Return title and content of each asset by what never changes about it."""
    kinds = {name: name.split("/")[0] for name in exported}
    return {
        asset["uuid"]: (f"{kinds[name].removesuffix('s')} {asset[_NAMES[kinds[name]]]}", asset)
        for name, asset in exported.items()
    }
