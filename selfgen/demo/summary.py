"""What the demonstration shows at its end, drawn from the stores while they run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from selfgen.clients import druid
from selfgen.settings import Settings

CLIENTS = """
SELECT client_id, LATEST(name, 256) AS name, LATEST(apell_1, 256) AS apell_1, LATEST(postal_code, 64) AS postal_code,
       LATEST(time_zone, 64) AS time_zone, COUNT(DISTINCT panel_id) AS panels
FROM panel_report WHERE client_id IS NOT NULL GROUP BY client_id ORDER BY client_id"""
ENERGY = """
SELECT client_id, local_date, SUM(power_gen) AS energy, AVG(completeness) AS completeness
FROM panel_report WHERE client_id IS NOT NULL GROUP BY client_id, local_date"""
MONTH = """
SELECT client_id, SUM(acum) AS energy_month FROM (
  SELECT client_id, panel_id, LATEST(acum_month) AS acum FROM panel_report GROUP BY client_id, panel_id
) GROUP BY client_id"""
WIND = """
SELECT wind_id, LATEST(name, 128) AS name, LATEST(postal_code, 32) AS postal_code, MAX(__time) AS last_window,
       LATEST(wind_speed) AS speed, MAX(wind_gust) AS gust, LATEST(wind_direction) AS direction, SUM(samples) AS samples
FROM wind_report GROUP BY wind_id ORDER BY wind_id"""
ALARMS = """
SELECT __time AS moment, {element} AS element, name, code, severity, state, text_alarm FROM {datasource}
ORDER BY __time DESC LIMIT {limit}"""


@dataclass(frozen=True)
class Figures:
    """The summary's figures, read while the stack runs; printed when the progress is over."""

    clients: list[dict[str, Any]]
    wind: list[dict[str, Any]]
    alarms: list[dict[str, Any]]


def read(settings: Settings) -> Figures:
    """Read energy by client, the latest wind, and the latest alarms from Druid."""
    month = {row["client_id"]: row["energy_month"] for row in druid.query(settings, MONTH)}
    days: dict[str, dict[str, dict[str, Any]]] = {}
    for row in druid.query(settings, ENERGY):
        days.setdefault(row["client_id"], {})[row["local_date"]] = row
    clients = []
    for client in druid.query(settings, CLIENTS):
        dates = sorted(days[client["client_id"]])
        last = dates[-2] if len(dates) > 1 else dates[-1]  # the newest day is still under way
        day = days[client["client_id"]][last]
        clients.append(client | {"day": last, "energy_day": day["energy"], "energy_month": month[client["client_id"]]})
    alarms: list[dict[str, Any]] = []
    for datasource, element in (
        ("panel_alarm", "panel_id"),
        ("sensor_alarm", "light_id"),
        ("wind_alarm", "wind_id"),
    ):
        query = ALARMS.format(datasource=datasource, element=element, limit=4)
        alarms += druid.query(settings, query)
    return Figures(clients, druid.query(settings, WIND), alarms)


def show(console: Console, report: dict[str, Any], figures: Figures, seconds: float) -> None:
    """Print the summary."""
    console.print()
    console.print(_clients(figures.clients))
    console.print(_wind(figures.wind))
    console.print(_alarms(figures.alarms))
    console.print(_reconciliation(report))
    console.print(_end(report, seconds))


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for column in columns:
        numeric = column.endswith((")", "produced", "landed", "duplicates", "refused", "panels"))
        table.add_column(column, justify="right" if numeric else "left")
    return table


def _clients(rows: list[dict[str, Any]]) -> Table:
    table = _table(
        "Energy by client",
        "client",
        "area",
        "clock",
        "panels",
        "last whole day",
        "that day (kWh)",
        "month to date (kWh)",
    )
    for row in rows:
        table.add_row(
            f"{row['name']} {row['apell_1'] or ''}".strip(), row["postal_code"], row["time_zone"], str(row["panels"]),
            row["day"],
            f"{row['energy_day'] / 1000:,.2f}", f"{row['energy_month'] / 1000:,.2f}",
        )  # fmt: skip
    return table


def _wind(rows: list[dict[str, Any]]) -> Table:
    table = _table(
        "Latest wind",
        "sensor",
        "client",
        "area",
        "last window (UTC)",
        "mean (m/s)",
        "greatest gust (m/s)",
        "from (°)",
    )
    for row in rows:
        direction = "" if row["direction"] is None else f"{row['direction']:.0f}"
        table.add_row(
            row["wind_id"], row["name"], row["postal_code"], str(row["last_window"])[:19].replace("T", " "),
            f"{row['speed']:.1f}", f"{row['gust']:.1f}", direction,
        )  # fmt: skip
    return table


def _alarms(rows: list[dict[str, Any]]) -> Table:
    table = _table("Latest alarms", "when (UTC)", "element", "code", "state", "what")
    for row in rows:
        colour = "green" if row["state"] == "cleared" else "yellow"
        moment = str(row["moment"])[:19].replace("T", " ")
        table.add_row(moment, row["element"], row["code"], f"[{colour}]{row['state']}[/]", row["text_alarm"])
    return table


def _reconciliation(report: dict[str, Any]) -> RenderableType:
    table = _table("Reconciliation", "topic", "produced", "landed", "duplicates", "refused", "why")
    for topic, counts in report["topics"].items():
        why = ", ".join(f"{reason} {count}" for reason, count in counts["refused"].items())
        refused = str(sum(counts["refused"].values()))
        table.add_row(topic, str(counts["produced"]), str(counts["landed"]), str(counts["duplicates"]), refused, why)
    wind = report["wind_samples"]
    lines = Text(
        f"\npanel energy in Druid − independent computation = {report['energy_difference_wh']:.6f} Wh "
        f"of {report['energy_wh'] / 1000:,.1f} kWh\n"
        f"wind readings sent {wind['sent']}, in one-second windows {wind['in_windows']}\n"
        f"rows: {', '.join(f'{name} {rows}' for name, rows in report['datasources'].items())}\n"
        f"memory: {sum(report['memory_mib'].values())} MiB resident in all"
    )
    return Group(table, lines)


def _end(report: dict[str, Any], seconds: float) -> Panel:
    addresses = report["addresses"]
    if report["ok"]:
        text = f"All of it holds, after {seconds:.0f} s."
    else:
        text = "It does not hold:\n" + "\n".join(f"  {line}" for line in report["wrong"])
    text += (
        f"\n\ndashboard  {addresses['dashboard']}"
        f"\n           user admin, password in {addresses['superset_password_file']}"
        f"\nFlink      {addresses['flink']}\nDruid      {addresses['druid']}"
    )
    if not report.get("kept"):
        text += "\n\nThe stack is stopped now; `selfgen demo --keep` leaves it running, and the devices sending."
    return Panel(text, border_style="green" if report["ok"] else "red", expand=False)
