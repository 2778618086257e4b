"""How Druid keeps what it has taken in: compaction into larger segments, retention, and what there is.

>>> from selfgen.clients import druid_storage
>>> druid_storage.apply(settings)["compaction"]["panel_report"]
'unchanged'
>>> druid_storage.status(settings)["panel_report"]
{'segments': 24, 'rows': 8760000, 'bytes': 1234567890, 'to_compact': 0}
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

from selfgen.clients.druid import SPECS_DIR, coordinator, differences, query
from selfgen.columns import DATASOURCES
from selfgen.settings import Settings

Kind = Literal["compaction", "retention"]
KINDS: tuple[Kind, ...] = ("compaction", "retention")


def read(kind: Kind, datasource: str) -> Any:
    """Return what a data source's file of `druid_specs/compaction/` or `druid_specs/retention/` states."""
    return json.loads((SPECS_DIR / kind / f"{datasource}.json").read_text())


def _compaction(settings: Settings, datasource: str) -> Any:
    answer = coordinator(settings, "GET", f"config/compaction/{datasource}", allowed=(404,))
    return None if answer.status_code == 404 else answer.json()


def _retention(settings: Settings, datasource: str) -> Any:
    return coordinator(settings, "GET", f"rules/{datasource}").json() or None


_IN_FORCE: dict[Kind, Callable[[Settings, str], Any]] = {"compaction": _compaction, "retention": _retention}
_WRITTEN_TO: dict[Kind, str] = {"compaction": "config/compaction", "retention": "rules/{datasource}"}


def diff(settings: Settings) -> dict[str, dict[str, list[str]]]:
    """Return what `apply` would change, by kind and data source."""
    return {kind: {name: _diff(settings, kind, name) for name in DATASOURCES} for kind in KINDS}


def _diff(settings: Settings, kind: Kind, datasource: str) -> list[str]:
    in_force = _IN_FORCE[kind](settings, datasource)
    # the files state Druid's defaults too: what they no longer state is to go
    return ["not there"] if in_force is None else differences(read(kind, datasource), in_force, whole=True)


def apply(settings: Settings) -> dict[str, dict[str, str]]:
    """Make compaction and retention those of `druid_specs/`; what is as stated is not written again.

    Druid compacts by itself from then on, a task at a time, after the batch tasks.

    Returns
    -------
    dict of dict of str to str
        `created`, `changed` or `unchanged`, by kind and data source.
    """
    return {kind: {name: _apply(settings, kind, name) for name in DATASOURCES} for kind in KINDS}


def _apply(settings: Settings, kind: Kind, datasource: str) -> str:
    changes = _diff(settings, kind, datasource)
    if not changes:
        return "unchanged"
    path = _WRITTEN_TO[kind].format(datasource=datasource)
    coordinator(settings, "POST", path, body=read(kind, datasource))
    return "created" if changes == ["not there"] else "changed"


def status(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return what each data source holds: `segments`, `rows`, `bytes`, and the bytes that are `to_compact`."""
    sql = (
        'SELECT datasource, COUNT(*) AS segments, SUM(num_rows) AS n, SUM("size") AS bytes FROM sys.segments'
        " WHERE is_active = 1 AND is_published = 1 GROUP BY 1"
    )
    held = {row["datasource"]: row for row in query(settings, sql)}
    answer = coordinator(settings, "GET", "compaction/status").json()
    waiting = {one["dataSource"]: one["bytesAwaitingCompaction"] for one in answer["latestStatus"]}
    return {
        name: {
            "segments": held.get(name, {}).get("segments", 0),
            "rows": held.get(name, {}).get("n", 0),
            "bytes": held.get(name, {}).get("bytes", 0),
            "to_compact": waiting.get(name),
        }
        for name in DATASOURCES
    }
