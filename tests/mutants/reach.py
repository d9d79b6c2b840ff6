"""Measures which mutated code each seed and each test reaches, and how long it takes.

Python lines are recorded by a trace function. Statements of Lua scripts report their marks themselves: in a simulation,
each statement publishes its mark; in a test, each statement writes its mark to the log of the server. Both change no
key.
"""

import hashlib
import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

import hiredis
import pytest

from tests.cluster.redis_servers import REDIS, RedisServer
from tests.mutants import lua, targets
from tests.mutants.units import ROOT, TESTS, Collector, pytest_main, seed_failure
from tests.simulation.real_server import RealConnection, RealServer

CHANNEL = "~reached"
PUBLISH, LOG = f"redis.call('PUBLISH', '{CHANNEL}', '%s')", f"redis.log(redis.LOG_WARNING, '{CHANNEL} %s')"
"""Lua statements that report a mark."""


@dataclass(frozen=True)
class Unit:
    """A seed or test that passes without a mutant."""

    name: str
    """`seed N`, or the node id of a test."""
    seconds: float
    """Duration. For a seed, the CPU time of the process and its server."""
    reached: frozenset[str]
    """Marks of the code that the unit executes."""

    @property
    def seed(self) -> int | None:
        """Number of the seed. None for a test."""
        kind, _, number = self.name.partition(" ")
        return int(number) if kind == "seed" else None


def measured(seed_count: int) -> list[Unit]:
    """Return all units that pass. Reuses the measurement of an earlier run of the same code."""
    path = _cache_path(seed_count)
    if not path.exists():
        rows = in_children(lambda: measure_seeds(seed_count), measure_tests)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))
    return [Unit(name, seconds, frozenset(reached)) for name, seconds, reached in json.loads(path.read_text())]


Row = tuple[str, float, list[str]]
"""A unit as JSON values."""


def measure_seeds(count: int) -> list[Row]:
    """Run the seeds below `count`: once for the duration, and once to measure what the seed reaches."""
    real = RealServer(REDIS)
    try:
        seconds: dict[int, float] = {}
        for seed in range(count):
            begin = time.process_time() + real.cpu_seconds()
            if not seed_failure(seed, real):
                seconds[seed] = time.process_time() + real.cpu_seconds() - begin
        _instrument_scripts(PUBLISH)
        subscriber = Subscriber(real)
        rows: list[Row] = []
        for seed, each in seconds.items():
            with traced() as lines:
                seed_failure(seed, real)
            rows.append((f"seed {seed}", each, sorted(lines | subscriber.drain())))
        return rows
    finally:
        real.stop()


def measure_tests() -> list[Row]:
    """Run the tests once."""
    recorder = TestRecorder()
    _instrument_scripts(LOG)
    recorder.read_logs()
    pytest_main(TESTS, Collector(), recorder)
    return recorder.rows


class TestRecorder:
    """Plugin of pytest that records the duration of each test that passes, and what it reaches."""

    __test__ = False

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._has_passed = True
        self._script_marks: set[str] = set()
        self._log_sizes: dict[Path, int] = {}
        """Logs of the running servers, and the number of bytes of each log that have been read."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        begin, self._has_passed = time.monotonic(), True
        self._script_marks.clear()
        with traced() as lines:
            result = yield
        for log in self._log_sizes:
            self._read_log(log)
        marks = lines | self._script_marks
        if self._has_passed and marks:
            self.rows.append((item.nodeid, time.monotonic() - begin, sorted(marks)))
        return result

    def read_logs(self) -> None:
        """Read the log of each server after each test, and before the server is removed."""
        start, remove = RedisServer.start, RedisServer.remove

        def start_and_remember(server: RedisServer) -> RedisServer:
            start(server)
            self._log_sizes.setdefault(server._started.log, 0)
            return server

        def remove_after_reading(server: RedisServer) -> None:
            if server._program is not None:
                self._read_log(server._program.log)
                self._log_sizes.pop(server._program.log, None)
            remove(server)

        RedisServer.start = start_and_remember  # type: ignore[assignment,method-assign]
        RedisServer.remove = remove_after_reading  # type: ignore[assignment,method-assign]

    def _read_log(self, log: Path) -> None:
        with log.open("rb") as file:
            file.seek(self._log_sizes.get(log, 0))
            added = file.read()
        self._log_sizes[log] = self._log_sizes.get(log, 0) + len(added)
        self._script_marks.update(re.findall(rf"{CHANNEL} (\S+)", added.decode(errors="replace")))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._has_passed = self._has_passed and report.passed


# -- Python lines ------------------------------------------------------------------------------------------------------


@contextmanager
def traced() -> Iterator[set[str]]:
    """Yield the set of marks of the Python lines that run in this context, in all threads."""
    files = {str(targets.PACKAGE / path): path for path in targets.MODULES}
    lines: set[str] = set()

    def on_line(frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            lines.add(f"{files[frame.f_code.co_filename]}:{frame.f_lineno}")
        return on_line

    def on_call(frame: FrameType, _event: str, _argument: Any) -> Any:
        return on_line if frame.f_code.co_filename in files else None

    before = sys.gettrace()
    threading.settrace(on_call)
    sys.settrace(on_call)
    try:
        yield lines
    finally:
        sys.settrace(before)
        threading.settrace(before)


# -- statements of scripts ---------------------------------------------------------------------------------------------


def instrumented(script: targets.Script, report: str) -> str:
    """Return a script whose statements report their marks."""
    text = script.text
    for start in sorted(lua.statement_starts(text), reverse=True):
        text = f"{text[:start]}{report % script.mark(start)}; {text[start:]}"
    return text


def _instrument_scripts(report: str) -> None:
    targets.replace_scripts({script.text: instrumented(script, report) for script in targets.scripts()})


class Subscriber:
    """Receives the marks of the statements that run."""

    def __init__(self, real: RealServer) -> None:
        self._control = real.control
        self._control.execute("CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0")
        self._connection: RealConnection = real.connect()
        self._connection.execute("SUBSCRIBE", CHANNEL)

    def drain(self) -> set[str]:
        """Return the marks since the last call."""
        self._control.execute("PUBLISH", CHANNEL, "end")
        reader = hiredis.Reader()
        marks: set[str] = set()
        while True:
            reader.feed(self._connection._socket.recv(262_144))
            while (message := reader.gets()) is not False:
                mark = message[2].decode()
                if mark == "end":
                    return marks
                marks.add(mark)


# -- processes ---------------------------------------------------------------------------------------------------------


def in_children(*functions: Callable[[], list[Row]]) -> list[Row]:
    """Run each function in a forked child process, so that this process stays as it is. Returns all rows."""
    pipes = [_start_child(function) for function in functions]
    rows: list[Row] = []
    for pipe in pipes:
        with pipe:
            rows += json.loads(pipe.read() or "null") or sys.exit("the measurement failed")
    for _ in functions:
        os.wait()
    return rows


def _start_child(function: Callable[[], list[Row]]) -> IO[str]:
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        try:
            with os.fdopen(write_end, "w") as pipe:
                json.dump(function(), pipe)
        except BaseException:  # noqa: BLE001 - this process must not continue as its parent
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write_end)
    return os.fdopen(read_end)


_TEST_FOLDERS = ("simulation", "processor", "redis_client", "cli", "cluster", "mutants")
"""Folders of the tests that can change the measurement."""


def _cache_path(seed_count: int) -> Path:
    digest = hashlib.sha256(f"{seed_count} {sys.version}".encode())
    for name in ("src/streamconsumer", *(f"tests/{each}" for each in _TEST_FOLDERS)):
        for path in sorted([*(ROOT / name).rglob("*.py"), *(ROOT / name).rglob("*.lua")]):
            if path.stem not in {"report", "run", "__main__"} or name != "tests/mutants":
                digest.update(path.read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "streamconsumer" / "mutants" / f"{digest.hexdigest()[:16]}.json"
