"""An explained slot, as people read it."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.table import Table

_METHODS = {
    "power": "trapezoid",
    "meter": "meter",
    "backlog": "meter, spread over the gap",
    "gap": "gap: counts nothing",
}
#: So many stretches are listed one by one; of more, those that are not ordinary.
_LISTED = 12


def show(slot: dict[str, Any], out: Console) -> None:
    """Print one slot's account."""
    where, owner = slot["slot"], slot["owner"]
    whose = f"{owner['client_id']} ({owner['name']}), since {owner['init'] or 'always'}" if owner else "nobody"
    out.rule(f"{slot.get('panel_id') or slot['light_id']}  {where['start']} to {where['end']}  {where['time_zone']}")
    out.print(f"owner: {whose}", highlight=False, markup=False)
    references = [_references(slot)] if slot["differences"] else []
    out.print(Group(_figures(slot), _pieces(slot["pieces"], "W" if references else "W/m²"), *references))
    for line in slot["differs"]:
        out.print(f"! {line}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    if not slot["differs"]:
        out.print("= the readings, the lake and Druid agree", highlight=False)


def _figures(slot: dict[str, Any]) -> Table:
    """Return what the readings say, beside what the lake and Druid have."""
    columns = [slot["figures"] or {}, slot["lake"] or {}, slot["druid"] or {}]
    table = Table("figure", "from the readings", "lake", "Druid")
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add_row(name, *(_number(column.get(name)) for column in columns))
    return table


def _pieces(pieces: list[dict[str, Any]], unit: str) -> Table:
    made = unit.replace("W", "Wh")
    table = Table("from", "to", "s", "by", unit, "meter, Wh", made, title="what the energy is made of")
    last = len(pieces) - 1
    listed = [
        piece
        for place, piece in enumerate(pieces)
        if last < _LISTED or place in (0, last) or piece["reset"] or piece["method"] in ("backlog", "gap")
    ]
    for piece in listed:
        table.add_row(
            piece["start"][11:],
            piece["end"][11:],
            f"{piece['seconds']:g}",
            _METHODS[piece["method"]] + (", began anew" if piece["reset"] else ""),
            " → ".join(_number(value) for value in piece["power"]),
            " → ".join(_number(value) for value in piece["meter"] if value is not None),
            _number(piece["energy"]),
        )
    if rest := len(pieces) - len(listed):
        table.caption = f"{rest} more between neighbours close enough; --json lists them"
    return table


def _references(slot: dict[str, Any]) -> Table:
    table = Table("figure", "slot, or since", "Wh there", "of slots", title="compared with, and added to (lake)")
    for name, reference in slot["differences"].items():
        there = "no row" if reference["power_gen"] is None else _number(reference["power_gen"])
        table.add_row(f"diff_last_{name}", reference["slot"] or "that hour does not occur", there, "")
    for name, added in slot["accumulators"].items():
        table.add_row(f"acum_{name}", added["since"], _number(added["power_gen"]), str(added["slots"]))
    return table


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.10g}"
