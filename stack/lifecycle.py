"""Up, down, status, logs: what people and tests do with the local stack.

>>> from selfgen.settings import get_settings
>>> up(get_settings(), ["kafka"])  # doctest: +SKIP
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from selfgen.settings import Settings
from stack.errors import StackError
from stack.install import install
from stack.programs import PROGRAMS
from stack.servers import GROUPS, SERVERS, Server, folder
from stack.supervisor import Supervisor, end, leftovers, log_path

#: Told of each step: (server, what happens).
Progress = Callable[[str, str], None]

POLL_S = 0.2
LEAST_FREE_MIB = 1024
LOG_LINES = 20


@dataclass(frozen=True)
class Status:
    """One server's state as `selfgen stack status` shows it."""

    name: str
    description: str
    state: str
    reason: str
    pid: int | None
    memory_mib: int
    address: str
    log: str


def expand(names: Iterable[str]) -> list[str]:
    """Return the servers these names and groups stand for, with what they need first, in order of need."""
    known = SERVERS | PROGRAMS
    ordered: list[str] = []

    def add(name: str) -> None:
        if name in ordered:
            return
        for needed in known[name].needs:
            add(needed)
        ordered.append(name)

    for given in names or SERVERS:
        for name in GROUPS.get(given, (given,)):
            if name not in known:
                choices = ", ".join([*SERVERS, *GROUPS])
                raise StackError(f"there is no server named {name}; the stack has {choices}")
            add(name)
    return ordered


def last_lines(settings: Settings, name: str, count: int = LOG_LINES) -> str:
    """Return the last lines of a server's log."""
    path = log_path(settings, name)
    if not path.exists():
        return ""
    with path.open(errors="replace") as file:
        return "".join(deque(file, maxlen=count))


def up(
    settings: Settings, names: Iterable[str] = (), progress: Progress = lambda _name, _text: None
) -> dict[str, float]:
    """Start servers in order of need, independent ones side by side; return each one's seconds until ready.

    What runs already is left as it is.

    Raises
    ------
    StackError
        A port is in use, the disk is full, a server died at its start or is not ready in time.
    """
    wanted = expand(names)
    settings.stack_dir.mkdir(parents=True, exist_ok=True)
    _check_disk(settings)
    install(settings, lambda text: progress("jars", text))
    with FileLock(settings.stack_dir / "up.lock"):
        supervisor = Supervisor(settings)
        if not supervisor.alive():
            end(leftovers(settings))
        supervisor.start([*SERVERS.values(), *PROGRAMS.values()])
        return _start_in_order(settings, supervisor, wanted, progress)


def _start_in_order(
    settings: Settings, supervisor: Supervisor, wanted: list[str], progress: Progress
) -> dict[str, float]:
    """Start each server as soon as all it needs are ready."""
    ready: dict[str, float] = {}
    waiting, running = list(wanted), dict[Future[float], str]()
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=len(wanted)) as pool:
        try:
            while waiting or running:
                for name in [name for name in waiting if all(need in ready for need in _server(name).needs)]:
                    waiting.remove(name)
                    running[pool.submit(_start, settings, supervisor, _server(name), progress, stop)] = name
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    ready[running.pop(future)] = future.result()
        finally:
            stop.set()
    return ready


def _server(name: str) -> Server:
    return SERVERS.get(name) or PROGRAMS[name]


def _start(
    settings: Settings, supervisor: Supervisor, server: Server, progress: Progress, stop: threading.Event
) -> float:
    begun = time.monotonic()
    if not supervisor.processes()[server.name]["pid"]:
        progress(server.name, "starting")
        _check_ports(settings, server)
        try:
            prepare(settings, server)
        except OSError as error:
            raise StackError(f"{server.name} could not be prepared: {error}") from error
        supervisor.start_program(server.name)
        _await_ready(settings, supervisor, server, stop)
        progress(server.name, f"ready after {time.monotonic() - begun:.1f} s")
    else:
        _await_ready(settings, supervisor, server, stop)
    return time.monotonic() - begun


def prepare(settings: Settings, server: Server) -> None:
    """Make a server's folders and configuration, and run what it needs before each start."""
    home = folder(settings, server.name)
    for name in (".", *server.folders):
        (home / name).mkdir(parents=True, exist_ok=True)
    for name, text in server.files(settings).items():
        _replace_text(home / name, text)
    command = server.prepare(settings)
    if command is None:
        return
    environment = settings.environment() | dict(server.environment(settings))
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-LOG_LINES:])
        raise StackError(f"{server.name} could not be prepared", tail)


def _replace_text(path: Path, text: str) -> None:
    """Write a file at once: servers that share a configuration are prepared side by side, and one may read already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)


def _await_ready(settings: Settings, supervisor: Supervisor, server: Server, stop: threading.Event) -> None:
    """Ask until ready; a new process id means that it died and was started again."""
    deadline = time.monotonic() + server.patience_s
    first_pid = 0
    while not stop.is_set():
        info = supervisor.processes().get(server.name)
        if info is None:
            raise StackError(f"the supervisor was stopped while {server.name} started")
        first_pid = first_pid or info["pid"]
        if info["statename"] in {"BACKOFF", "EXITED", "FATAL"} or (info["pid"] and info["pid"] != first_pid):
            supervisor.stop_program(server.name)
            raise StackError(
                f"{server.name} died at its start; its whole log: {log_path(settings, server.name)}",
                last_lines(settings, server.name),
            )
        reason = server.ready(settings) if info["statename"] == "RUNNING" else "it has only just been started"
        if reason is None:
            return
        if time.monotonic() > deadline:
            raise StackError(
                f"{server.name} is not ready after {server.patience_s:.0f} s: {reason}",
                last_lines(settings, server.name),
            )
        stop.wait(POLL_S)
    raise StackError(f"{server.name} was given up, as another server failed")


def _check_disk(settings: Settings) -> None:
    free_mib = shutil.disk_usage(settings.stack_dir).free // 2**20
    if free_mib < LEAST_FREE_MIB:
        raise StackError(
            f"the disk of {settings.stack_dir} is full: {free_mib} MiB are free, {LEAST_FREE_MIB} MiB are needed"
        )


def _check_ports(settings: Settings, server: Server) -> None:
    for name in server.ports:
        port = settings.port(name)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                raise StackError(
                    f"port {port}, which {server.name} needs, is in use{_holder(port)}; stop that, or set "
                    "SELFGEN_PORT_BASE to another first port"
                ) from error


def _holder(port: int) -> str:
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return ""


def down(settings: Settings, names: Iterable[str] = (), progress: Progress = lambda _name, _text: None) -> list[str]:
    """Stop the servers named, or all and the supervisor; return what was stopped. No process is left behind."""
    supervisor = Supervisor(settings)
    stopped: list[str] = []
    if supervisor.alive():
        running = [name for name, info in supervisor.processes().items() if info["pid"]]
        chosen = set(_with_dependents(names)) if names else set(running)
        for wave in _stop_order([name for name in running if name in chosen]):
            with ThreadPoolExecutor(max_workers=len(wave)) as pool:
                list(pool.map(lambda name: _stop(supervisor, name, progress), wave))
            stopped += wave
    if not names:
        if supervisor.alive():
            supervisor.shutdown()
        end(leftovers(settings))
    return stopped


def _stop(supervisor: Supervisor, name: str, progress: Progress) -> None:
    supervisor.stop_program(name)
    progress(name, "stopped")


def _with_dependents(names: Iterable[str]) -> list[str]:
    chosen = [name for given in names for name in GROUPS.get(given, (given,))]
    unknown = [name for name in chosen if name not in SERVERS and name not in PROGRAMS]
    if unknown:
        raise StackError(f"there is no server named {', '.join(unknown)}")
    for name, server in (SERVERS | PROGRAMS).items():
        if name not in chosen and any(need in chosen for need in server.needs):
            chosen.append(name)
    return chosen


def _stop_order(running: list[str]) -> list[list[str]]:
    """Return waves: what others need stops after them."""
    left, waves = list(running), []
    while left:
        wave = [name for name in left if not any(name in _server(other).needs for other in left)]
        waves.append(wave)
        left = [name for name in left if name not in wave]
    return waves


def status(settings: Settings) -> list[Status]:
    """Return the state of every server, each asked now."""
    processes = Supervisor(settings).processes()
    programs = {name: program for name, program in PROGRAMS.items() if processes.get(name, {}).get("pid")}
    with ThreadPoolExecutor(max_workers=len(SERVERS)) as pool:
        return list(
            pool.map(lambda server: _status(settings, server, processes), [*SERVERS.values(), *programs.values()])
        )


def _status(settings: Settings, server: Server, processes: dict[str, dict[str, Any]]) -> Status:
    pid = processes.get(server.name, {}).get("pid") or None
    reason = server.ready(settings) if pid else "it does not run"
    return Status(
        name=server.name,
        description=server.description,
        state="ready" if reason is None else "starting" if pid else "stopped",
        reason=reason or "",
        pid=pid,
        memory_mib=resident_mib(pid) if pid else 0,
        address=settings.address(server.ports[0]) if server.ports else "",
        log=str(log_path(settings, server.name)),
    )


def resident_mib(pid: int) -> int:
    """Return the resident memory of a process and its children, MiB."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return sum(member.memory_info().rss for member in family) // 2**20
    except psutil.NoSuchProcess:
        return 0


def as_dict(state: Status) -> dict[str, Any]:
    """Return a status for JSON."""
    return asdict(state)


def log_file(settings: Settings, name: str) -> Path:
    """Return the log of a server that exists."""
    if name not in SERVERS and name not in PROGRAMS and name != "supervisord":
        raise StackError(f"there is no server named {name}; the stack has {', '.join(SERVERS)}")
    return log_path(settings, name)
