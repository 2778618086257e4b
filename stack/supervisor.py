"""supervisord, the supervisor of the local stack: its configuration, and calls to it.

It starts what it is told to, starts again what dies, and stops all when it is shut down. One instance for each
`stack_dir`, reached through a Unix socket that only this user can open.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import subprocess
import sys
import tempfile
import xmlrpc.client
from pathlib import Path
from typing import Any

import psutil
from supervisor.options import split_namespec
from supervisor.xmlrpc import Faults, SupervisorTransport
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from selfgen.settings import Settings
from stack.errors import StackError
from stack.servers import Server

#: Marks every process of a stack, children of children included.
MARK = "SELFGEN_STACK"


def socket_path(settings: Settings) -> Path:
    """Return the supervisor's socket; in the temporary folder, as a socket's path must be short."""
    digest = hashlib.sha256(str(settings.stack_dir.resolve()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"selfgen-{os.getuid()}" / f"{digest}.sock"


def log_path(settings: Settings, name: str) -> Path:
    """Return the log of a program."""
    return settings.stack_dir / "logs" / f"{name}.log"


def _quote(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def _program(settings: Settings, server: Server) -> dict[str, str]:
    environment = {name: value for name, value in settings.environment().items() if name.startswith("SELFGEN_")} | dict(
        server.environment(settings)
    )
    return {
        "command": " ".join(_quote(part) for part in server.command(settings)),
        "directory": str(settings.stack_dir),
        "environment": ",".join(f"{name}={_quote(value)}" for name, value in environment.items()),
        "autostart": "false",
        "autorestart": "true",
        "startsecs": "1",
        "startretries": "1000000",
        "stopsignal": "TERM",
        "stopwaitsecs": str(server.stop_s),
        "stopasgroup": "false",
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": str(log_path(settings, server.name)).replace("%", "%%"),
        "stdout_logfile_maxbytes": "20MB",
        "stdout_logfile_backups": "1",
    }


def write_configuration(settings: Settings, servers: list[Server]) -> Path:
    """Write supervisord's configuration for these programs; return its path."""
    socket = socket_path(settings)
    socket.parent.mkdir(mode=0o700, exist_ok=True)
    log_path(settings, "x").parent.mkdir(parents=True, exist_ok=True)
    configuration = configparser.RawConfigParser()
    configuration.optionxform = str
    configuration.read_dict(
        {
            "unix_http_server": {"file": str(socket), "chmod": "0600"},
            "supervisord": {
                "logfile": str(log_path(settings, "supervisord")),
                "logfile_maxbytes": "5MB",
                "pidfile": str(settings.stack_dir / "supervisord.pid"),
                "childlogdir": str(log_path(settings, "x").parent),
                "identifier": "selfgen",
                "minfds": "1024",
            },
            "rpcinterface:supervisor": {
                "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
            },
            **{f"program:{server.name}": _program(settings, server) for server in servers},
        }
    )
    path = settings.stack_dir / "supervisord.conf"
    with path.open("w") as file:
        configuration.write(file)
    path.chmod(0o600)
    return path


class Supervisor:
    """A running supervisord, called through its socket."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def _call(self, method: str, *arguments: object) -> Any:
        """Call over a connection of its own: a transport is neither safe for threads nor whole after an error."""
        transport = SupervisorTransport(None, None, f"unix://{socket_path(self.settings)}")
        try:
            return getattr(xmlrpc.client.ServerProxy("http://127.0.0.1", transport).supervisor, method)(*arguments)
        finally:
            transport.close()

    def alive(self) -> bool:
        """Tell whether supervisord answers."""
        try:
            return bool(self._call("getState")["statename"] == "RUNNING")
        except (OSError, xmlrpc.client.Error):
            return False

    def start(self, servers: list[Server]) -> None:
        """Start supervisord, or let the running one read the configuration of these programs."""
        path = write_configuration(self.settings, servers)
        if self.alive():
            self._reread()
            return
        command = [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(path)]
        marked = os.environ | {MARK: str(self.settings.stack_dir.resolve())}
        done = subprocess.run(command, capture_output=True, text=True, env=marked, check=False)
        if done.returncode != 0:
            raise StackError("the supervisor did not start", (done.stderr or done.stdout)[-2000:])
        self._await_answer()

    @retry(
        retry=retry_if_exception_type(StackError),
        stop=stop_after_delay(15),
        wait=wait_fixed(0.1),
        reraise=True,
    )
    def _await_answer(self) -> None:
        if not self.alive():
            raise StackError("the supervisor does not answer")

    def _reread(self) -> None:
        """Take over programs that are new or changed; one that runs keeps what it was started with."""
        added, changed, removed = self._call("reloadConfig")[0]
        running = {name for name, info in self.processes().items() if info["statename"] == "RUNNING"}
        for name in (set(changed) | set(removed)) - running:
            self.stop_program(name)
            self._call("removeProcessGroup", name)
        for name in set(added) | (set(changed) - running):
            self._call("addProcessGroup", name)

    def processes(self) -> dict[str, dict[str, Any]]:
        """Return supervisord's own account of each program: `statename`, `pid`, `exitstatus` and so on."""
        if not self.alive():
            return {}
        return {split_namespec(info["name"])[1]: info for info in self._call("getAllProcessInfo")}

    def start_program(self, name: str) -> None:
        """Start one program; nothing happens where it runs."""
        try:
            self._call("startProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != Faults.ALREADY_STARTED:
                raise StackError(f"{name} cannot be started: {fault.faultString}") from fault

    def stop_program(self, name: str) -> None:
        """Stop one program and wait for its end; nothing happens where it does not run."""
        try:
            self._call("stopProcess", name, True)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode not in {Faults.NOT_RUNNING, Faults.BAD_NAME}:
                raise StackError(f"{name} cannot be stopped: {fault.faultString}") from fault

    def shutdown(self, timeout_s: float = 90.0) -> None:
        """Stop supervisord itself."""
        pidfile = self.settings.stack_dir / "supervisord.pid"
        try:
            daemon = psutil.Process(int(pidfile.read_text()))
        except (OSError, ValueError, psutil.NoSuchProcess):
            daemon = None
        self._call("shutdown")
        if daemon is not None:
            daemon.wait(timeout_s)


def leftovers(settings: Settings) -> list[psutil.Process]:
    """Return every process that bears this stack's mark, whoever started it."""
    mark = str(settings.stack_dir.resolve())
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.pid != os.getpid():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def end(processes: list[psutil.Process], patience_s: float = 20.0) -> None:
    """Ask processes to stop, and end those that do not."""
    for process in processes:
        with_signal(process, "terminate")
    _, stubborn = psutil.wait_procs(processes, timeout=patience_s)
    for process in stubborn:
        with_signal(process, "kill")
    psutil.wait_procs(stubborn, timeout=5)


def with_signal(process: psutil.Process, method: str) -> None:
    """Send a signal to a process that may be gone."""
    try:
        getattr(process, method)()
    except psutil.NoSuchProcess:
        return
