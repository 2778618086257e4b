"""How long-running processes are asked to stop."""

from __future__ import annotations

import signal
from threading import Event, Thread


def stop_event() -> Event:
    """Return an event that SIGTERM and SIGINT set; to be called in the main thread.

    It is set by a thread of its own: a handler runs in the middle of whatever the main thread does, which may be
    holding the event's own lock, and would wait for it for ever.
    """
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: Thread(target=stop.set, name="stop").start())
    return stop
