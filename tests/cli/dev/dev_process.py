"""Runs `streamconsumer dev` as a process: waits for its output lines and lists its descendants."""

import asyncio
import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

import streamconsumer

LINE_TIMEOUT_SECONDS = 30
SOURCES = Path(streamconsumer.__file__).parents[1]


class DevProcess:
    """A `dev` process as an async context manager, which kills the process at the end if it still runs."""

    def __init__(self, *arguments: str | Path, temporary: Path) -> None:
        self.lines: list[str] = []
        self._arguments = arguments
        self._temporary = temporary

    async def __aenter__(self) -> Self:
        self._temporary.mkdir()
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCES), "TMPDIR": str(self._temporary)}
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "streamconsumer", "dev", *self._arguments),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def wait_for_line(self, pattern: str) -> str:
        """Return the next line that matches. Fails with the whole output if there is none."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINE_TIMEOUT_SECONDS):
                while line := await self._read_line():
                    if re.search(pattern, line):
                        return line.rstrip("\n")
        raise AssertionError(f"no line matches {pattern!r} in:\n" + "\n".join(self.lines))

    async def redis_url(self) -> str:
        """Return the URL of the embedded server."""
        return (await self.wait_for_line("embedded Valkey")).rpartition(" ")[2]

    async def _read_line(self) -> str:
        assert self._process.stdout
        line = (await self._process.stdout.readline()).decode()
        self.lines.append(line.rstrip("\n"))
        return line

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def wait_for_exit(self) -> int:
        """Wait for the exit and return the exit code. Adds the remaining output to `lines`."""
        assert self._process.stdout
        self.lines += (await self._process.stdout.read()).decode().splitlines()
        return await self._process.wait()

    def descendants(self) -> list[int]:
        """Return pidfds of all descendants."""
        return [os.pidfd_open(pid) for pid in _descendants(self._process.pid)]

    def remaining_files(self) -> list[str]:
        """Return the names of the files in its temporary folder."""
        return [each.name for each in self._temporary.iterdir()]


def _descendants(pid: int) -> list[int]:
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [*children, *(inner for child in children for inner in _descendants(child))]


async def wait_for_exits(handles: list[int]) -> None:
    """Wait until the processes of the pidfds have exited."""
    loop = asyncio.get_running_loop()
    for handle in handles:
        exited = asyncio.Event()
        loop.add_reader(handle, exited.set)
        try:
            await asyncio.wait_for(exited.wait(), 20)
        finally:
            loop.remove_reader(handle)
            os.close(handle)
