"""One replica as a process on this machine, restarted as a kubelet does."""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from streamconsumer.cli.dev import figures, log_lines
from streamconsumer.cli.dev.guard import Guard
from streamconsumer.cli.dev.log_lines import LogLine
from streamconsumer.cli.dev.terminal import Terminal
from streamconsumer.processor.main import EXIT_CONFIGURATION

TERMINATION_LOG = "termination-log"
LONGEST_DELAY = timedelta(seconds=30)
STABLE_AFTER = timedelta(minutes=1)
"""A pod that ran so long begins again with the shortest delay."""

_LONGEST_LINE = 4 * 2**20
_LAST_OUTPUT_SECONDS = 1.0
_SCRAPE_SECONDS = 0.1
_STARTED, _STOPPED = "processor started", "processor stopped"


def delays() -> Iterator[timedelta]:
    """1, 2, 4, … seconds, then 30 for ever."""
    delay = timedelta(seconds=1)
    while True:
        yield min(delay, LONGEST_DELAY)
        delay *= 2


class LocalPod:
    """A name, an environment, and a process under them for as long as nobody stops it."""

    def __init__(
        self,
        name: str,
        environment: Mapping[str, str],
        folders: Sequence[Path],
        room: Path,
        terminal: Terminal,
    ) -> None:
        """`folders` are where handlers are looked for, the last one to work in; `room` is the pod's own."""
        self.name = name
        self.started = asyncio.Event()
        """Set when it reads its stream for the first time."""

        self._environment, self._folders, self._terminal = environment, folders, terminal
        self._termination_log = room / TERMINATION_LOG
        self._process: asyncio.subprocess.Process | None = None
        self._port = 0
        self._stopping = asyncio.Event()
        self._before: Counter[str] = Counter()
        self._current: Counter[str] = Counter()
        self._configuration_line = ""
        self._last_reason = ""

    @property
    def done(self) -> Counter[str]:
        """What it counted, over all its restarts."""
        return self._before + self._current

    async def run(self, guard: Guard) -> None:
        """Run, and run again, until stopped."""
        waits = delays()
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            began = loop.time()
            code = await self._run_once(guard)
            if self._stopping.is_set():
                return
            if loop.time() - began > STABLE_AFTER.total_seconds():
                waits = delays()
            delay = next(waits).total_seconds()
            self._tell_end(code, delay)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def stop(self, grace: timedelta, hurry: asyncio.Event) -> None:
        """SIGTERM, then SIGKILL after the grace period or in a hurry. Returns when the process has ended."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        tasks = [asyncio.create_task(each) for each in (process.wait(), hurry.wait(), self._follow())]
        await asyncio.wait(tasks[:2], timeout=grace.total_seconds(), return_when=asyncio.FIRST_COMPLETED)
        if process.returncode is None:
            why = "killed" if hurry.is_set() else f"killed: it did not end within {grace.total_seconds():.0f} s"
            self._terminal.ended(self.name, why, prominent=False)
            with suppress(ProcessLookupError):
                process.kill()
        await tasks[0]
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def measure(self) -> None:
        """Ask the process for its counters; one that does not answer keeps its last."""
        port = self._port
        if port and (found := await figures.scrape(port)) and port == self._port:
            self._current = found

    # -- one process -----------------------------------------------------------------------------------------

    async def _run_once(self, guard: Guard) -> int:
        self._termination_log.unlink(missing_ok=True)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "streamconsumer", "processor"),
            env=self._environment,
            cwd=self._folders[-1],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LONGEST_LINE,
            start_new_session=True,  # the terminal's Ctrl-C is for dev, which drains the pods
        )
        guard.add(process.pid)
        self._process = process
        output = asyncio.create_task(self._read(process))
        if self._stopping.is_set():  # asked to stop while it was being made
            process.terminate()
        code = await process.wait()
        guard.remove(process.pid)
        with suppress(TimeoutError):  # a grandchild may hold the pipe open
            await asyncio.wait_for(output, _LAST_OUTPUT_SECONDS)
        self._before, self._current, self._port = self._before + self._current, Counter(), 0
        return code

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout
        while True:
            try:
                raw = await process.stdout.readline()
            except ValueError:  # longer than the longest line: skipped
                continue
            if not raw:
                return
            self._heard(log_lines.parse(raw.decode(errors="replace").rstrip("\r\n")))

    def _heard(self, line: LogLine) -> None:
        if line.message == _STARTED:
            self._port = int(line.fields.get("http_port", 0))
            self.started.set()
        if line.message == _STOPPED:  # its last figures, which no scrape catches
            counts = {name: count for name, count in line.fields.items() if isinstance(count, int)}
            self._current, self._port = Counter(counts), 0
            return
        if line.level == "CRITICAL" and line.logger.startswith("streamconsumer."):
            return  # the same line is in the termination log, and is shown when the process has ended
        self._terminal.line(self.name, line, self._folders)

    async def _follow(self) -> None:
        """Measure often, up to the end."""
        while True:
            await self.measure()
            await asyncio.sleep(_SCRAPE_SECONDS)

    def _tell_end(self, code: int, delay: float) -> None:
        line = self._termination_log.read_text().strip() if self._termination_log.exists() else ""
        reason = f"exited with {code}" if code >= 0 else f"ended by signal {-code}"
        if code == EXIT_CONFIGURATION:
            reason += " (configuration)"
        told = f"{reason}: {line}" if line else reason
        if told == self._last_reason:
            self._terminal.ended(self.name, f"{reason} again; next try in {delay:.0f} s", prominent=False)
            return
        self._last_reason = told
        self._terminal.ended(self.name, told, prominent=code == EXIT_CONFIGURATION)
        self._terminal.ended(self.name, f"next try in {delay:.0f} s", prominent=False)
