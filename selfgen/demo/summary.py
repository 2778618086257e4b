"""What the demonstration shows at its end, drawn from the stores while they run."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from selfgen.clients import druid
from selfgen.settings import Settings

CLIENTS = """
SELECT client_id, name, apell_1, postal_code, time_zone, COUNT(DISTINCT panel_id) AS panels
FROM panel_report WHERE client_id IS NOT NULL
GROUP BY client_id, name, apell_1, postal_code, time_zone ORDER BY client_id"""
ENERGY = """
SELECT client_id, local_date, SUM(power_gen) AS energy
FROM panel_report WHERE client_id IS NOT NULL GROUP BY client_id, local_date"""
# a running sum never falls, so the greatest of a month is its last
MONTHS = """
SELECT client_id, local_month, SUM(produced) AS energy FROM (
  SELECT client_id, panel_id, SUBSTRING(local_date, 1, 7) AS local_month, MAX(acum_month) AS produced
  FROM panel_report WHERE client_id IS NOT NULL GROUP BY client_id, panel_id, SUBSTRING(local_date, 1, 7)
) GROUP BY client_id, local_month"""
WIND = """
SELECT w.wind_id, w.name, w.postal_code, w.__time AS last_window, w.wind_speed, w.wind_direction, l.gust
FROM wind_report AS w JOIN (
  SELECT wind_id, MAX(__time) AS last_time, MAX(wind_gust) AS gust FROM wind_report GROUP BY wind_id
) AS l ON w.wind_id = l.wind_id AND w.__time = l.last_time
WHERE w.__time > TIMESTAMPADD(MINUTE, -10, CURRENT_TIMESTAMP)"""
ALARMS = """
SELECT __time AS raised_at, {element} AS element_id, name, code, severity, state, text_alarm FROM {datasource}
ORDER BY __time DESC LIMIT {limit}"""


@dataclass(frozen=True)
class Figures:
    """The summary's figures, read while the stack runs; printed when the progress is over."""

    clients: list[dict[str, Any]]
    wind: list[dict[str, Any]]
    alarms: list[dict[str, Any]]


def read(settings: Settings) -> Figures:
    """Read energy by client, the latest wind, and the latest alarms from Druid."""
    days, months = defaultdict[str, dict[str, float]](dict), defaultdict[str, dict[str, float]](dict)
    for row in druid.query(settings, ENERGY):
        days[row["client_id"]][row["local_date"]] = row["energy"]
    for row in druid.query(settings, MONTHS):
        months[row["client_id"]][row["local_month"]] = row["energy"]
    clients = []
    for client in druid.query(settings, CLIENTS):
        of_day, of_month = days[client["client_id"]], months[client["client_id"]]
        # the newest day is still under way
        day = sorted(of_day)[-2:][0]
        clients.append(client | {"day": day, "energy_day": of_day[day], "energy_month": of_month[max(of_month)]})
    alarms: list[dict[str, Any]] = []
    for datasource, element in (("panel_alarm", "panel_id"), ("sensor_alarm", "light_id"), ("wind_alarm", "wind_id")):
        alarms += druid.query(settings, ALARMS.format(datasource=datasource, element=element, limit=4))
    wind = sorted(druid.query(settings, WIND), key=lambda row: str(row["wind_id"]))
    return Figures(clients, wind, alarms)


def show(console: Console, report: dict[str, Any], figures: Figures, seconds: float) -> None:
    """Print the summary."""
    parts = (_clients(figures.clients), _wind(figures.wind), _alarms(figures.alarms), _reconciliation(report))
    for part in (*parts, _end(report, seconds)):
        console.print()
        console.print(part)


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
        direction = "" if row["wind_direction"] is None else f"{row['wind_direction']:.0f}"
        table.add_row(
            row["wind_id"], row["name"], row["postal_code"], str(row["last_window"])[:19].replace("T", " "),
            f"{row['wind_speed']:.1f}", f"{row['gust']:.1f}", direction,
        )  # fmt: skip
    return table


def _alarms(rows: list[dict[str, Any]]) -> Table:
    table = _table("Latest alarms", "when (UTC)", "element", "code", "state", "what")
    for row in rows:
        colour = "green" if row["state"] == "cleared" else "yellow"
        moment = str(row["raised_at"])[:19].replace("T", " ")
        table.add_row(moment, row["element_id"], row["code"], f"[{colour}]{row['state']}[/]", row["text_alarm"])
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
