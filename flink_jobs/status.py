"""How a wind job is, as Flink's own REST interface says: its state, checkpoints, and what it has read and written."""

from __future__ import annotations

import re
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import requests
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from flink_jobs import keeper
from selfgen.settings import Settings

#: Operators' counters since the (re)start: those of sources and of what writes into a topic.
_COUNTERS = re.compile(
    r"(?P<source>Source__.*_(?P<read>wind\w*))\.numRecordsIn$|(?P<written>wind_\w+?)\[\d+\]__Writer\.numRecordsSend$"
)


def job_status(settings: Settings, name: str) -> dict[str, Any]:
    """Return how a job is, on the cluster or in a process of its own.

    Returns
    -------
    dict
        `job`, `state` (Flink's, or MISSING), and where there is one: `page`, `since`, `restarts`,
        `checkpoint_age_s`, `checkpoint_s` (how long the last one took), `checkpoint_bytes`, `checkpoints_failed`,
        `restored_from`, `read` and `written` (messages by topic since the start, some seconds old).
    """
    for where in (settings, keeper.local(settings, name)):
        with suppress(requests.RequestException):
            if found := keeper.jobs(where, name):
                return _described(where, name, found[0])
    return {"job": name, "state": "MISSING"}


def _described(settings: Settings, name: str, job: dict[str, Any]) -> dict[str, Any]:
    page = f"http://{settings.flink}"

    def ask(path: str) -> Any:
        answer = requests.get(f"{page}/jobs/{job['jid']}{path}", timeout=5)
        answer.raise_for_status()
        return answer.json()

    checkpoints = ask("/checkpoints")
    last, restored = checkpoints["latest"]["completed"] or {}, checkpoints["latest"]["restored"] or {}
    restarts = [int(float(metric["value"])) for metric in ask("/metrics?get=numRestarts")]
    read, written = _told(_records, ask)
    running = job["state"] == "RUNNING" and job["tasks"]["running"] == job["tasks"]["total"]
    return {
        "job": name,
        "state": "RUNNING" if running else "STARTING" if job["state"] == "RUNNING" else job["state"],
        "page": f"{page}/#/job/running/{job['jid']}",
        "since": datetime.fromtimestamp(job["start-time"] / 1000, UTC).isoformat(timespec="seconds"),
        "restarts": restarts[0] if restarts else None,
        "checkpoint_age_s": round(time.time() - last["latest_ack_timestamp"] / 1000, 1) if last else None,
        "checkpoint_s": last["end_to_end_duration"] / 1000 if last else None,
        "checkpoint_bytes": last.get("state_size"),
        "checkpoints_failed": checkpoints["counts"]["failed"],
        "restored_from": restored.get("external_path"),
        "read": read,
        "written": written,
    }


#: Flink looks for figures when it is asked for the first time.
_told = Retrying(
    retry=retry_if_result(lambda records: not any(records)),
    stop=stop_after_delay(3),
    wait=wait_fixed(0.2),
    retry_error_callback=lambda last: last.outcome.result(),
)


def _records(ask: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Return the messages read and written, by topic."""
    read, written = Counter[str](), Counter[str]()
    for vertex in ask("")["vertices"]:
        path = f"/vertices/{vertex['id']}/subtasks/metrics"
        found = {metric["id"]: match for metric in ask(path) if (match := _COUNTERS.match(metric["id"]))}
        if not found:
            continue
        for metric in ask(f"{path}?get={','.join(found)}"):
            match = found[metric["id"]]
            if match["source"]:
                # a job that reads a topic twice reads the same messages
                read[match["read"]] = max(read[match["read"]], int(metric["sum"]))
            else:
                written[match["written"]] += int(metric["sum"])
    return dict(read), dict(written)
