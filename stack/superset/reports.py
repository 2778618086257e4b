"""Send Superset's scheduled reports: `SUPERSET_HOME=DIR reports.py`, beside the server and with its environment.

Run by the interpreter of Superset's environment; becomes one Celery worker that holds the schedule too, so run one
only. Needs `SELFGEN_SUPERSET_REDIS` and a mail server (superset_config.py). The server prepares the state first.
"""

import os
import sys
from pathlib import Path

from prepare import configure


def main() -> None:
    """Become Celery."""
    for name in ("SELFGEN_SUPERSET_REDIS", "SELFGEN_SUPERSET_SMTP_HOST"):
        if not os.environ.get(name):
            sys.exit(f"scheduled reports need {name}")
    home = Path(os.environ["SUPERSET_HOME"])
    configure(home)
    celery = str(Path(sys.executable).with_name("celery"))
    options = f"worker --beat --pool=solo --loglevel=WARNING --schedule={home}/celerybeat-schedule"
    os.execv(celery, [celery, "--app=superset.tasks.celery_app:app", *options.split()])  # noqa: S606


if __name__ == "__main__":
    main()
