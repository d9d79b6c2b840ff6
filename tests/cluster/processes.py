"""A server process: started with a log and a record of its pid, signalled, and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.cluster.errors import ProgramFailed
from tests.cluster.runs import record_process, wait_until

PORT_TAKEN = "address already in use"


class Program:
    """One server: its command line, its log file and, while it runs, its process.

    `entered` says that the command is nsenter, which waits outside for the server inside.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        directory: Path,
        environment: Mapping[str, str] | None = None,
        *,
        in_namespaces: bool = False,
    ) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.environment = dict(environment or {})
        self.in_namespaces = in_namespaces
        self.log = directory / f"{name}.log"
        self.record = directory / f"{name}.pid"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ProgramFailed(f"{self.name} has no process: start it before asking for its pid")
        return self._process.pid

    @property
    def server_pid(self) -> int:
        """The server's own process, 0 while there is none."""
        return only_child(self.pid) if self.in_namespaces else self.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches the tests and not the servers."""
        if self.is_running:
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                cwd=self.log.parent,
                start_new_session=True,
            )
        record_process(self.record, self._process.pid)

    def stop(self, timeout: float = 30.0) -> None:
        """Ask it to end, and kill it when it has not ended in time."""
        self.signal(signal.SIGTERM)
        self.resume()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)
        # nsenter was stopped together with the server inside, and has to see it end.
        self.resume()
        if self._process is not None:
            self._process.wait()
        self._process = None
        self.record.unlink(missing_ok=True)

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        if not self.is_running:
            return
        server = self.server_pid or self.pid
        for pid in {server, self.pid} if number == signal.SIGCONT else {server}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Wait for it to become ready; its end or a time-out raises with the log's last lines."""
        wait_until(lambda: not self.is_running or ready(), timeout, pause=0.03)
        if not self.is_running:
            raise self.failure("ended while it should have started")
        if not ready():
            raise self.failure(f"was not ready after {timeout:.0f} s")

    def failure(self, problem: str) -> ProgramFailed:
        return ProgramFailed(
            f"{self.name} {problem}. Command: {' '.join(self.command)}\n"
            f"The last lines of its log {self.log}:\n{last_lines(self.log)}"
        )

    @property
    def lost_its_port(self) -> bool:
        """Whether it ended because another process took its port first."""
        return not self.is_running and PORT_TAKEN in last_lines(self.log).lower()


def only_child(pid: int) -> int:
    """The child of a process that has one, 0 while it has none."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return 0
    return int(children[0]) if children else 0


def last_lines(log: Path, count: int = 15) -> str:
    if not log.exists():
        return "(there is no log)"
    lines = log.read_text(errors="replace").splitlines()[-count:]
    return "\n".join(f"  {line}" for line in lines) or "  (the log is empty)"


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as listener:
        listener.bind((address, 0))
        port: int = listener.getsockname()[1]
        return port


def is_listening(port: int, address: str = "127.0.0.1") -> bool:
    with socket.socket() as connection:
        connection.settimeout(1)
        return connection.connect_ex((address, port)) == 0
