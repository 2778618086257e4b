"""Keeps a streaming job running: submits it once, from its last checkpoint, and stops it with a savepoint at the end.

A job that the cluster found again by itself (a JobManager that was killed) is taken over, never submitted twice. The
client that submits is a process of its own, so that what stays is small. With `--local` that process is the cluster
as well: it runs the job itself, and is started again where it ends.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import structlog
from tenacity import RetryError, retry, retry_if_result, stop_after_delay, wait_fixed

from selfgen.settings import Settings, get_settings
from selfgen.stopping import stop_event

log = structlog.get_logger()

ENDED = {"FINISHED", "CANCELED", "FAILED"}
POLL_S = 1.0
#: Longest waits for a savepoint and for a job's end: together less than the supervisor's patience.
SAVEPOINT_S = 15.0
END_S = 10.0


class NoSavepoint(Exception):
    """Why a job could not be stopped with a savepoint."""


def jobs(settings: Settings, name: str) -> list[dict[str, Any]]:
    """Return the cluster's jobs of this name that have not ended."""
    response = requests.get(f"http://{settings.flink}/jobs/overview", timeout=5)
    response.raise_for_status()
    return [job for job in response.json()["jobs"] if job["name"] == name and job["state"] not in ENDED]


def last_checkpoint(settings: Settings, name: str) -> Path | None:
    """Return the newest complete checkpoint or savepoint of a job."""
    home = settings.checkpoints_dir / name
    found = [*home.glob("*/chk-*/_metadata"), *home.glob("savepoint-*/_metadata")]
    return max((path.parent for path in found), key=lambda path: (path / "_metadata").stat().st_mtime, default=None)


def stop(settings: Settings, name: str) -> None:
    """Stop a job with a savepoint and wait for its end; where that cannot be, cancel it: its last checkpoint stays."""
    for job in jobs(settings, name):
        try:
            savepoint = _stop_with_savepoint(settings, name, job["jid"])
            log.info("stopped", job=name, savepoint=savepoint)
        except (RetryError, NoSavepoint, requests.HTTPError) as error:
            log.warning("no savepoint, cancelling: it will go on from its last checkpoint", job=name, reason=str(error))
            _cancel(settings, job)
    _await_end(settings, name)


def _stop_with_savepoint(settings: Settings, name: str, job_id: str) -> str:
    """Have a job write all it has read, note where it is, and end; return the savepoint's path."""
    address = f"http://{settings.flink}/jobs/{job_id}"
    body = {"drain": False, "targetDirectory": f"file://{settings.checkpoints_dir / name}"}
    started = requests.post(f"{address}/stop", json=body, timeout=5)
    started.raise_for_status()

    def answer() -> dict[str, Any]:
        found = requests.get(f"{address}/savepoints/{started.json()['request-id']}", timeout=5)
        found.raise_for_status()
        return found.json()

    done = retry(
        retry=retry_if_result(lambda found: found["status"]["id"] != "COMPLETED"),
        wait=wait_fixed(0.2),
        stop=stop_after_delay(SAVEPOINT_S),
    )(answer)()["operation"]
    if "location" not in done:
        raise NoSavepoint(done["failure-cause"]["stack-trace"].rpartition("Caused by: ")[2].partition("\n")[0])
    return done["location"]


def cancel(settings: Settings, name: str) -> None:
    """Cancel a job and wait for its end; its last checkpoint stays."""
    for job in jobs(settings, name):
        _cancel(settings, job)
    _await_end(settings, name)


def _cancel(settings: Settings, job: dict[str, Any]) -> None:
    requests.patch(f"http://{settings.flink}/jobs/{job['jid']}?mode=cancel", timeout=5).raise_for_status()


def _await_end(settings: Settings, name: str) -> None:
    retry(retry=retry_if_result(lambda over: not over), wait=wait_fixed(0.2), stop=stop_after_delay(END_S))(_ended)(
        settings, name
    )


def _ended(settings: Settings, name: str) -> bool:
    """Tell whether a job runs no more; a local cluster goes with its job."""
    try:
        return not jobs(settings, name)
    except requests.ConnectionError:
        if settings.flink_target == "local":
            return True
        raise


def main(name: str, description: str | None, submit: Callable[[Settings, str | None], object]) -> None:
    """Run a job's command line: keep the job running, or with `--submit` submit it and return.

    Parameters
    ----------
    name : str
        Of the job, and of its module in this package.
    submit : callable
        `(settings, restore_from)`, submits the job from a checkpoint's path, or afresh.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--local", action="store_true", help="run the job in a process of its own, without a cluster")
    parser.add_argument("--submit", action="store_true", help="submit the job and return")
    parser.add_argument("--restore-from", help="checkpoint or savepoint to go on from")
    arguments = parser.parse_args()
    settings = local(get_settings(), name) if arguments.local else get_settings()
    if not arguments.submit:
        keep(settings, name)
        return
    submit(settings, arguments.restore_from)
    if arguments.local:
        parent = os.getppid()
        while not _ended(settings, name):
            time.sleep(POLL_S)
            if os.getppid() != parent:
                stop(settings, name)


def local(settings: Settings, name: str) -> Settings:
    """Return settings with which a job runs in a process of its own, and shows its page at a port of its own."""
    return settings.model_copy(update={"flink_target": "local", "flink_url": settings.address(name)})


def keep(settings: Settings, name: str) -> None:
    """Keep a job running until SIGTERM or SIGINT; a local one also no longer than the process that started this one."""
    stopping, parent = stop_event(), os.getppid()
    running: subprocess.Popen[bytes] | None = None
    try:
        while not stopping.is_set():
            if settings.flink_target == "remote":
                _submit_once(settings, name)
            elif os.getppid() != parent:
                break
            elif running is None or running.poll() is not None:
                running = _start(settings, name)
            stopping.wait(POLL_S)
        log.info("stopping", job=name)
        stop(settings, name)
    except (requests.RequestException, RetryError) as error:
        log.warning("the cluster does not answer, nothing was stopped", job=name, error=str(error))
    finally:
        if running is not None:
            _end(running)


def _submit_once(settings: Settings, name: str) -> None:
    try:
        if not jobs(settings, name) and (code := _start(settings, name).wait()):
            log.error("could not be submitted", job=name, exit_code=code)
    except requests.RequestException as error:
        log.warning("the cluster does not answer", job=name, address=settings.flink, error=str(error))


def _start(settings: Settings, name: str) -> subprocess.Popen[bytes]:
    """Start the process that submits a job, or that is its cluster as well."""
    checkpoint = last_checkpoint(settings, name)
    log.info("submitting", job=name, restore_from=str(checkpoint) if checkpoint else None)
    command = [
        *(sys.executable, "-m", f"flink_jobs.{name}", "--submit"),
        *(["--local"] if settings.flink_target == "local" else []),
        *(["--restore-from", str(checkpoint)] if checkpoint else []),
    ]
    # Ctrl-C is for this process: the other ends when its job does
    return subprocess.Popen(command, env=settings.environment(), start_new_session=True)


def _end(running: subprocess.Popen[bytes]) -> None:
    """Wait for a local cluster whose job has ended; it takes its Java process and workers with it."""
    try:
        running.wait(5)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
