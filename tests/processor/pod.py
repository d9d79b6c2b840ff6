"""`python -m streamconsumer processor` as a child process: a pod without a cluster."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import streamconsumer
from tests.processor.eventually import PATIENCE_SECONDS, eventually
from tests.processor.group import GROUP, STREAM

HERE = Path(__file__).parent
SOURCES = Path(streamconsumer.__file__).parents[1]


class Pod:
    """One process, its environment, and what it said on standard output."""

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
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, environment: Mapping[str, str] | None = None, under: Sequence[str] = ()) -> "Pod":
        """`under` are the words of a command to run it with."""
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*under, sys.executable, "-m", "streamconsumer", "processor"],
                cwd=self.folder,
                env={**self.environment, **(environment or {})},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def signal(self, number: signal.Signals, pid: int | None = None) -> None:
        assert self.process
        os.kill(pid or self.process.pid, number)

    async def ended(self, within: float = PATIENCE_SECONDS) -> int:
        """Its exit code."""
        process = self.process
        assert process
        await eventually(lambda: process.poll() is not None, within)
        return int(process.returncode)

    def remove(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def only_child(self) -> int:
        assert self.process
        [pid] = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(pid)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its log so far. What is no JSON is shown as `{"text": …}`."""
        text = self.output.read_text() if self.output.exists() else ""
        return [_parsed(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def said(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("message") == message]

    async def says(self, message: str, times: int = 1, within: float = PATIENCE_SECONDS) -> list[dict[str, Any]]:
        """The log lines with this message, once there are so many."""
        await eventually(lambda: len(self.said(message)) >= times, within)
        return self.said(message)

    async def port(self) -> int:
        return int((await self.says("processor started"))[0]["http_port"])


NewPod = Callable[..., Pod]
"""What the fixture `new_pod` gives."""


def _parsed(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError:
        return {"text": line}
