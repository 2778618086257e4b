"""Serve Superset by gunicorn on the address given: `SUPERSET_HOME=DIR serve.py HOST:PORT [WORKERS]`.

Run by the interpreter of Superset's environment; prepares the state first, then becomes gunicorn. Ready when
`/health` answers.
"""

import os
import sys
from pathlib import Path

# compiled modules start the server in 4 s instead of 11
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from prepare import prepare  # noqa: E402

# eight analysts' requests at once in each worker: they wait for Druid most of the time
THREADS = 8
# an idle connection is the client's or the proxy's to close (nginx does after 60 s): one that the server closes may
# have the next request under way, which then fails
KEEP_ALIVE_S = 75


def main(address: str, workers: str = "1") -> None:
    """Prepare, then become gunicorn."""
    prepare(Path(os.environ["SUPERSET_HOME"]))
    gunicorn = str(Path(sys.executable).with_name("gunicorn"))
    options = f"--workers {workers} --worker-class gthread --threads {THREADS} --timeout 120 --graceful-timeout 5"
    options += f" --keep-alive {KEEP_ALIVE_S}"
    # native filters travel in long addresses
    options += " --limit-request-line 0 --limit-request-field_size 0 --no-control-socket"
    os.execv(gunicorn, [gunicorn, "--bind", address, *options.split(), "superset.app:create_app()"])  # noqa: S606


if __name__ == "__main__":
    main(*sys.argv[1:])
