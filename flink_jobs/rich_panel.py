"""RichPanel: raw panel readings of MongoDB → energy by slot, with place and owner → the lake.

splits of the range ─► readings, as arrays ─► energy by slot ─► enrichment valid at the time ─► Parquet, by hour
"""

from __future__ import annotations

from collections.abc import Sequence

from flink_jobs.reports import arguments
from flink_jobs.slots import PANEL, Range, run_rich
from selfgen.settings import Settings

NAME = "rich_panel"


def run(settings: Settings, ranges: Sequence[Range]) -> None:
    """Make the slots of ranges of UTC hours `[start, end)`; run again, it gives the same."""
    run_rich(settings, NAME, PANEL, ranges)


def main() -> None:
    """Run for the hours of the command line."""
    settings, start, end = arguments(__doc__)
    run(settings, [(start, end)])


if __name__ == "__main__":
    main()
