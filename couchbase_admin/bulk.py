"""The registry from and to one file: CSV (the columns of `COLUMNS`) or JSON lines (the same fields).

A row's `type` is model, client, panel, light, wind, or install (a period: who has an element since when). Rows may
come in any order: the file is read once for models, clients and elements, then for installs. What is in the registry
already, just so, stays as it is; so the same file may be imported again, and an import that was stopped goes on.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
from msgspec import structs

from couchbase_admin.clients import with_time_zone
from couchbase_admin.installations import check_client, check_dates
from couchbase_admin.store import IdList, RegistryStore, same
from selfgen.registry import (
    DOCUMENT,
    ELEMENT_TYPES,
    ID_FIELD,
    KINDS,
    Client,
    Document,
    Kind,
    Model,
    Period,
    Problem,
    Refused,
    Relations,
    Span,
    changed_spans,
    checked,
    checked_id,
    client_key,
    element_key,
    encoded,
    from_texts,
    id_of,
    id_problems,
    key_of,
    kind_named,
    moment,
    normalised,
    opened,
    problems,
    with_model,
)

#: Rows handled together.
CHUNK = 2000
_FIELDS: dict[str, type[msgspec.Struct]] = {
    "model": Model,
    "client": Client,
    **{kind: ELEMENT_TYPES[kind] for kind in KINDS},
}
#: Fields of a row that stand in an element's relations.
_LIFE = ("replaces", "replaced_by")
#: Columns of a CSV file.
COLUMNS = tuple(
    dict.fromkeys(
        [
            "type",
            *("kind", "element_id", "client_id", *ID_FIELD.values(), "init_date", "end_date"),
            *(name for struct_type in _FIELDS.values() for name in struct_type.__struct_fields__),
            *_LIFE,
        ]
    )
)


class Row(NamedTuple):
    """One row of a file: its line, and its fields without the empty ones."""

    line: int
    fields: dict[str, Any]


class Rejected(NamedTuple):
    """A row that was not taken: where, and why."""

    line: int
    column: str
    reason: str


@dataclass
class Result:
    """What became of a file's rows."""

    rows: int = 0
    written: int = 0
    unchanged: int = 0
    rejected: int = 0
    seconds: float = 0.0
    rejects: str | None = None


@dataclass
class _Import:
    """The state of one import."""

    store: RegistryStore
    result: Result
    reject: Callable[[Row, str, str], None]
    models: dict[tuple[Kind, str], Model | None] = field(default_factory=dict)
    known_elements: set[str] = field(default_factory=set)


def import_file(
    store: RegistryStore, file: Path, rejects: Path, advance: Callable[[int], None] = lambda done: None
) -> Result:
    """Register everything in a file.

    Parameters
    ----------
    store
        The registry.
    file
        A .csv file with a header, or a .jsonl file.
    rejects
        Where line, column and reason of the rows that are refused are written (CSV); removed where there are none.
    advance
        Told how many of the file's bytes are done.

    Raises
    ------
    Refused
        Where the file is neither, or its header names an unknown column.
    """
    if rejects.exists() and rejects.samefile(file):
        raise Refused(f"{file.name} is what is imported: name another file for the rows that are refused.")
    started = time.monotonic()
    size = file.stat().st_size
    result = Result()
    with _rejects(rejects, result) as reject:
        work = _Import(store, result, reject)
        passes = (("model",), ("client", *KINDS), ("install",))
        for number, types in enumerate(passes):

            def done(position: int, number: int = number) -> None:
                advance((number * size + position) // len(passes))

            rows = _rows_of(file, types, work if number == 0 else None, done)
            while chunk := list(islice(rows, CHUNK)):
                if number == len(passes) - 1:
                    _write_installs(work, chunk)
                else:
                    _write_documents(work, chunk)
    result.seconds = time.monotonic() - started
    return result


def export_file(store: RegistryStore, file: Path) -> int:
    """Write the whole registry to a file, sorted, all of it or nothing; return the number of rows."""
    if not file.parent.is_dir():
        raise Refused(f"there is no folder {file.parent}: make it first, or name another.")
    fresh = file.with_name(f".{file.name}.new")
    with fresh.open("w", encoding="utf-8", newline="") as target:
        write = _writer(file, target)
        count = 0
        for row in _exported(store):
            write(row)
            count += 1
    fresh.replace(file)
    return count


# reading


def _rows_of(file: Path, types: Sequence[str], work: _Import | None, done: Callable[[int], None]) -> Iterator[Row]:
    """Yield the rows of some types; with `work`, count all, and reject those that are of none."""
    for row in _parsed(file, work, done):
        row_type = row.fields.pop("type", None)
        if work is not None:
            work.result.rows += 1
            if row_type not in (*_FIELDS, "install"):
                kinds = ", ".join([*_FIELDS, "install"])
                work.reject(row, "type", f"type is {row_type or 'missing'}: give one of {kinds}.")
        if row_type in types:
            yield Row(row.line, {**row.fields, "type": row_type})


def _parsed(file: Path, work: _Import | None, done: Callable[[int], None]) -> Iterator[Row]:
    if file.suffix == ".csv":
        return _parsed_csv(file, work, done)
    if file.suffix == ".jsonl":
        return _parsed_jsonl(file, work, done)
    raise Refused(f"{file.name} is neither .csv nor .jsonl: name it after what it is.")


def _parsed_csv(file: Path, work: _Import | None, done: Callable[[int], None]) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as source:
        header = source.readline()
        delimiter = max(",;\t|", key=header.count)
        columns = _columns(file, header, delimiter)
        unknown = [name for name in columns if name not in COLUMNS]
        if unknown or "type" not in columns:
            wrong = f"has no column {unknown[0]}" if unknown else "needs a column type"
            raise Refused(f"{file.name}: the registry {wrong}. The columns are: {', '.join(COLUMNS)}.")
        if twice := [name for name in columns if columns.count(name) > 1]:
            raise Refused(f"{file.name} has the column {twice[0]} twice: remove one.")
        read = len(header.encode("utf-8", "surrogateescape"))

        def counted() -> Iterator[str]:
            nonlocal read
            for text in source:
                read += len(text.encode("utf-8", "surrogateescape"))
                yield text

        lines = csv.reader(counted(), delimiter=delimiter, strict=True)
        while True:
            line = lines.line_num + 2
            try:
                cells = next(lines, None)
            except csv.Error as error:
                last = lines.line_num + 1
                lost = f" The lines {line} to {last} were taken for one row: look for a quote." if last > line else ""
                _reject_unread(work, line, f"this is not CSV: {error}.{lost}")
                continue
            if cells is None:
                return
            done(read)
            if not cells:
                continue
            if len(cells) > len(columns):
                _reject_unread(work, line, f"{len(cells)} cells, but {len(columns)} columns: quote what has commas.")
                continue
            yield Row(line, {name: cell for name, cell in zip(columns, cells, strict=False) if cell})


def _columns(file: Path, header: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    except csv.Error as error:
        raise Refused(f"{file.name} does not begin with a line of columns: {error}.") from None


def _parsed_jsonl(file: Path, work: _Import | None, done: Callable[[int], None]) -> Iterator[Row]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    read = 0
    with file.open("rb") as source:
        for line, content in enumerate(source, 1):
            read += len(content)
            if not content.strip():
                continue
            try:
                fields = decoder.decode(content)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                _reject_unread(work, line, f"this is not a JSON object: {error}.")
                continue
            done(read)
            given = {name: value for name, value in fields.items() if value is not None}
            yield Row(line, {name: value for name, value in given.items() if value != "" or name not in _LIFE})


def _reject_unread(work: _Import | None, line: int, reason: str) -> None:
    if work is not None:
        work.result.rows += 1
        work.reject(Row(line, {}), "", reason)


@contextmanager
def _rejects(file: Path, result: Result) -> Iterator[Callable[[Row, str, str], None]]:
    """Give what a refused row is told to; the side file is there only where one was."""
    file.unlink(missing_ok=True)
    opened_file: IO[str] | None = None

    def reject(row: Row, column: str, reason: str) -> None:
        nonlocal opened_file
        if opened_file is None:
            opened_file = file.open("w", encoding="utf-8", errors="backslashreplace", newline="")
            csv.writer(opened_file).writerow(Rejected._fields)
            result.rejects = str(file)
        csv.writer(opened_file).writerow(Rejected(row.line, column, reason))
        result.rejected += 1

    try:
        yield reject
    finally:
        if opened_file is not None:
            opened_file.close()


# writing models, clients, elements


def _write_documents(work: _Import, rows: Sequence[Row]) -> None:
    _read_models(work, rows)
    parsed = [(row, document) for row in rows if (document := _document(work, row)) is not None]
    there = _write_new(work, parsed)
    elements = [(row, document) for row, document in there if not isinstance(document, Client | Model | Relations)]
    work.known_elements.update(key_of(document) for _, document in elements)
    _write_lives(work, elements)


def _write_new(work: _Import, parsed: Sequence[tuple[Row, Document]]) -> list[tuple[Row, Document]]:
    """Write documents that are not there yet; return those that are there now, as their rows say."""
    store = work.store
    stored = store.documents.get_many(key_of(document) for _, document in parsed)
    new: dict[str, tuple[Row, Document]] = {}
    unchanged: list[tuple[Row, Document]] = []
    for row, document in parsed:
        key = key_of(document)
        there = stored[key].content if key in stored else None
        if there is None and key in new:
            there = encoded(new[key][1])
        if there is None:
            new[key] = (row, document)
        elif same(there, document):
            unchanged.append((row, document))
        else:
            _reject_other(work, row, key)
    documents = [document for _, document in new.values()]
    store.list_ids(documents)
    refused = store.commit_many([(None, document) for document in documents], "imported", {})
    work.result.written += len(new) - len(refused)
    written = [new[key] for key in new if key not in refused]
    for key in refused:
        row, document = new[key]
        now = store.documents.get(key)
        if now is not None and same(now.content, document):
            unchanged.append((row, document))
        else:
            _reject_other(work, row, key)
    work.result.unchanged += len(unchanged)
    return [*written, *unchanged]


def _reject_other(work: _Import, row: Row, key: str) -> None:
    family, _, name = key.partition("::")
    work.reject(row, "", f"{family} {name} exists already, with other data: give another id, or edit that one.")


def _read_models(work: _Import, rows: Sequence[Row]) -> None:
    for row in rows:
        kind, name = row.fields["type"], row.fields.get("model")
        if kind in KINDS and isinstance(name, str) and (kind, name) not in work.models:
            found = work.store.model(kind, name)
            work.models[kind, name] = None if found is None else found.value


def _document(work: _Import, row: Row) -> Document | None:
    """Return what a row says, or reject it."""
    row_type = row.fields["type"]
    fields = {name: value for name, value in row.fields.items() if name not in {"type", *_LIFE}}
    values, found = from_texts(_FIELDS[row_type], fields)
    found += _life_problems(row)
    if not found:
        try:
            document = _made(work, row_type, values)
            found = problems(document, work.store.clock())
        except Refused as error:
            found = [Problem(error.field, str(error))]
        else:
            if not found:
                return document
    work.reject(row, found[0].field, " ".join(problem.sentence for problem in found))
    return None


def _life_problems(row: Row) -> Iterator[Problem]:
    for name in row.fields.keys() & set(_LIFE):
        value = row.fields[name]
        if not isinstance(value, str):
            yield Problem(name, f"{name} is not an id: give an element's.")
        elif value == row.fields.get(ID_FIELD[kind_named(row.fields["type"])]):
            yield Problem(name, f"{name} is the element itself: give another one's id.")
        else:
            yield from id_problems(name, value)


def _made(work: _Import, row_type: str, values: dict[str, Any]) -> Document:
    if row_type in KINDS:
        kind = kind_named(row_type)
        model = work.models.get((kind, values.get("model", "")))
        return normalised(with_model(kind, values, model))
    missing = [name for name in ("kind", "model") if row_type == "model" and name not in values]
    missing += [
        name for name in ("client_id", "name", "latitude", "longitude") if row_type == "client" and name not in values
    ]
    if missing:
        raise Refused(f"{missing[0]} is missing: give it.", missing[0])
    if row_type == "model":
        return normalised(Model(**values))
    client = Client(**values)
    return normalised(client if problems(client, work.store.clock()) else with_time_zone(client))


def _write_lives(work: _Import, elements: Sequence[tuple[Row, Any]]) -> None:
    """Write what an element's row says of its relations: when it was retired, what replaced it, what it replaced."""
    for kind in KINDS:
        lives = {
            id_of(element): Relations(
                kind=kind,
                element_id=id_of(element),
                retired=element.end_date,
                replaces=row.fields.get("replaces"),
                replaced_by=row.fields.get("replaced_by"),
            )
            for row, element in elements
            if isinstance(element, ELEMENT_TYPES[kind]) and (element.end_date or row.fields.keys() & set(_LIFE))
        }
        there = work.store.relations_of(kind, lives)
        work.store.commit_many([(None, life) for one, life in lives.items() if one not in there], "imported", {})


# writing installs


def _write_installs(work: _Import, rows: Sequence[Row]) -> None:
    for kind in KINDS:
        _write_kind(work, kind, [row for row in rows if row.fields.get("kind") == kind])
    for row in rows:
        if row.fields.get("kind") not in KINDS:
            work.reject(row, "kind", f"kind is {row.fields.get('kind', 'missing')}: give panel, light or wind.")


def _write_kind(work: _Import, kind: Kind, rows: Sequence[Row]) -> None:
    store = work.store
    rows = [row for row in rows if _has_ids(work, row)]
    _know_elements(work, kind, rows)
    before = {
        one: replace(read, value=structs.replace(read.value, periods=[])) if read.derived else read
        for one, read in store.relations_of(kind, {row.fields["element_id"] for row in rows}).items()
    }  # a file with a replacement's place has all of it: what follows from the replaced one is not added to that
    wanted: dict[str, dict[str, None]] = {}
    for row in rows:
        wanted.setdefault(row.fields["client_id"], {})[f"{kind}::{row.fields['element_id']}"] = None
    clients = _clients(store, wanted)
    IdList.add_each(store.documents, {f"elements::{one}": [*wanted[one]] for one in clients})
    clients = _clients(store, clients)  # after they are listed: see close_client
    after: dict[str, Relations] = {}
    taken: dict[str, list[Row]] = {}
    for row in rows:
        one = row.fields["element_id"]
        relations = after.get(one) or (before[one].value if one in before else Relations(kind=kind, element_id=one))
        opened_to = _opened(work, row, relations, clients)
        if opened_to is None:
            continue
        if opened_to == relations:
            work.result.unchanged += 1
            continue
        after[one] = opened_to
        taken.setdefault(one, []).append(row)
    spans = [
        span
        for one, relations in after.items()
        for span in changed_spans(before[one].value.periods if one in before else [], relations.periods)
    ]
    changes = [(before.get(one), relations) for one, relations in after.items()]
    refused = store.commit_many(changes, "imported", {kind: _merged(spans)})
    for one, relations in after.items():
        if key_of(relations) not in refused:
            work.result.written += len(taken[one])
            continue
        for row in taken[one]:
            work.reject(row, "element_id", f"{kind} {one} was changed by somebody else meanwhile: import again.")


def _has_ids(work: _Import, row: Row) -> bool:
    for name in ("element_id", "client_id"):
        if not isinstance(row.fields.get(name), str):
            work.reject(row, name, f"{name} is missing: give it.")
            return False
        try:
            checked_id(name, row.fields[name])
        except Refused as error:
            work.reject(row, name, str(error))
            return False
    return True


def _know_elements(work: _Import, kind: Kind, rows: Sequence[Row]) -> None:
    keys = {element_key(kind, row.fields["element_id"]) for row in rows} - work.known_elements
    work.known_elements.update(work.store.documents.get_many(keys))


def _clients(store: RegistryStore, client_ids: Iterable[str]) -> dict[str, Client]:
    keys = {client_key(one): one for one in client_ids}
    return {
        keys[key]: msgspec.json.decode(stored.content, type=Client)
        for key, stored in store.documents.get_many(keys).items()
    }


def _opened(work: _Import, row: Row, relations: Relations, clients: Mapping[str, Client]) -> Relations | None:
    """Return the relations with the row's period, or reject it."""
    fields = {name: value for name, value in row.fields.items() if name not in {"type", "kind", "element_id"}}
    kind, client = relations.kind, clients.get(fields["client_id"])
    if element_key(kind, relations.element_id) not in work.known_elements:
        work.reject(row, "element_id", f"{kind} {relations.element_id} is not registered: add it first.")
        return None
    if client is None:
        work.reject(row, "client_id", f"client {fields['client_id']} is not registered: add it first.")
        return None
    column = ""
    try:
        for column in ("init_date", "end_date"):
            if isinstance(fields.get(column), str):
                fields[column] = moment(fields[column], client.time_zone)
        values, found = from_texts(Period, fields)
        if not found and "init_date" not in values:
            found = [Problem("init_date", "init_date is missing: give it.")]
        if found:
            work.reject(row, found[0].field, " ".join(problem.sentence for problem in found))
            return None
        column = "init_date"
        after = checked(opened(relations, Period(**values)), work.store.clock())
        check_dates(after)
        check_client(client, after)
    except Refused as error:
        work.reject(row, column, str(error))
        return None
    return after


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Return the same instants as few spans as can be."""
    merged: list[Span] = []
    for start, end in sorted(spans, key=lambda span: span[0]):
        if merged and (merged[-1][1] is None or start <= merged[-1][1]):
            last = merged[-1][1]
            merged[-1] = (merged[-1][0], None if last is None or end is None else max(last, end))
        else:
            merged.append((start, end))
    return merged


# exporting


def _exported(store: RegistryStore) -> Iterator[dict[str, Any]]:
    for kind in KINDS:
        yield from _documents(store, f"model::{kind}", f"model::{kind}", Model, "model")
    yield from _documents(store, "client", "client", Client, "client")
    for kind in KINDS:
        for part in _sorted_parts(store.ids(DOCUMENT[kind])):
            elements = store.documents.get_many(element_key(kind, one) for one in part)
            relations = store.relations_of(kind, part)
            for one in part:
                if element_key(kind, one) not in elements:
                    continue
                element = msgspec.json.decode(elements[element_key(kind, one)].content, type=ELEMENT_TYPES[kind])
                read = relations.get(one)
                life = {} if read is None else {name: getattr(read.value, name) for name in _LIFE}
                yield {"type": kind, **_builtin(element), **{name: value for name, value in life.items() if value}}
    for kind in KINDS:
        for part in _sorted_parts(store.ids(DOCUMENT[kind])):
            for one, read in store.relations_of(kind, part).items():
                for period in read.value.periods:
                    yield {"type": "install", "kind": kind, "element_id": one, **_builtin(period)}


def _documents(
    store: RegistryStore, family: str, prefix: str, document_type: Any, row_type: str
) -> Iterator[dict[str, Any]]:
    for part in _sorted_parts(store.ids(family)):
        keys = [f"{prefix}::{one}" for one in part]
        stored = store.documents.get_many(keys)
        for key in keys:
            if key in stored:
                document = msgspec.json.decode(stored[key].content, type=document_type)
                yield {"type": row_type, **_builtin(document)}


def _sorted_parts(ids: Sequence[str]) -> Iterator[list[str]]:
    ordered = sorted(ids)
    for start in range(0, len(ordered), CHUNK):
        yield ordered[start : start + CHUNK]


def _builtin(struct: msgspec.Struct) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(struct)
    return fields


def _writer(file: Path, target: IO[str]) -> Callable[[dict[str, Any]], object]:
    if file.suffix == ".jsonl":
        return lambda row: target.write(msgspec.json.encode(row).decode() + "\n")
    if file.suffix == ".csv":
        table = csv.writer(target, lineterminator="\n")
        table.writerow(COLUMNS)
        return lambda row: table.writerow([_cell(row.get(name)) for name in COLUMNS])
    raise Refused(f"{file.name} is neither .csv nor .jsonl: name it after what it should be.")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
