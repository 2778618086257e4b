"""What the registry's commands share: options, the store, prompts with completion, tables and cards."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from msgspec import Struct
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel as Card
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn
from rich.table import Table

from couchbase_admin.recompute import marker
from couchbase_admin.rehearsal import Rehearsal
from couchbase_admin.store import RegistryStore, Versioned, families
from selfgen.clients.couchbase import Documents, connect
from selfgen.registry import Document, Refused, RegistryError, encoded, from_texts, moment

Operator = Annotated[
    str | None, typer.Option(envvar="SELFGEN_OPERATOR", help="Who does this, for the history; else the user's name.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be written, and write nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

out = Console()
err = Console(stderr=True)

_COMPLETION_S = 1.5


def fail(message: str, code: int = 1) -> NoReturn:
    """Print one error line and end the command."""
    err.print("[bold red]error:[/]", end=" ")
    err.print(message, highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def registry(
    operator: str | None = None, *, dry_run: bool = False, as_json: bool = False, show_writes: bool = True
) -> Iterator[RegistryStore]:
    """Give a command its store; end it with a line and exit code 1 where something is refused.

    A rehearsed command shows what it would have written.
    """
    from selfgen.settings import get_settings

    settings = get_settings()
    try:
        documents = Documents(connect(settings), settings.couchbase_durability)
        rehearsal = Rehearsal(documents) if dry_run else None
        store = RegistryStore(
            documents if rehearsal is None else rehearsal, mark_dirty=None if dry_run else marker(settings)
        )
        if operator:
            store.operator = operator
        yield store
    except RegistryError as error:
        fail(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        fail("stopped; nothing is half done: repeat the command to finish it", 130)
    if rehearsal is not None and show_writes:
        show_rehearsal(rehearsal, as_json=as_json)


def show_rehearsal(rehearsal: Rehearsal, *, as_json: bool) -> None:
    """Show the documents that a command would have written; not its lists of ids, nor the history's entries."""
    shown = {
        key: msgspec.json.decode(content)
        for key, content in rehearsal.written.items()
        if not key.startswith(("ids::", "change::", "dirty_hours::"))
    }
    for document in shown.values():
        document.pop("last_change", None)
    if as_json:
        print_json({"dry_run": True, "writes": [{"key": key, "document": value} for key, value in shown.items()]})
        return
    if not shown:
        out.print("nothing would be written")
    for key, document in shown.items():
        card(f"would write {key}", document)


def said(
    changed: bool, sentence: str, document: Document | Versioned[Any] | None, *, dry_run: bool, as_json: bool
) -> None:
    """Tell what a command did, or that there was nothing to do."""
    if dry_run:
        return
    if as_json:
        value = document.value if isinstance(document, Versioned) else document
        print_json({"changed": changed, "document": None if value is None else as_builtin(value)})
        return
    note = sentence if changed else f"{sentence} already; nothing was changed"
    style = "green" if changed else ""
    out.print(f"{'✓' if changed else '='} {note}", highlight=False, markup=False, soft_wrap=True, style=style)


def print_json(value: Any) -> None:
    """Print a value as JSON for scripts."""
    typer.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def as_builtin(document: Document) -> dict[str, Any]:
    """Return a document as it is stored."""
    stored: dict[str, Any] = msgspec.json.decode(encoded(document))
    return stored


def card(title: str, fields: Mapping[str, Any]) -> None:
    """Print one document."""
    grid = Table.grid(padding=(0, 2))
    for name, value in sorted(fields.items(), key=lambda item: not item[0].endswith("_id")):
        grid.add_row(f"[dim]{name}[/]", _cell(value))
    out.print(Card(grid, title=escape(title), title_align="left", expand=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print several."""
    shown = Table(header_style="bold", box=None, pad_edge=False)
    for name in columns:
        shown.add_column(name, overflow="fold")
    for row in rows:
        shown.add_row(*(_cell(value) for value in row))
    out.print(shown)


def _cell(value: Any) -> Any:
    from rich.text import Text

    if value is None:
        return ""
    return Text(value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False))


@contextlib.contextmanager
def progress(file: Path) -> Iterator[Callable[[int], None]]:
    """Show how much of a file is done; give what is told the bytes done so far."""
    columns = ("[progress.description]{task.description}", BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(file.name, total=max(file.stat().st_size, 1))
        yield lambda done: bar.update(task, completed=done)


def is_interactive() -> bool:
    """Tell whether somebody is there to be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def fields_of(
    struct_type: type[Struct],
    texts: Mapping[str, str | None],
    required: Sequence[str],
    choices: Mapping[str, Callable[[], Sequence[str]]] | None = None,
) -> dict[str, Any]:
    """Return a document's fields from the options given; on a terminal, ask for what is missing.

    With the first required field given, only the other required ones are asked for.

    Raises
    ------
    Refused
        Where one is not what it must be, or missing and nobody is there to be asked.
    """
    values, problems = from_texts(struct_type, {name: text for name, text in texts.items() if text is not None})
    if problems:
        raise Refused(" ".join(problem.sentence for problem in problems))
    missing = [name for name in required if name not in values]
    if missing and not is_interactive():
        raise Refused(f"{missing[0]} is missing: give it on the command line, or run this on a terminal to be asked.")
    asked = texts if missing and missing[0] == required[0] else missing
    for name in asked:
        if name in values:
            continue
        value = ask(struct_type, name, optional=name not in required, choices=(choices or {}).get(name))
        if value is not None:
            values[name] = value
    return values


def ask(
    struct_type: type[Struct], name: str, *, optional: bool, choices: Callable[[], Sequence[str]] | None = None
) -> Any:
    """Ask for one field until it is what it must be; None where it is left out."""
    hint = " [dim](Enter: none)[/]" if optional else ""
    with _completing(choices):
        while True:
            text = out.input(f"{name.replace('_', ' ')}{hint}: ").strip()
            if not text and optional:
                return None
            values, problems = from_texts(struct_type, {name: text})
            if not problems and text:
                return values[name]
            out.print(
                problems[0].sentence if problems else f"{name} is needed.", style="red", highlight=False, markup=False
            )


@contextlib.contextmanager
def _completing(choices: Callable[[], Sequence[str]] | None) -> Iterator[None]:
    """Complete what is typed from choices, where the terminal can."""
    if choices is None:
        yield
        return
    import readline

    known = list(choices())
    readline.set_completer_delims("")
    readline.parse_and_bind("tab: complete")
    readline.set_completer(
        lambda text, state: next(iter([one for one in known if one.startswith(text)][state : state + 1]), None)
    )
    try:
        yield
    finally:
        readline.set_completer(None)


def given_moment(text: str | None, time_zone: str | None) -> datetime | None:
    """Return an instant from an option; None for `now`, which is what a repeated command meant the first time."""
    return None if text in {None, "now"} else moment(str(text), time_zone)


def asked_moment(label: str, text: str | None, time_zone: str | None) -> datetime | None:
    """Return an instant from an option; without it, ask on a terminal. None for now."""
    if text is not None or not is_interactive():
        return given_moment(text, time_zone)
    while True:
        typed = out.input(f"{label} [dim](Enter: now; {time_zone or 'local'} clock)[/]: ").strip() or "now"
        try:
            return given_moment(typed, time_zone)
        except Refused as error:
            out.print(str(error), style="red", highlight=False, markup=False)


def assignments(struct_type: type[Struct], pairs: Sequence[str]) -> dict[str, Any]:
    """Return fields from `FIELD=VALUE` arguments; an empty value of a field that may be missing takes it away."""
    parted = [pair.partition("=") for pair in pairs]
    for name, sign, _ in parted:
        if not sign:
            raise Refused(f"{name} is not FIELD=VALUE: write for instance {name}=…")
    defaults = {one.name: one.default for one in msgspec.structs.fields(struct_type)}
    removed = {name: None for name, _, text in parted if not text and defaults.get(name, "") is None}
    texts = {name: text for name, _, text in parted if name not in removed}
    values, problems = from_texts(struct_type, texts)
    if problems:
        raise Refused(" ".join(problem.sentence for problem in problems))
    return {**values, **removed}


# shell completion: quick, and silent where the registry does not answer


def complete_client(incomplete: str) -> list[str]:
    """Complete a client's id."""
    return _completed(["client"], incomplete)


def complete_element(incomplete: str) -> list[str]:
    """Complete the id of an element of any kind."""
    return _completed([family for family in families() if "::" not in family and family != "client"], incomplete)


def complete_id(incomplete: str) -> list[str]:
    """Complete the id of a client or an element."""
    return _completed([family for family in families() if "::" not in family], incomplete)


def _completed(listed: Sequence[str], incomplete: str) -> list[str]:
    from selfgen.settings import get_settings

    try:
        store = RegistryStore(Documents(connect(get_settings(), _COMPLETION_S)))
        found = [one for family in listed for one in store.ids(family) if one.startswith(incomplete)]
    except RegistryError:
        return []
    return sorted(found)
