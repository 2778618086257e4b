"""Work beside a measurement: in threads of its own, until that is over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def meanwhile(*works: Callable[[threading.Event], object]) -> Iterator[None]:
    """Do work meanwhile; each stops when the event it is given is set, and what it raised is raised here."""
    stop, trouble = threading.Event(), list[BaseException]()

    def run(work: Callable[[threading.Event], object]) -> None:
        try:
            work(stop)
        except BaseException as error:
            trouble.append(error)

    threads = [threading.Thread(target=run, args=(work,), name="meanwhile") for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if trouble:
        raise trouble[0]
