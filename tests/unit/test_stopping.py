from __future__ import annotations

import subprocess
import sys

CHILD = """
from selfgen.stopping import stop_event
stop = stop_event()
print("ready", flush=True)
with stop._cond:  # what Event.wait holds while it begins and ends
    import os, signal, time
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)  # the handler runs here
assert stop.wait(10)
print("stopped", flush=True)
"""


def test_a_signal_in_the_middle_of_a_wait_stops_it():
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "ready\nstopped\n"), done.stderr


def test_without_a_signal_it_is_not_set():
    code = "from selfgen.stopping import stop_event; print(stop_event().wait(0.1))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "False\n"
