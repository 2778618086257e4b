"""The one command-line entry: `selfgen COMMAND`.

Each module of this package holds the commands of one subject as a typer application named `app`.
"""

from __future__ import annotations

import importlib

import typer

app = typer.Typer(
    name="selfgen",
    help="Selfgen: energy self-generation, from device to dashboard.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SUBJECTS = (
    "stack",
    "demo",
    "simulate",
    "registry",
    "landing",
    "raw",
    "jobs",
    "batch",
    "druid",
    "measure",
    "dashboards",
)

for _subject in SUBJECTS:
    importlib.import_module(f"selfgen.cli.{_subject}").register(app)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except ValueError as error:
        # pydantic's, which takes long to import, of the settings
        if getattr(error, "title", "") != "Settings":
            raise
        from selfgen.cli.console import err

        for wrong in error.errors():  # type: ignore[attr-defined]
            name = f"SELFGEN_{'_'.join(map(str, wrong['loc'])).upper()}"
            err.print(
                f"error: {name} is {wrong['input']!r}: {wrong['msg']}", markup=False, highlight=False, soft_wrap=True
            )
        raise SystemExit(1) from None
