"""What people changed in Superset's pages, written back into the files that its assets come from.

Superset's own export says more than the files do: its defaults, its numbers of charts, the columns and addresses that
have their home elsewhere. So an export is laid over the files: what says the same stays as it is written, with its
comments and its form, and only what differs is changed.

>>> from selfgen.clients import superset_export
>>> superset_export.export(settings).changed
('charts/energy_total.yaml',)
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from selfgen.clients.superset import ASSETS, read_assets
from selfgen.clients.superset_rest import NAMES, Asset, Client
from selfgen.settings import Settings

#: Has its home elsewhere, or follows from the rest: never written back, whatever Superset says.
_ELSEWHERE = {
    "databases": {"sqlalchemy_uri", "password", "encrypted_extra", "masked_encrypted_extra"},
    "datasets": {"columns"},
    "charts": {"query_context"},
    "dashboards": set(),
}
#: The same, below the top: what the pages compute from the charts that are there.
_COMPUTED = {"chartsInScope", "tabsInScope", "datasource", "slice_id", "dashboards", "show_native_filters"}
#: What Superset says of itself where a file says nothing.
_DEFAULTS: dict[str, Any] = {
    "filter_select_enabled": True,
    "offset": 0,
    "configuration_method": "sqlalchemy_form",
}
#: Names an item of a list of such.
_IDENTITY = {"metrics": "metric_name", "native_filter_configuration": "id"}
#: Lists of charts, by the numbers that Superset gave them.
_CHART_NUMBERS = {"excluded", "timed_refresh_immune_slices", "immune"}
#: Mappings whose keys are such numbers.
_BY_CHART_NUMBER = {"expanded_slices", "chart_configuration", "filter_scopes"}


class Exported(NamedTuple):
    """What an export wrote, by path below the folder, and which files' assets Superset does not have."""

    changed: tuple[str, ...]
    created: tuple[str, ...]
    missing: tuple[str, ...]


def export(settings: Settings, dashboards: Sequence[str] = (), folder: Path = ASSETS) -> Exported:
    """Write what was changed in Superset into the files of a folder.

    Of what the folder does not have yet, that is added which its dashboards show; `dashboards` names others by their
    slug, which are added with all that they show. Nothing is removed: a file whose asset is gone is named.

    Raises
    ------
    SupersetError
        If Superset does not answer.
    """
    there = {asset["uuid"]: (name.split("/")[0], asset) for name, asset in Client(settings).export().items()}
    stated = {name: asset for name, asset in read_assets(settings, folder).items() if "uuid" in asset}
    changed = []
    for name, asset in stated.items():
        if asset["uuid"] in there and rewrite(folder / name, asset, there[asset["uuid"]][1]):
            changed.append(name)
    known = {asset["uuid"] for asset in stated.values()}
    shown = [asset for kind, asset in there.values() if kind == "dashboards" and _is_wanted(asset, known, dashboards)]
    created = [_create(folder, *there[uuid]) for uuid in _needed(shown, there) if uuid not in known]
    missing = [name for name, asset in stated.items() if asset["uuid"] not in there]
    return Exported(tuple(changed), tuple(created), tuple(missing))


def _is_wanted(dashboard: Asset, known: set[str], slugs: Sequence[str]) -> bool:
    return dashboard["uuid"] in known or dashboard.get("slug") in slugs


def _needed(dashboards: Sequence[Asset], there: Mapping[str, tuple[str, Asset]]) -> list[str]:
    """Return the uuids of dashboards, of their charts, and of these charts' and the filters' datasets."""
    needed: dict[str, None] = {}
    for dashboard in dashboards:
        charts = [uuid for uuid in _charts(dashboard).values() if uuid in there]
        needed |= dict.fromkeys(there[uuid][1]["dataset_uuid"] for uuid in charts)
        needed |= dict.fromkeys([*charts, dashboard["uuid"]])
    return list(needed)


def _charts(dashboard: Asset) -> dict[int, str]:
    """Return the uuid of each chart of a dashboard, by its number there."""
    metas = [
        item["meta"] for item in dashboard["position"].values() if isinstance(item, dict) and item["type"] == "CHART"
    ]
    return {meta["chartId"]: meta["uuid"] for meta in metas}


# -- one file ----------------------------------------------------------------------------------------


def rewrite(path: Path, stated: Asset, exported: Asset) -> bool:
    """Lay an exported asset over its file; return whether that changed it.

    Parameters
    ----------
    stated : dict
        What the file says, with all that is filled in.
    exported : dict
        What Superset says of the same.
    """
    original = path.read_text()
    document = _yaml().load(original)
    before = _text(document)
    kind = _kind_of(document)
    if kind == "dashboards":
        exported = _renumbered(exported, stated)
    for key in _ELSEWHERE[kind]:
        exported.pop(key, None)
    if not _lay(document, exported, free=False):
        return False
    path.write_text(in_the_form_of(original, before, _text(document)))
    return True


def in_the_form_of(original: str, before: str, after: str) -> str:
    """Return `after`, with the lines that it shares with `before` as `original` breaks them.

    `before` is what a writer that breaks no line makes of `original`. Where they are not the same but for the breaks,
    `after` is returned as it is.
    """
    pieces, left = [], original.splitlines(keepends=True)
    for line in before.splitlines():
        wanted, piece = "".join(line.split()), ""
        while left and (not piece or "".join(piece.split()) != wanted):
            piece += left.pop(0)
        pieces.append(piece)
    if left or "".join("".join(pieces).split()) != "".join(before.split()):
        return after
    lines, written = after.splitlines(keepends=True), []
    matches = SequenceMatcher(a=before.splitlines(keepends=True), b=lines, autojunk=False)
    for change, start, end, first, last in matches.get_opcodes():
        written += pieces[start:end] if change == "equal" else lines[first:last]
    return "".join(written)


def _create(folder: Path, kind: str, asset: Asset) -> str:
    stem = re.sub(r"\W+", "_", asset[NAMES[kind]].lower()).strip("_")
    name = f"{kind}/{'druid/' if kind == 'datasets' else ''}{stem}.yaml"
    path = folder / name
    if path.exists():
        name = f"{name.removesuffix('.yaml')}_{asset['uuid'][:8]}.yaml"
        path = folder / name
    elsewhere = _ELSEWHERE[kind] - {"columns"}
    kept = {key: value for key, value in asset.items() if key not in elsewhere}
    path.write_text(_text(_pruned(kept)))
    return name


def _text(document: Any) -> str:
    text = io.StringIO()
    _yaml().dump(document, text)
    return text.getvalue()


def _yaml() -> YAML:
    """Return a reader and writer that leaves a file as it was written, but for the breaks of its lines."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1_000_000
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _kind_of(asset: Mapping[str, Any]) -> str:
    return next(kind for kind, name in reversed(NAMES.items()) if name in asset)


def _lay(document: CommentedMap, exported: Mapping[str, Any], *, free: bool) -> bool:
    """Make a mapping say what was exported; return whether that changed it.

    What is `free` (a chart's parameters, a dashboard's layout) says all that there is, so what is not there any more
    was taken out; elsewhere an export may leave out what a file states.
    """
    changed = False
    for key in [key for key in document if free and key not in exported and key not in _COMPUTED]:
        if not _is_nothing(key, document[key]):
            del document[key]
            changed = True
    for key, value in exported.items():
        if key in _COMPUTED or (key not in document and _is_nothing(key, value)):
            continue
        if key not in document:
            document[key] = _formed(_pruned(value), document)
            changed = True
        else:
            changed |= _lay_value(document, key, value, free=free or key in {"params", "position", "metadata"})
    return changed


def _lay_value(document: Any, key: Any, value: Any, *, free: bool) -> bool:
    there = document[key]
    if isinstance(there, CommentedMap) and isinstance(value, Mapping):
        return _lay(there, value, free=free)
    if isinstance(there, CommentedSeq) and isinstance(value, list):
        return _lay_list(there, value, _IDENTITY.get(key), free=free)
    if there == value or (_is_nothing(key, there) and _is_nothing(key, value)):
        return False
    document[key] = _formed(_pruned(value), document)
    return True


def _lay_list(there: CommentedSeq, value: list[Any], identity: str | None, *, free: bool) -> bool:
    """Make a list say what was exported; items that have a name keep their place and their form."""
    if identity and all(isinstance(one, Mapping) for one in [*there, *value]):
        exported = {one[identity]: one for one in value}
        gone = [place for place, one in enumerate(there) if one[identity] not in exported]
        for place in reversed(gone):
            del there[place]
        changed = bool(gone)
        for one in there:
            changed |= _lay(one, exported[one[identity]], free=free)
        fresh = [one for name, one in exported.items() if name not in {each[identity] for each in there}]
        there.extend(_formed(_pruned(one), there[0] if there else there) for one in fresh)
        return changed or bool(fresh)
    if len(there) == len(value):
        return any([_lay_value(there, place, one, free=free) for place, one in enumerate(value)])
    there[:] = [_formed(_pruned(one), there) for one in value]
    return True


def _is_nothing(key: Any, value: Any) -> bool:
    """Tell whether a value says no more than its absence."""
    return value is None or value is False or value in ("", [], {}) or (key in _DEFAULTS and value == _DEFAULTS[key])


def _pruned(value: Any) -> Any:
    """Return a value that is new to a file without what says nothing."""
    if isinstance(value, Mapping):
        kept = {key: one for key, one in value.items() if key not in _COMPUTED and not _is_nothing(key, one)}
        return {key: _pruned(one) for key, one in kept.items()}
    return [_pruned(one) for one in value] if isinstance(value, list) else value


def _formed(value: Any, beside: Any) -> Any:
    """Return a mapping or list in the form of what it is to stand beside: in a line, or in lines."""
    if not isinstance(value, (dict, list)):
        return value
    formed: Any = CommentedMap(value) if isinstance(value, dict) else CommentedSeq(value)
    in_a_line = getattr(beside, "fa", None) is not None and beside.fa.flow_style()
    if in_a_line:
        formed.fa.set_flow_style()
    return formed


# -- the numbers of charts ---------------------------------------------------------------------------


def _renumbered(exported: Asset, stated: Asset) -> Asset:
    """Return an exported dashboard with its file's numbers of charts in place of Superset's own."""
    ours = {uuid: number for number, uuid in _charts(stated).items()}
    numbers: dict[int, int] = {}
    free = iter(range(max(ours.values(), default=0) + 1, 10**6))
    for number, uuid in _charts(exported).items():
        numbers[number] = ours[uuid] if uuid in ours else next(free)
    renumbered: Asset = _with_numbers(exported, "", numbers)
    return renumbered


def _with_numbers(value: Any, key: str, numbers: Mapping[int, int]) -> Any:
    if isinstance(value, Mapping):
        if key in _BY_CHART_NUMBER:
            value = {str(numbers[int(one)]): each for one, each in value.items() if int(one) in numbers}
        return {name: _with_numbers(one, name, numbers) for name, one in value.items()}
    if isinstance(value, list):
        if key in _CHART_NUMBERS:
            return [numbers[one] for one in value if one in numbers]
        return [_with_numbers(one, "", numbers) for one in value]
    if key == "chartId" or (key == "id" and isinstance(value, int)):
        return numbers.get(value, value)
    return value
