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

from collections import Counter
from pathlib import Path
from string import Template
from typing import NamedTuple
from urllib.parse import urlsplit

import yaml

from selfgen.clients import superset_access
from selfgen.clients.superset_rest import NAMES, PASSWORD_FILE, Asset, Client, SupersetError, pack, password
from selfgen.columns import Column
from selfgen.derived import stored
from selfgen.settings import ROOT, Settings

ASSETS = ROOT / "superset" / "assets"
OVERVIEW = "selfgen-overview"

_TIME = {"column_name": "__time", "verbose_name": "Time (UTC)", "type": "TIMESTAMP", "is_dttm": True}
_LOCAL = {"column_name": "local", "verbose_name": "Local time", "type": "TIMESTAMP", "is_dttm": True}
# the client's own clock, by the first of these columns that rows carry: time grains and ranges on it are local hours,
# days, months
_CLOCKS = {"local_clock": 'MILLIS_TO_TIMESTAMP("local_clock")', "local_date": 'TIME_PARSE("local_date")'}
_TYPES = {"string": "VARCHAR", "double": "DOUBLE", "long": "BIGINT"}

__all__ = [
    "ASSETS",
    "OVERVIEW",
    "PASSWORD_FILE",
    "Applied",
    "Client",
    "SupersetError",
    "apply",
    "dashboard_url",
    "dataset_column",
    "pack",
    "password",
    "read_assets",
]


class Applied(NamedTuple):
    """What an application of the assets did.

    `assets` counts what was applied, by kind; `created` and `changed` name what that made or altered.
    """

    assets: dict[str, int]
    created: tuple[str, ...]
    changed: tuple[str, ...]


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
    names = {column["column_name"] for column in columns}
    local = [_LOCAL | {"expression": clock} for column, clock in _CLOCKS.items() if column in names]
    return [*columns, *local[:1]]


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


def apply(settings: Settings, folder: Path = ASSETS) -> Applied:
    """Make Superset's databases, datasets, charts and dashboards those of a folder, and roles those of the code.

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
    access = superset_access.Access(client).apply_roles(superset_access.read_roles(), assets)
    created = [after[uuid][0] for uuid in after.keys() - before.keys()]
    changed = [after[uuid][0] for uuid in after.keys() & before.keys() if after[uuid] != before[uuid]]
    return Applied(
        assets=dict(Counter(name.split("/")[0] for name in assets if name != "metadata.yaml")),
        created=tuple(sorted([*created, *(name for name, done in access.items() if done == "created")])),
        changed=tuple(sorted([*changed, *(name for name, done in access.items() if done == "changed")])),
    )


def _by_uuid(exported: dict[str, Asset]) -> dict[str, tuple[str, Asset]]:
    """Return title and content of each asset by what never changes about it."""
    kinds = {name: name.split("/")[0] for name in exported}
    return {
        asset["uuid"]: (f"{kinds[name].removesuffix('s')} {asset[NAMES[kinds[name]]]}", asset)
        for name, asset in exported.items()
    }
