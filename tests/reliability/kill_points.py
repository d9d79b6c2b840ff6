"""Kill points: finds every await point in a pod's own code while it runs, and sends kill -9 at one of them.

A wrapper steps each task. Whenever its coroutine is suspended, the chain of waiting frames of `streamconsumer`,
outermost first, is the await point: `processor.py:201 _turn > consumer/redis_consumer.py:99 read`. There is no list of
points to maintain: the recorder finds a point in new code when the code first runs.

A process can die at three moments of an await:

    suspended   the request may not have left the process
    sent        the event loop has run once since: the request is on its way
    resumed     the reply has arrived and has not been processed
"""

import ast
import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import streamconsumer

MOMENTS = ("suspended", "sent", "resumed")
SECOND_HIT = 3
"""A point is tested at its first hit and, if it is hit often enough, at this hit."""

RECORD, KILL = "KILL_POINTS_RECORD", "KILL_POINTS_KILL"
_PROCESSOR_DIR = str(Path(streamconsumer.__file__).parent / "processor") + os.sep


def install() -> None:
    """Install a recorder or a killer in a pod. `RECORD` is a file; `KILL` is [point, moment, hit] as JSON."""
    if record := os.environ.get(RECORD):
        _step_through(PointRecorder(record))
    if kill := os.environ.get(KILL):
        _step_through(Killer(*json.loads(kill)))


class PointRecorder:
    """Records each point at its first hit and at hit `SECOND_HIT`."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._hits: Counter[str] = Counter()

    def on_suspend(self, point: str) -> None:
        self._hits[point] += 1
        if self._hits[point] in {1, SECOND_HIT}:
            os.write(self._file, (json.dumps([point, self._hits[point]]) + "\n").encode())

    def on_resume(self, point: str) -> None:
        pass


class Killer:
    """Sends kill -9 to its own process at one moment of one hit of one point."""

    def __init__(self, point: str, moment: str, hit: int) -> None:
        self._point, self._moment, self._hits_left = point, moment, hit

    def on_suspend(self, point: str) -> None:
        if point != self._point:
            return
        self._hits_left -= 1
        if self._hits_left == 0 and self._moment == "suspended":
            _die()
        if self._hits_left == 0 and self._moment == "sent":
            asyncio.get_running_loop().call_soon(_die)

    def on_resume(self, point: str) -> None:
        if self._hits_left == 0 and point == self._point and self._moment == "resumed":
            _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class WatchedCoroutine(Coroutine[Any, Any, Any]):
    """A task's coroutine that reports every suspension to `watcher`."""

    def __init__(self, inner: Coroutine[Any, Any, Any], watcher: PointRecorder | Killer) -> None:
        self._inner, self._watcher, self._point = inner, watcher, ""
        self.__name__ = getattr(inner, "__name__", "stepped")
        self.__qualname__ = getattr(inner, "__qualname__", "stepped")

    def send(self, value: Any) -> Any:
        self._before()
        result = self._inner.send(value)
        self._after()
        return result

    def throw(self, *error: Any) -> Any:
        self._before()
        result = self._inner.throw(*error)
        self._after()
        return result

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Any:
        return self._inner.__await__()

    def _before(self) -> None:
        if self._point:
            self._watcher.on_resume(self._point)

    def _after(self) -> None:
        self._point = " > ".join(frames_of(self._inner))
        if self._point:
            self._watcher.on_suspend(self._point)


def frames_of(coroutine: Any) -> list[str]:
    """Return the waiting frames of the processor, outermost first: `consumer/redis_consumer.py:99 read`."""
    frames = []
    while coroutine is not None:
        frame: FrameType | None = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "ag_frame", None)
        if frame is not None and frame.f_code.co_filename.startswith(_PROCESSOR_DIR):
            frames.append(f"{frame.f_code.co_filename[len(_PROCESSOR_DIR) :]}:{frame.f_lineno} {frame.f_code.co_name}")
        coroutine = next(
            (
                awaited
                for name in ("cr_await", "ag_await", "gi_yieldfrom")
                if (awaited := getattr(coroutine, name, None)) is not None
            ),
            None,
        )
    return frames


def uncovered_awaits(points: Iterable[str]) -> list[str]:
    """Return the awaits in the processor's sources that are not on the chain of any of these points."""
    passed = {tuple(step.split(" ")[0].rsplit(":", 1)) for point in points for step in point.split(" > ")}
    lines: dict[str, set[int]] = {}
    for file, line in passed:
        lines.setdefault(file, set()).add(int(line))
    return [
        f"{file}:{begin}"
        for file, begin, end in _awaits()
        if not lines.get(file, set()).intersection(range(begin, end + 1))
    ]


def _awaits() -> Iterator[tuple[str, int, int]]:
    """Yield file, first and last line of every await."""
    for path in sorted(Path(_PROCESSOR_DIR).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Await | ast.AsyncFor):
                yield str(path.relative_to(_PROCESSOR_DIR)), node.lineno, node.end_lineno or node.lineno
            if isinstance(node, ast.AsyncWith):
                yield str(path.relative_to(_PROCESSOR_DIR)), node.lineno, node.lineno


def _step_through(watcher: PointRecorder | Killer) -> None:
    """Wrap every task of every new event loop, in threads too."""
    from streamconsumer import event_loop

    module: Any
    for module in (event_loop, asyncio.events):
        module.new_event_loop = _wrap_loop_factory(module.new_event_loop, watcher)


def _wrap_loop_factory(new_event_loop: Callable[[], Any], watcher: PointRecorder | Killer) -> Callable[[], Any]:
    def new_loop() -> Any:
        loop = new_event_loop()
        loop.set_task_factory(
            lambda loop, coroutine, **options: asyncio.Task(WatchedCoroutine(coroutine, watcher), loop=loop, **options)
        )
        return loop

    return new_loop
