"""A pod without a cluster: `streamconsumer processor` as a process of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import streamconsumer
from tests.cli.forked import ForkedCommand
from tests.processor.eventually import TIMEOUT_SECONDS, eventually
from tests.processor.group import GROUP, STREAM

HERE = Path(__file__).parent
SOURCES = Path(streamconsumer.__file__).parents[1]


class Pod:
    """Process, its environment and its output."""

    def __init__(self, folder: Path, redis_url: str, handler: str, **settings: str) -> None:
        self.folder = folder
        self.output = folder / "output"
        self.termination_log = folder / "termination-log"
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(SOURCES), str(HERE)]),
            "STREAMCONSUMER_STREAM": STREAM,
            "STREAMCONSUMER_CONSUMER_GROUP": GROUP,
            "STREAMCONSUMER_CONSUMER_NAME": "pod-a",
            "STREAMCONSUMER_REDIS_URL": redis_url,
            "STREAMCONSUMER_HANDLER_PYTHON": handler,
            "STREAMCONSUMER_HTTP_HOST": "127.0.0.1",
            "STREAMCONSUMER_HTTP_PORT": "0",
            "STREAMCONSUMER_TERMINATION_LOG": str(self.termination_log),
            **{f"STREAMCONSUMER_{name.upper()}": value for name, value in settings.items()},
        }
        self.process: subprocess.Popen[bytes] | ForkedCommand | None = None

    def start(
        self,
        *,
        environment: Mapping[str, str] | None = None,
        command_prefix: Sequence[str] = (),
        new_interpreter: bool = False,
    ) -> "Pod":
        """Start the process: in a fork, or in a new interpreter for tests of its imports, its start and its exit.

        `command_prefix` is a command that runs a new interpreter, such as `unshare`.
        """
        environment = {**self.environment, **(environment or {})}
        with self.output.open("ab") as output:
            if sys.platform == "linux" and not command_prefix and not new_interpreter:
                out = output.fileno()
                self.process = ForkedCommand(["processor"], environment, self.folder, out, out)
                return self
            self.process = subprocess.Popen(
                [*command_prefix, sys.executable, "-m", "streamconsumer", "processor"],
                cwd=self.folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def signal(self, number: signal.Signals, pid: int | None = None) -> None:
        assert self.process
        os.kill(pid or self.process.pid, number)

    async def wait_for_exit(self, within: float = TIMEOUT_SECONDS) -> int:
        """Wait for the process to exit. Returns its exit code."""
        process = self.process
        assert process
        await eventually(lambda: process.poll() is not None, within)
        return process.wait()

    def remove(self) -> None:
        """Kill the process if it still runs."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def child_pid(self) -> int:
        """Process id of the only child of the process."""
        assert self.process
        [pid] = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(pid)

    @property
    def log_lines(self) -> list[dict[str, Any]]:
        """Log lines so far. A line that is not JSON becomes `{"text": …}`."""
        text = self.output.read_text() if self.output.exists() else ""
        return [_parse_line(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def find_log(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.log_lines if line.get("message") == message]

    async def wait_for_log(self, message: str, times: int = 1, within: float = TIMEOUT_SECONDS) -> list[dict[str, Any]]:
        """Wait for `times` log lines with this message. Returns all such lines."""
        await eventually(lambda: len(self.find_log(message)) >= times, within)
        return self.find_log(message)

    async def http_port(self) -> int:
        return int((await self.wait_for_log("processor started"))[0]["http_port"])


NewPod = Callable[..., Pod]
"""Type of the fixture `new_pod`."""


def _parse_line(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError:
        return {"text": line}
