"""Runs a pod as a process on this machine and restarts the process when it exits."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from streamconsumer.cli.dev import log_lines
from streamconsumer.cli.dev.child_process import spawn
from streamconsumer.cli.dev.terminal import Terminal

RESTART_SECONDS = 2.0
"""Number of seconds between the exit of a process and its restart."""

_OUTPUT_TIMEOUT_SECONDS = 1.0


class LocalPod:
    """A pod that runs as a local process."""

    def __init__(
        self,
        name: str,
        environment: Mapping[str, str],
        folders: Sequence[Path],
        grace_period: timedelta,
        terminal: Terminal,
    ) -> None:
        """`folders` are searched for the handler. The last folder is the working directory of the process."""
        self.name = name
        self._environment, self._folders, self._grace_period, self._terminal = (
            environment,
            folders,
            grace_period,
            terminal,
        )
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Run the process and restart it when it exits. If this coroutine is cancelled, the process is drained."""
        while True:
            code = await self._run_once()
            self._terminal.print_pod_exit(self.name, f"exited with code {code}; restarting in {RESTART_SECONDS:.0f} s")
            await asyncio.sleep(RESTART_SECONDS)

    def kill(self) -> None:
        """Kill the process without draining it."""
        if self._process:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def _run_once(self) -> int:
        command = (sys.executable, "-m", "streamconsumer", "processor")
        process = await spawn(*command, folder=self._folders[-1], environment=self._environment)
        self._process = process
        output = asyncio.create_task(self._read(process))
        try:
            return await process.wait()
        except asyncio.CancelledError:
            await self._drain(process)
            raise
        finally:
            with suppress(TimeoutError):  # a child of the process may keep the pipe open
                async with asyncio.timeout(_OUTPUT_TIMEOUT_SECONDS):
                    await output

    async def _drain(self, process: asyncio.subprocess.Process) -> None:
        """Send SIGTERM. If the process is still running after the grace period, send SIGKILL."""
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self._grace_period.total_seconds()):
                await process.wait()
        except TimeoutError:
            self._terminal.print_pod_exit(
                self.name, f"killed: did not exit within {self._grace_period.total_seconds():.0f} s"
            )
            self.kill()
            await process.wait()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout
        while True:
            try:
                raw = await process.stdout.readline()
            except ValueError:  # the line is longer than the limit and is skipped
                continue
            if not raw:
                return
            line = log_lines.parse(raw.decode(errors="replace").rstrip("\r\n"))
            self._terminal.print_log_line(self.name, line, self._folders)
