"""RichPanel: raw panel readings of MongoDB → energy by slot, with place and owner → the lake.

splits of the range ─► readings, as arrays ─► energy by slot ─► enrichment valid at the time ─► Parquet, by hour
"""

from __future__ import annotations

from datetime import datetime

from flink_jobs.reports import arguments
from flink_jobs.slots import PANEL, run_rich
from selfgen.settings import Settings

NAME = "rich_panel"


def run(settings: Settings, start: datetime, end: datetime) -> None:
    """Make the slots of the UTC hours `[start, end)`; run again, it gives the same."""
    run_rich(settings, NAME, PANEL, start, end)


def main() -> None:
    """Run for the hours of the command line."""
    run(*arguments(__doc__))


if __name__ == "__main__":
    main()
