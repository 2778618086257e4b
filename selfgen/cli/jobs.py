"""Commands: jobs."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add this subject's commands."""
