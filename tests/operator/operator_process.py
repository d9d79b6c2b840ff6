"""The operator as a process, as in its pod: settings in the environment, results in the log and the exit code."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from streamconsumer.operator.main import DANGEROUS_EXCEPTION
from streamconsumer.operator.settings import PREFIX
from tests.operator.namespace import TIMEOUT_SECONDS, eventually

LogLine = dict[str, Any]


class OperatorProcess:
    """A process of `python -m streamconsumer operator`."""

    command: Sequence[str] = (sys.executable, "-m", "streamconsumer", "operator")

    def __init__(self, kubeconfig: Path, folder: Path, **settings: object) -> None:
        local = {"http_port": 0, "http_host": "127.0.0.1", "allowed_destinations": "127.0.0.0/8"}
        variables = {**local, **settings}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("KUBERNETES_")},
            **{PREFIX + name.upper(): str(value) for name, value in variables.items()},
            "KUBECONFIG": str(kubeconfig),
            "HOME": str(folder),
        }
        self.log = folder / f"operator-{time.monotonic_ns()}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def start(self) -> Self:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=log)
        return self

    def wait_until_started(self, timeout: float = TIMEOUT_SECONDS) -> Self:
        """Wait until the operator has completed its first lists."""

        def started() -> None:
            assert self.exit_code is None, f"the operator exited:\n{self.log.read_text()}"
            assert self.logged("operator started"), f"the operator did not start:\n{self.log.read_text()}"

        eventually(started, timeout)
        return self

    @property
    def exit_code(self) -> int | None:
        """The exit code, or None while the process runs."""
        assert self._process
        return self._process.poll()

    def stop(self) -> tuple[int, float]:
        """Send SIGTERM. Returns the exit code and the seconds until the exit."""
        assert self._process
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout=60), time.monotonic() - began
        finally:
            self.kill()

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def lines(self) -> list[LogLine]:
        """Return the log lines. A line that is not JSON gets the severity `noise`."""
        return [_parse_line(text) for text in self.log.read_text().splitlines()]

    def logged(self, message: str) -> list[LogLine]:
        return [line for line in self.lines() if line["message"] == message]

    def unexpected_lines(self) -> list[LogLine]:
        """Return the lines with a severity above info, and the lines that are not JSON. The warning about the loopback
        addresses, which the tests allow, is left out."""
        lines = [line for line in self.lines() if line.get("severity") not in ("debug", "info")]
        return [line for line in lines if line.get("message") != DANGEROUS_EXCEPTION]

    def metrics(self) -> str:
        return self.get("metrics")[1]

    def get(self, path: str) -> tuple[int, str]:
        """Return the status and the text of an HTTP endpoint of the operator."""
        port = next(line["http_port"] for line in self.lines() if "http_port" in line)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}") as response:
                return response.status, str(response.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def resident_mebibytes(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _parse_line(text: str) -> LogLine:
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    return line if isinstance(line, dict) else {"message": text, "severity": "noise"}


@contextmanager
def running_operator(kubeconfig: Path, folder: Path, **settings: object) -> Iterator[OperatorProcess]:
    """Run a started operator for the duration of a block."""
    operator = OperatorProcess(kubeconfig, folder, **settings)
    try:
        yield operator.start().wait_until_started()
    finally:
        operator.kill()
