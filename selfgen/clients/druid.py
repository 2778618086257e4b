"""Druid: its supervisors, the replacing of hours, and queries.

>>> from selfgen.clients import druid
>>> druid.apply_supervisors(settings)
{'topic_performance': 'unchanged', 'wind_alarm': 'unchanged', 'wind_report': 'changed'}
>>> druid.replace(settings, "panel_report", [path], start, end).rows
1000
>>> druid.query(settings, "SELECT COUNT(*) AS n FROM panel_report WHERE panel_id = %(id)s", {"id": "p1"})
[{'n': 24}]
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import Template
from types import SimpleNamespace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pydruid.db.api
import requests
from pydruid.db.exceptions import Error as PydruidError
from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
)

from selfgen.columns import BATCHED, DATASOURCES, ROLLED_UP, STREAMED
from selfgen.derived import EXPRESSIONS
from selfgen.settings import ROOT, Settings

SPECS_DIR = ROOT / "druid_specs"

#: Worth asking again. An overlord that is about to lead redirects to itself.
_TRANSIENT = (requests.ConnectionError, requests.Timeout, requests.TooManyRedirects)
_PATIENCE_S = 30.0
_POLL_S, _LONGEST_POLL_S = 0.2, 2.0
#: A broker that is silent for longer is gone: it ends queries itself after 300 s, and says so.
_QUERY_TIMEOUT_S = 310.0

#: An input without rows: Druid takes neither an empty list of files nor empty text.
_NO_ROWS = {
    "inputSource": {"type": "inline", "data": "timestamp"},
    "inputFormat": {"type": "csv", "findColumnsFromHeader": True},
}

_Value = TypeVar("_Value")


class DruidError(Exception):
    """Druid did not do what was asked; the message says what, where and why."""


class UnknownDatasource(DruidError):
    """The data source has no rows yet: Druid knows a table only once it has a segment."""


class TaskFailed(DruidError):
    """An ingestion task failed; the hours it was to replace are as they were."""


class TaskLost(TaskFailed):
    """An ingestion task ended without a report, because its worker went away."""


@dataclass(frozen=True)
class Replacement:
    """A finished replace: the task that did it, the rows now in the hours, and how long it took."""

    task_id: str
    rows: int
    seconds: float


# -- specs -------------------------------------------------------------------------------------------


def read_spec(datasource: str) -> dict[str, Any]:
    """Return a data source's specification as its file states it, with the expressions of the derived columns."""
    spec: dict[str, Any] = json.loads(_template(datasource).safe_substitute(EXPRESSIONS))
    return spec


def supervisor_spec(settings: Settings, datasource: str) -> dict[str, Any]:
    """Return the Kafka supervisor of a streamed data source, with this system's addresses in it."""
    text = _template(datasource).substitute(EXPRESSIONS, bootstrap_servers=settings.bootstrap_servers)
    spec: dict[str, Any] = json.loads(text)
    return spec


def _template(datasource: str) -> Template:
    return Template((SPECS_DIR / f"{datasource}.json").read_text())


def batch_spec(datasource: str) -> dict[str, Any]:
    """Return the batch task of a data source; that of a streamed one puts its schema into the batched ones' task."""
    if datasource not in STREAMED:
        return read_spec(datasource)
    spec = read_spec(BATCHED[0])
    spec["spec"]["dataSchema"] = read_spec(datasource)["spec"]["dataSchema"]
    return spec


def replace_spec(
    datasource: str, files: Sequence[Path], start: datetime, end: datetime, task_id: str
) -> dict[str, Any]:
    """Return the batch task that makes the rows of `files` all the rows of `[start, end)`.

    Whole UTC days of a batched data source become segments of a day, all else segments of an hour. An hour that is
    replaced later takes its place within an older day.

    Parameters
    ----------
    files : sequence of Path
        JSON lines, plain or gzipped, with `timestamp` in epoch milliseconds. Where there are none, the
        hours are emptied.
    start, end : datetime
        Full UTC hours.

    Raises
    ------
    ValueError
        If the range is empty or not on full hours.
    """
    hours = [moment.astimezone(UTC) for moment in (start, end)]
    if hours[0] >= hours[1] or any(hour.timestamp() % 3600 for hour in hours):
        raise ValueError(f"{start.isoformat()}/{end.isoformat()} is not a range of full UTC hours")
    spec = batch_spec(datasource)
    spec["id"] = task_id
    granularity = spec["spec"]["dataSchema"]["granularitySpec"]
    granularity["intervals"] = ["/".join(map(_iso, hours))]
    if datasource in BATCHED and not any(hour.timestamp() % 86_400 for hour in hours):
        granularity["segmentGranularity"] = "DAY"
    spec["spec"]["ioConfig"] |= (
        {"inputSource": {"type": "local", "files": [str(file.resolve()) for file in files]}} if files else _NO_ROWS
    )
    return spec


def roll_up_spec(datasource: str, start: datetime, end: datetime, task_id: str) -> dict[str, Any]:
    """Return the batch task that makes a rolled-up data source's rows of the UTC days `[start, end)` anew."""
    spec = read_spec(datasource)
    spec["id"] = task_id
    interval = f"{_iso(start)}/{_iso(end)}"
    schema = spec["spec"]["dataSchema"]
    schema["timestampSpec"]["column"] = "__time"
    schema["granularitySpec"]["intervals"] = [interval]
    ingestion = spec["spec"]["ioConfig"]
    ingestion["inputSource"] = {"type": "druid", "dataSource": ROLLED_UP[datasource], "interval": interval}
    del ingestion["inputFormat"]
    return spec


def differences(stated: Any, running: Any, path: str = "", *, whole: bool = False) -> list[str]:
    """Return one line for each thing that is stated and not so in what runs.

    Druid completes a specification with its defaults, so what only runs is no difference, unless it is stated whole.
    """
    if isinstance(stated, Mapping) and isinstance(running, Mapping):
        keys = [*stated, *(sorted(running.keys() - stated.keys()) if whole else ())]
        lines = (
            differences(stated.get(key), running.get(key), f"{path}.{key}" if path else key, whole=whole)
            for key in keys
        )
        return [line for part in lines for line in part]
    if isinstance(stated, list) and isinstance(running, list) and len(stated) == len(running):
        pairs = enumerate(zip(stated, running, strict=True))
        return [line for i, (one, other) in pairs for line in differences(one, other, f"{path}[{i}]", whole=whole)]
    return [] if stated == running else [f"{path}: {json.dumps(running)} → {json.dumps(stated)}"]


# -- supervisors -------------------------------------------------------------------------------------


def running_supervisor(settings: Settings, datasource: str) -> dict[str, Any] | None:
    """Return a supervisor as the overlord runs it, with Druid's defaults in it; None where there is none."""
    answer = _overlord(settings, "GET", f"supervisor/{datasource}", allowed=(404,))
    return None if answer.status_code == 404 else answer.json()


def diff_supervisors(settings: Settings) -> dict[str, list[str]]:
    """Return what `apply_supervisors` would change, by data source."""
    return {name: _diff_supervisor(settings, name) for name in STREAMED}


def _diff_supervisor(settings: Settings, datasource: str) -> list[str]:
    running = running_supervisor(settings, datasource)
    return ["not there"] if running is None else differences(supervisor_spec(settings, datasource), running)


def apply_supervisors(settings: Settings) -> dict[str, str]:
    """Make the supervisors those of `druid_specs/`; one that is as stated goes on undisturbed.

    Returns
    -------
    dict of str to str
        `created`, `changed` or `unchanged`, by data source.
    """
    return {name: _apply_supervisor(settings, name) for name in STREAMED}


def _apply_supervisor(settings: Settings, datasource: str) -> str:
    before = running_supervisor(settings, datasource)
    # the overlord compares the two with its defaults filled in, so it is the one to decide
    _overlord(
        settings,
        "POST",
        "supervisor?skipRestartIfUnmodified=true",
        body=supervisor_spec(settings, datasource),
    )
    if before is None:
        return "created"
    return "unchanged" if running_supervisor(settings, datasource) == before else "changed"


def supervisor_status(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return how each supervisor is: `state`, `healthy`, `lag`, and what became of the rows it read.

    `processed`, `processed_with_error`, `unparseable` and `thrown_away` are those of the running tasks.
    """
    return {name: _supervisor_status(settings, name) for name in STREAMED}


def _supervisor_status(settings: Settings, datasource: str) -> dict[str, Any]:
    answer = _overlord(settings, "GET", f"supervisor/{datasource}/status", allowed=(404,))
    if answer.status_code == 404:
        return {"state": "MISSING", "healthy": False}
    payload = answer.json()["payload"]
    groups: dict[str, dict[str, Any]] = _overlord(settings, "GET", f"supervisor/{datasource}/stats").json()
    totals = [task.get("totals", {}).get("buildSegments", {}) for tasks in groups.values() for task in tasks.values()]
    return {
        "state": payload["detailedState"],
        "healthy": payload["healthy"],
        "lag": payload.get("aggregateLag"),
        "processed": sum(total.get("processed", 0) for total in totals),
        "processed_with_error": sum(total.get("processedWithError", 0) for total in totals),
        "unparseable": sum(total.get("unparseable", 0) for total in totals),
        "thrown_away": sum(total.get("thrownAway", 0) for total in totals),
        "errors": [error["message"] for error in payload.get("recentErrors", [])],
    }


# -- batch -------------------------------------------------------------------------------------------


def replace(
    settings: Settings,
    datasource: str,
    files: Sequence[Path],
    start: datetime,
    end: datetime,
    *,
    rows: int | None = None,
    timeout: float = 600.0,
) -> Replacement:
    """Make the rows of `files` all the rows of `[start, end)`, and return once queries see them.

    The exchange is atomic for each hour. Two runners at once do no harm: Druid's locks let one task wait for
    the other, and the later one's rows stand.

    Parameters
    ----------
    files : sequence of Path
        JSON lines (gzipped or not) on a disk that Druid's indexer sees; none empties the hours. Where this raises,
        Druid may have the task still, which takes a file that is gone for one without rows: `abandon` comes before
        the files are removed.
    start, end : datetime
        Full UTC hours.
    rows : int, optional
        How many rows the files hold, where the caller knows: a count that differs is an error.
    timeout : float
        Seconds for all of it.

    Raises
    ------
    FileNotFoundError
        If a file does not exist here, or has no content at all.
    TaskFailed
        With the task's own message. The hours are as they were.
    DruidError
        If rows lay outside the hours or did not arrive, or were not served in time.
    """
    if datasource not in DATASOURCES:
        raise ValueError(f"{datasource} is no data source; those are {', '.join(DATASOURCES)}")
    if unreadable := [str(file) for file in files if not file.is_file() or not file.stat().st_size]:
        # Druid would take them for files without rows, and empty the hours
        raise FileNotFoundError(f"no such file, or nothing in it: {', '.join(unreadable)}")
    began = time.monotonic()
    deadline = began + timeout
    again = Retrying(retry=retry_if_exception_type(TaskLost), stop=stop_after_attempt(3), reraise=True)
    task_id, written = again(
        lambda: _run(settings, replace_spec(datasource, files, start, end, _task_id(datasource, start)), deadline)
    )
    if rows is not None and written != rows:
        raise DruidError(f"Druid's task {task_id} wrote {written} rows of {rows}: does its indexer see the files?")
    _await_queryable(settings, datasource, start, end, written, deadline)
    return Replacement(task_id, written, time.monotonic() - began)


def roll_up(
    settings: Settings, datasource: str, start: datetime, end: datetime, *, timeout: float = 600.0
) -> Replacement:
    """Make a rolled-up data source's rows of all UTC days of `[start, end)` anew of the rows that queries now see.

    It replaces whole days, so that it gives the same however often and in whichever parts its source is replaced.

    Returns
    -------
    Replacement
        Its `rows` are those of the source.

    Raises
    ------
    TaskFailed
        With the task's own message. The days are as they were.
    DruidError
        If the task did not read all rows of the days, or the new ones were not served in time.
    """
    low, high = _whole_days(start, end)
    source = ROLLED_UP[datasource]
    rows = _count(settings, source, low, high)
    if not rows:  # Druid takes no input without rows
        return replace(settings, datasource, [], low, high, timeout=timeout)
    began = time.monotonic()
    deadline = began + timeout
    again = Retrying(retry=retry_if_exception_type(TaskLost), stop=stop_after_attempt(3), reraise=True)
    task_id, read = again(
        lambda: _run(settings, roll_up_spec(datasource, low, high, _task_id(datasource, low)), deadline)
    )
    if read != rows:
        raise DruidError(f"Druid's task {task_id} read {read} rows of {source}, which has {rows}")
    _await_queryable(settings, datasource, low, high, read, deadline)
    return Replacement(task_id, read, time.monotonic() - began)


def _count(settings: Settings, datasource: str, start: datetime, end: datetime) -> int:
    sql = f"SELECT COUNT(*) AS n FROM {datasource} WHERE __time >= %(start)s AND __time < %(end)s"  # noqa: S608 - its name
    found = query(settings, sql, {"start": start, "end": end}) if exists(settings, datasource) else [{"n": 0}]
    return int(found[0]["n"])


def _whole_days(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """Return the least range of whole UTC days that has a range in it."""
    first, last = (
        edge.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        for edge in (start, end - timedelta(microseconds=1))
    )
    return first, last + timedelta(days=1)


def abandon(settings: Settings, datasources: Sequence[str], *, timeout: float = 60.0) -> None:
    """End the replaces of data sources that clients left which were killed, and return once they are over.

    For who holds the lock under which the data sources are replaced: nobody waits for such a task any more. Of files
    that are gone it would make empty hours.

    Raises
    ------
    DruidError
        If one does not end in time.
    """
    deadline = time.monotonic() + timeout
    left = query(
        settings,
        "SELECT task_id FROM sys.tasks WHERE datasource IN (%(datasources)s) AND status = 'RUNNING'"
        " AND task_id LIKE 'replace!_%%' ESCAPE '!'",
        {"datasources": datasources},
    )
    for task_id in [row["task_id"] for row in left]:
        _shut_down(settings, task_id)
        _await_end(settings, task_id, deadline)


def run_task(
    settings: Settings, spec: dict[str, Any], start: datetime, end: datetime, *, timeout: float = 600.0
) -> Replacement:
    """Run a batch task like `replace_spec`'s, and return once queries see the rows that it wrote into `[start, end)`.

    Raises
    ------
    TaskFailed
        With the task's own message.
    """
    began = time.monotonic()
    deadline = began + timeout
    task_id, written = _run(settings, spec, deadline)
    _await_queryable(settings, spec["spec"]["dataSchema"]["dataSource"], start, end, written, deadline)
    return Replacement(task_id, written, time.monotonic() - began)


def _await_queryable(
    settings: Settings, datasource: str, start: datetime, end: datetime, written: int, deadline: float
) -> None:
    _await_served(settings, datasource, start, end, deadline=deadline)
    if written:
        # the broker learns the table of a first segment a moment later than the segment
        _until(lambda: exists(settings, datasource), bool, deadline, f"Druid's broker knows no table {datasource}")


def _task_id(datasource: str, start: datetime) -> str:
    # one for each try: a submission repeated after a lost answer cannot start a second task
    return f"replace_{datasource}_{start.astimezone(UTC):%Y%m%dT%H}_{uuid.uuid4().hex}"


def _run(settings: Settings, spec: dict[str, Any], deadline: float) -> tuple[str, int]:
    """Run a task to its end; return its id and the rows it wrote."""
    task_id = spec["id"]
    try:
        _submit(settings, spec)
        _await_task(settings, task_id, deadline)
    except BaseException:
        # nobody waits for it any more: it must not replace the hours later, by surprise
        with suppress(DruidError):
            _shut_down(settings, task_id)
        raise
    return task_id, _rows_written(settings, task_id)


def _shut_down(settings: Settings, task_id: str) -> None:
    _overlord(settings, "POST", f"task/{task_id}/shutdown", allowed=(400, 404))


def _submit(settings: Settings, spec: dict[str, Any]) -> None:
    answer = _overlord(settings, "POST", "task", body=spec, allowed=(400,))
    # a repeated submission is refused because the task is there already, which is what was wanted
    if not answer.ok and _overlord(settings, "GET", f"task/{spec['id']}/status", allowed=(404,)).status_code == 404:
        raise DruidError(f"Druid refused the task {spec['id']}: {answer.text[:500]}")


def _await_end(settings: Settings, task_id: str, deadline: float) -> dict[str, Any]:
    """Return a task's status once it does not run any more."""

    def status() -> dict[str, Any]:
        # an overlord that comes back knows the task still, however long it was away
        answer = _overlord(
            settings, "GET", f"task/{task_id}/status", patience_s=max(deadline - time.monotonic(), _PATIENCE_S)
        )
        found: dict[str, Any] = answer.json()["status"]
        return found

    return _until(
        status,
        lambda found: found["statusCode"] != "RUNNING",
        deadline,
        f"Druid's task {task_id} did not end in time: see its log, or the overlord's list of pending tasks",
    )


def _await_task(settings: Settings, task_id: str, deadline: float) -> None:
    final = _await_end(settings, task_id, deadline)
    if final["statusCode"] != "SUCCESS":
        message = (final.get("errorMsg") or "no message").partition("\n")[0]
        report = _report(settings, task_id)
        events = (report.get("unparseableEvents") or {}).get("buildSegments", [])
        reasons = [detail for event in events for detail in event["details"]]
        kind = TaskFailed if report else TaskLost
        raise kind(". ".join([f"Druid's task {task_id} failed: {message}", *reasons]))


def _report(settings: Settings, task_id: str) -> dict[str, Any]:
    """Return a task's own report; empty where it died before it could write one."""
    answer = _overlord(settings, "GET", f"task/{task_id}/reports", allowed=(404,))
    # a worker that goes away just then answers with a page of its own, and 200
    reports: dict[str, Any] = answer.json() if answer.ok and answer.text.startswith("{") else {}
    payload: dict[str, Any] = reports.get("ingestionStatsAndErrors", {}).get("payload", {})
    return payload


def _rows_written(settings: Settings, task_id: str) -> int:
    report = _report(settings, task_id)
    if not report:
        raise TaskLost(f"Druid's task {task_id} ended without saying what it wrote")
    stats = report["rowStats"]
    rows = stats.get("totals", stats)["buildSegments"]  # under `totals` where the task had subtasks
    if rows["thrownAway"]:
        raise DruidError(
            f"Druid's task {task_id} replaced the hours, and left out {rows['thrownAway']} rows outside them"
        )
    return int(rows["processed"])


def _await_served(settings: Settings, datasource: str, start: datetime, end: datetime, deadline: float) -> None:
    """Wait until the broker routes queries of the range to the segments that now count."""
    interval = f"{_iso(start)}_{_iso(end)}"

    def missing() -> int:
        # makes the coordinator read the metadata store now: else it may still show the segments replaced
        answer = coordinator(
            settings,
            "GET",
            f"datasources/{datasource}/loadstatus?forceMetadataRefresh=true&simple=true&interval={interval}",
            allowed=(204, 404),
        )
        # of a range without segments it says so in words, with 200 or 204
        waiting = answer.json().get(datasource, 0) if answer.text.startswith("{") else 0
        if waiting:
            return int(waiting)
        unknown_to_broker = query(
            settings,
            'SELECT segment_id FROM sys.segments WHERE datasource = %(datasource)s AND "start" >= %(start)s'
            ' AND "end" <= %(end)s AND is_published = 1 AND is_overshadowed = 0 AND is_available = 0',
            {"datasource": datasource, "start": _iso(start), "end": _iso(end)},
        )
        return len(unknown_to_broker)

    _until(
        missing,
        lambda count: count == 0,
        deadline,
        f"the new rows of {datasource} {interval} are stored, not served yet: is Druid's historical running?",
    )


# -- queries -----------------------------------------------------------------------------------------


def query(settings: Settings, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the rows of a Druid SQL query.

    Parameters
    ----------
    sql : str
        `%(name)s` stands for a parameter; with parameters, a percent sign is written `%%`.
    parameters : mapping, optional
        str, bool, int, float, aware datetime, or a sequence of them (for `IN (%(name)s)`).

    Raises
    ------
    UnknownDatasource
        If a table of the query has no rows yet; ask `exists` where that is to be expected.
    DruidError
        If Druid refuses the query, or its answer breaks off.
    """
    if parameters:
        sql = sql % {name: _literal(value) for name, value in parameters.items()}
    address = urlsplit(settings.broker)
    connection = pydruid.db.api.connect(
        host=address.hostname,
        port=address.port,
        scheme=address.scheme,
        header=True,
        context={"useApproximateCountDistinct": False},
    )
    try:
        with closing(connection):
            cursor = connection.cursor()
            rows = cursor.execute(sql).fetchall()
            names = [name for name, _ in cursor.description]
    except PydruidError as error:
        reason = str(error).partition("\nWas expecting")[0]
        kind = UnknownDatasource if re.search(r"Object '.*' not found", reason) else DruidError
        raise kind(f"Druid refused a query: {reason}") from error
    except (requests.RequestException, json.JSONDecodeError) as error:
        raise DruidError(f"Druid's broker at {settings.broker} gave no whole answer: {error}") from error
    return [dict(zip(names, row, strict=True)) for row in rows]


def exists(settings: Settings, datasource: str) -> bool:
    """Tell whether queries can name the data source, that is, whether it ever had rows."""
    found = query(
        settings,
        "SELECT TABLE_NAME FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA = 'druid' AND TABLE_NAME = %(datasource)s",
        {"datasource": datasource},
    )
    return bool(found)


def ping(settings: Settings) -> None:
    """Return if the overlord leads and the broker answers queries.

    Raises
    ------
    DruidError
        If either does not.
    """
    if not _overlord(settings, "GET", "isLeader", allowed=(404,)).json().get("leader"):
        raise DruidError(f"Druid's overlord at {settings.coordinator} does not lead yet")
    query(settings, "SELECT 1")


def _whole_rows(chunks: Iterable[str]) -> Iterator[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads("".join(chunks))
    return iter(rows)


# pydruid's own reader loses every row of an answer that has a value ending in a backslash, and takes an
# answer that broke off for a whole one; parsed as one document it is neither
pydruid.db.api.rows_from_chunks = _whole_rows


def _post(*arguments: Any, **named: Any) -> requests.Response:
    return requests.post(*arguments, timeout=_QUERY_TIMEOUT_S, **named)


# pydruid asks without a time-out, and has no setting for one
pydruid.db.api.requests = SimpleNamespace(**{**vars(requests), "post": _post})


def _literal(value: Any) -> str:
    """Return a value as SQL; pydruid's own quoting turns times into `None` and leaves `*` bare."""
    match value:
        case bool():
            return "TRUE" if value else "FALSE"
        case str():
            return "'" + value.replace("'", "''") + "'"
        case int() | float():
            return repr(value)
        case datetime() if value.tzinfo is not None:
            return f"TIMESTAMP '{value.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}'"[:-4] + "'"
        case list() | tuple() if value:
            return ", ".join(map(_literal, value))
    raise TypeError(f"{value!r} cannot stand in a query")


# -- HTTP --------------------------------------------------------------------------------------------


def _overlord(
    settings: Settings,
    method: str,
    path: str,
    *,
    body: Any = None,
    allowed: tuple[int, ...] = (),
    patience_s: float = _PATIENCE_S,
) -> requests.Response:
    return _ask(f"{settings.coordinator}/druid/indexer/v1/{path}", method, body, allowed, patience_s)


def coordinator(
    settings: Settings, method: str, path: str, *, body: Any = None, allowed: tuple[int, ...] = ()
) -> requests.Response:
    """Return the coordinator's answer to a request that may be repeated; raise `DruidError` for one not `allowed`."""
    return _ask(f"{settings.coordinator}/druid/coordinator/v1/{path}", method, body, allowed)


def _ask(
    url: str, method: str, body: Any, allowed: tuple[int, ...], patience_s: float = _PATIENCE_S
) -> requests.Response:
    """Ask Druid, again while it cannot answer; every request made here may be repeated."""
    retrying = Retrying(
        retry=retry_if_exception_type(_TRANSIENT) | retry_if_result(lambda answer: answer.status_code >= 500),
        stop=stop_after_delay(patience_s),
        wait=wait_exponential(multiplier=0.1, max=2.0),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    try:
        answer: requests.Response = retrying(requests.request, method, url, json=body, timeout=20)
    except requests.RequestException as error:
        raise DruidError(f"Druid does not answer at {url}: {error}") from error
    if not answer.ok and answer.status_code not in allowed:
        raise DruidError(f"Druid refused {method} {url} ({answer.status_code}): {answer.text[:500]}")
    return answer


def _until(probe: Callable[[], _Value], done: Callable[[_Value], bool], deadline: float, otherwise: str) -> _Value:
    """Return the first value of `probe` that is `done`."""
    retrying = Retrying(
        retry=retry_if_result(lambda value: not done(value)),
        stop=stop_after_delay(max(deadline - time.monotonic(), 0.0)),
        # asking costs Druid something too, and what takes long may be told a little later
        wait=wait_exponential(multiplier=_POLL_S, exp_base=1.3, max=_LONGEST_POLL_S),
    )
    try:
        return retrying(probe)
    except RetryError as error:
        raise DruidError(otherwise) from error


def _iso(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.000Z"
