"""Keeps a streaming job on the cluster: submits it once, goes on from its last checkpoint, cancels it at the end.

A job that the cluster found again by itself (a JobManager that was killed) is taken over, never submitted twice. The
client that submits is a process of its own, so that what stays is small.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import structlog
from tenacity import retry, retry_if_result, stop_after_delay, wait_fixed

from selfgen.settings import Settings, get_settings
from selfgen.stopping import stop_event

log = structlog.get_logger()

ENDED = {"FINISHED", "CANCELED", "FAILED"}
POLL_S = 1.0


def jobs(settings: Settings, name: str) -> list[dict[str, Any]]:
    """Return the cluster's jobs of this name that have not ended."""
    response = requests.get(f"http://{settings.flink}/jobs/overview", timeout=5)
    response.raise_for_status()
    return [job for job in response.json()["jobs"] if job["name"] == name and job["state"] not in ENDED]


def last_checkpoint(settings: Settings, name: str) -> Path | None:
    """Return the newest complete checkpoint of a job."""
    found = (settings.checkpoints_dir / name).glob("*/chk-*/_metadata")
    return max((path.parent for path in found), key=lambda path: (path / "_metadata").stat().st_mtime, default=None)


def cancel(settings: Settings, name: str) -> None:
    """Cancel a job and wait for its end; its last checkpoint stays."""
    for job in jobs(settings, name):
        requests.patch(f"http://{settings.flink}/jobs/{job['jid']}?mode=cancel", timeout=5).raise_for_status()
    retry(retry=retry_if_result(bool), wait=wait_fixed(0.2), stop=stop_after_delay(25))(jobs)(settings, name)


def main(name: str, description: str | None, submit: Callable[[Settings, str | None], object]) -> None:
    """Run a job's command line: keep the job on the cluster, or with `--submit` submit it and return.

    Parameters
    ----------
    name : str
        Of the job, and of its module in this package.
    submit : callable
        `(settings, restore_from)`, submits the job from a checkpoint's path, or afresh.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submit", action="store_true", help="submit the job to the cluster and return")
    parser.add_argument("--restore-from", help="checkpoint or savepoint to go on from")
    arguments = parser.parse_args()
    if arguments.submit:
        submit(get_settings(), arguments.restore_from)
    else:
        keep(get_settings(), name)


def keep(settings: Settings, name: str) -> None:
    """Keep a job on the cluster until SIGTERM or SIGINT."""
    stop = stop_event()
    while not stop.is_set():
        try:
            if not jobs(settings, name):
                _submit(settings, name)
        except requests.RequestException as error:
            log.warning("the cluster does not answer", job=name, address=settings.flink, error=str(error))
        stop.wait(POLL_S)
    log.info("cancelling", job=name)
    try:
        cancel(settings, name)
    except requests.RequestException as error:
        log.warning("the cluster is gone, nothing to cancel", job=name, error=str(error))


def _submit(settings: Settings, name: str) -> None:
    checkpoint = last_checkpoint(settings, name)
    log.info("submitting", job=name, restore_from=str(checkpoint) if checkpoint else None)
    command = [
        sys.executable,
        "-m",
        f"flink_jobs.{name}",
        "--submit",
        *(["--restore-from", str(checkpoint)] if checkpoint else []),
    ]
    done = subprocess.run(command, env=settings.environment(), check=False)
    if done.returncode != 0:
        log.error("could not be submitted", job=name, exit_code=done.returncode)
