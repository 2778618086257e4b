"""Starts Druid's indexer, once the overlord was told that what it took to run there is lost.

Where the overlord was started again while a task ran, and the indexer dies after that, Druid 33 takes the task for
running for ever (apache/druid pull request 18510), and its topic is not read any more. An indexer that is only starting
runs nothing, so whatever is taken to run at its address is lost; the overlord then makes it anew.

    python -m stack.indexer OVERLORD_URL HOST:PORT COMMAND…
"""

from __future__ import annotations

import os
import sys

import requests
from tenacity import RetryError, retry, retry_if_exception_type, stop_after_delay, wait_fixed

#: To connect, and to be answered, s: an overlord that has only just come back takes its time.
_TIMEOUT_S = (3.0, 30.0)
#: How long an overlord that listens, but does not answer yet, is asked again, s.
_PATIENCE_S = 60.0


def give_up_tasks_at(overlord: str, address: str) -> list[str]:
    """Have the overlord give up each task that it takes to run at an address (`host:port`); return their ids.

    An overlord that is only starting knows no task yet, and asks the indexer itself.
    """
    lost: list[str] = []
    try:
        for task in _tasks_at(overlord, address):
            if _give_up(overlord, task):
                lost.append(task)
    except (requests.RequestException, RetryError) as error:
        print(f"the overlord does not answer: {error}", flush=True)
    return lost


class _NotYet(requests.RequestException):
    """The overlord listens, and has no answer yet."""


_until_answered = retry(
    retry=retry_if_exception_type((_NotYet, requests.Timeout)),
    stop=stop_after_delay(_PATIENCE_S), wait=wait_fixed(1.0),
)  # fmt: skip


@_until_answered
def _tasks_at(overlord: str, address: str) -> list[str]:
    answer = requests.get(f"{overlord}/druid/indexer/v1/tasks", {"state": "running"}, timeout=_TIMEOUT_S)
    if not answer.ok:
        raise _NotYet(f"{answer.status_code} {answer.reason}")
    return [task["id"] for task in answer.json() if _address(task) == address]


@_until_answered
def _give_up(overlord: str, task: str) -> bool:
    """Shut a task down; False for one that has ended meanwhile, which must not keep the others."""
    answer = requests.post(f"{overlord}/druid/indexer/v1/task/{task}/shutdown", timeout=_TIMEOUT_S)
    if answer.status_code >= requests.codes.server_error:
        raise _NotYet(f"{answer.status_code} {answer.reason}")
    return answer.ok


def _address(task: dict[str, dict[str, object]]) -> str:
    place = task.get("location") or {}
    return f"{place.get('host')}:{place.get('port')}"


def main() -> None:
    """Give up what is lost, then become the indexer."""
    overlord, address, *command = sys.argv[1:]
    for task in give_up_tasks_at(overlord, address):
        print(f"gave up {task}, which ran here before", flush=True)
    os.execvp(command[0], command)  # noqa: S606 - the declared command of the server


if __name__ == "__main__":
    main()
