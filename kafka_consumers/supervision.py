"""Several landing processes as one command."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

from selfgen.settings import get_settings
from selfgen.stopping import stop_event

#: A landing process finishes its batch within 10 s.
_PATIENCE_S = 15.0


def supervise(names: Sequence[str], http_port: int = 0) -> int:
    """Run landing processes until SIGTERM or Ctrl-C, then stop them.

    Parameters
    ----------
    names : sequence of str
        Modules of `kafka_consumers`, one for each process.
    http_port : int
        The first process's port of health and metrics, the others' follow it; 0: as the settings say.

    Returns
    -------
    int
        0, or the exit code of a process that ended by itself; the others are stopped then too.
    """
    stop = stop_event()
    settings = get_settings()
    first = http_port or settings.landing_http_port
    # a session of their own: Ctrl-C reaches them once, through this process
    running = [
        subprocess.Popen(
            [sys.executable, "-m", f"kafka_consumers.{name}"],
            env=settings.model_copy(update={"landing_http_port": first and first + number}).environment(),
            start_new_session=True,
        )
        for number, name in enumerate(names)
    ]
    try:
        while not stop.wait(0.2):
            ended = [process.returncode for process in running if process.poll() is not None]
            if ended:
                return ended[0] or 1
        return 0
    finally:
        _stop(running)


def _stop(running: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in running:
        process.terminate()
    deadline = time.monotonic() + _PATIENCE_S
    for process in running:
        try:
            process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
