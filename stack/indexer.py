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

#: To connect, and to be answered, s: an overlord that has only just come back takes its time.
_TIMEOUT_S = (3.0, 30.0)


def give_up_tasks_at(overlord: str, address: str) -> list[str]:
    """Have the overlord give up each task that it takes to run at an address (`host:port`); return their ids.

    An overlord that is only starting knows no task yet, and asks the indexer itself.
    """
    tasks = f"{overlord}/druid/indexer/v1/task"
    lost = []
    try:
        answer = requests.get(f"{tasks}s", {"state": "running"}, timeout=_TIMEOUT_S)
        answer.raise_for_status()
        for task in (task["id"] for task in answer.json() if _address(task) == address):
            # one that has ended meanwhile is refused, which must not keep the others
            if requests.post(f"{tasks}/{task}/shutdown", timeout=_TIMEOUT_S).ok:
                lost.append(task)
    except requests.RequestException as error:
        print(f"the overlord does not answer: {error}", flush=True)
    return lost


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
