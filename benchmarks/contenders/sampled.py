"""StreamConsumer with a sampling profiler: a timer records the running function every few milliseconds of CPU time.

A profiler hook on every call would distort the result, because most functions here cost less than the hook. C code of
the event loop is attributed to the Python function that it calls next.
"""

import signal
from collections import Counter
from pathlib import Path
from types import FrameType

import streamconsumer
from benchmarks.contenders import streamconsumer as pod
from benchmarks.contenders.harness import Harness

INTERVAL_SECONDS = 0.001
"""Requested interval. The kernel checks the timer only at its own ticks, usually every 4 ms."""
PACKAGE_FOLDER = f"{Path(streamconsumer.__file__).parent}/"
HARNESS_FILE = str(Path(__file__).with_name("harness.py"))


def run(harness: Harness) -> None:
    samples = harness.samples = Counter()

    def sample(_number: int, frame: FrameType | None) -> None:
        if harness.is_running:
            samples[_function_of(frame)] += 1

    signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL_SECONDS, INTERVAL_SECONDS)
    pod.run(harness)


def _function_of(frame: FrameType | None) -> str:
    """Return `file: function|library`: the innermost function of this package, and the library that it called."""
    library = ""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(HARNESS_FILE):
            return "the handler itself|"
        if code.co_filename.startswith(PACKAGE_FOLDER) and not code.co_filename.endswith("/main.py"):
            return f"{code.co_filename.removeprefix(PACKAGE_FOLDER)}: {code.co_qualname}|{library}"
        library = library or _library(code.co_filename)
        frame = frame.f_back
    return f"the event loop between package functions|{library}"


def _library(path: str) -> str:
    """Return the package or standard module of a path. Functions of dataclasses have the path `<string>`."""
    if path == "<string>":
        return "dataclass"
    if path.endswith("_weakrefset.py"):  # asyncio's set of all tasks
        return "asyncio"
    name = path.rpartition("site-packages/")[2] if "site-packages/" in path else path.rpartition("/lib/python")[2]
    return next((part for part in name.split("/") if part and not part[0].isdigit()), "").removesuffix(".py")
