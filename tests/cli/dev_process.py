"""`streamconsumer dev` as a real process: its lines are awaited, its descendants counted."""

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
    """`async with DevProcess(file, folder) as dev`: killed at the end if it still runs."""

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
        """The next line that matches. Fails with all that was said if there is none."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINE_TIMEOUT_SECONDS):
                while line := await self._read_line():
                    if re.search(pattern, line):
                        return line.rstrip("\n")
        raise AssertionError(f"no line matches {pattern!r} in:\n" + "\n".join(self.lines))

    async def redis_url(self) -> str:
        """Where its embedded server is."""
        return (await self.wait_for_line("embedded Valkey")).rpartition(" ")[2]

    async def _read_line(self) -> str:
        assert self._process.stdout
        line = (await self._process.stdout.readline()).decode()
        self.lines.append(line.rstrip("\n"))
        return line

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def wait_for_exit(self) -> int:
        """The exit code; what was said until then is in `lines`."""
        assert self._process.stdout
        self.lines += (await self._process.stdout.read()).decode().splitlines()
        return await self._process.wait()

    def descendants(self) -> list[int]:
        """Handles (pidfds) of all its children and theirs."""
        return [os.pidfd_open(pid) for pid in _descendants(self._process.pid)]

    def remaining_files(self) -> list[str]:
        """What lies in its temporary folder."""
        return [each.name for each in self._temporary.iterdir()]


def _descendants(pid: int) -> list[int]:
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [*children, *(inner for child in children for inner in _descendants(child))]


async def wait_for_exits(handles: list[int]) -> None:
    """Returns when the processes behind the handles have ended."""
    loop = asyncio.get_running_loop()
    for handle in handles:
        ended = asyncio.Event()
        loop.add_reader(handle, ended.set)
        try:
            await asyncio.wait_for(ended.wait(), 20)
        finally:
            loop.remove_reader(handle)
            os.close(handle)
