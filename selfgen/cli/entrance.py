"""The operators' picture of the topics' entrance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Iterable[float], width: int = 20) -> str:
    """Return the last values as a line of bars, the greatest the highest."""
    last = list(values)[-width:]
    top = max(last, default=0.0)
    return "".join(_BARS[round(value / top * (len(_BARS) - 1))] if top > 0 else _BARS[0] for value in last)


def picture(rows: list[dict[str, Any]], history: Mapping[str, Iterable[float]], width: int) -> RenderableType:
    """Return the table of the topics, as wide as the terminal has room for, and the alarms that stand."""
    table = Table(
        title=f"entrance of the topics, {datetime.now(UTC):%H:%M:%S} UTC",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    columns = [column for column in _COLUMNS if width >= column.least_width]
    for column in columns:
        table.add_column(column.heading, justify=column.justify, no_wrap=True)
    alarms: list[RenderableType] = []
    for row in rows:
        shown = {**row, "sparkline": history[row["topic"]]}
        table.add_row(*(column.text(shown) for column in columns))
        alarms += [Text(f"alarm: {text}", style="bold red") for text in row["alarms"]]
    return Group(table, *alarms)


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def _delay(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s" if seconds < 120 else _span(seconds)


def _ago(time: datetime | None) -> str:
    return "never" if time is None else _span((datetime.now(UTC) - time).total_seconds())


def _span(seconds: float) -> str:
    return str(timedelta(seconds=round(max(seconds, 0))))


class _Column(NamedTuple):
    heading: str
    text: Callable[[dict[str, Any]], RenderableType]
    justify: Literal["left", "right"] = "right"
    least_width: int = 0


_COLUMNS = (
    _Column("topic", lambda row: row["topic"], "left"),
    _Column("messages/s", lambda row: _rate(row["rate"])),
    _Column("", lambda row: sparkline(row["sparkline"]), "left", 100),
    _Column("kB/s", lambda row: _rate(row["bytes_rate"] and row["bytes_rate"] / 1000), least_width=120),
    _Column("refused/s", lambda row: _rate(row["refused_rate"])),
    _Column("lag", lambda row: f"{row['lag']:,}"),
    _Column("trend/s", lambda row: f"{row['lag_trend']:+,.0f}"),
    _Column("p50", lambda row: _delay(row["delay_p50"])),
    _Column("p95", lambda row: _delay(row["delay_p95"]), least_width=100),
    _Column("p99", lambda row: _delay(row["delay_p99"])),
    _Column("max", lambda row: _delay(row["delay_max"]), least_width=100),
    _Column("last", lambda row: _ago(row["last_message"])),
    _Column("consumers", lambda row: Text(str(len(row["consumers"])), "" if row["consumers"] else "bold red")),
)
