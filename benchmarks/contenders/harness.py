"""Shared parts of all contenders: the job, the handler, and the clock from first message to last acknowledgement."""

import asyncio
import json
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import redis

STREAM, GROUP, CONSUMER = "bench", "bench", "one"
WAIT_SECONDS = 0.01


@dataclass(frozen=True)
class Job:
    """Parameters of a run, passed to the contender as one JSON argument. benchmarks/go reads the same format."""

    url: str
    count: int
    batch: int
    concurrency: int = 1
    handler: Literal["noop", "wait", "stamp"] = "noop"
    """`noop` does nothing, `wait` sleeps 10 ms, `stamp` records the age of the entry."""
    skip: int = 0
    """Number of warm-up messages, which are handled but not measured."""
    stream: str = STREAM
    group: str = GROUP

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class ClockReading:
    """Two clocks read together."""

    wall: float
    cpu: float
    system: float
    """CPU time in the kernel. Part of `cpu`."""

    @classmethod
    def now(cls) -> Self:
        usage = resource.getrusage(resource.RUSAGE_SELF)  # includes all threads
        return cls(time.perf_counter(), usage.ru_utime + usage.ru_stime, usage.ru_stime)


class Harness:
    """Handler that the job asks for, shared by all contenders, with its clock and its results."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.handled = self.polls = 0
        self.delays: list[float] = []
        self.on_all_handled: Callable[[], object] = lambda: None
        """Called once when the last message is handled, not yet acknowledged."""
        self.handle = {"noop": self._noop, "wait": self._wait, "stamp": self._stamp}[job.handler]
        self._started_at = self._ended_at = ClockReading(0, 0, 0)
        self.handler_seconds = 0.0
        self.samples: Counter[str] = Counter()

    @property
    def is_finished(self) -> bool:
        return self.handled >= self.job.count

    @property
    def is_running(self) -> bool:
        """True while the clock runs."""
        return bool(self._started_at.wall) and not self._ended_at.wall

    async def _noop(self, _data: Any) -> None:
        self._count()

    async def _wait(self, _data: Any) -> None:
        began = time.perf_counter()
        if not self._started_at.wall:
            self._started_at = ClockReading.now()
        await asyncio.sleep(WAIT_SECONDS)
        self.handler_seconds += time.perf_counter() - began
        self.handled += 1
        if self.handled == self.job.count:
            self.on_all_handled()

    async def _stamp(self, data: Any) -> None:
        now = time.time_ns()
        self._count()
        if self.handled > self.job.skip:
            self.delays.append((now - int(data.get("sent") or data[b"sent"])) / 1e6)

    def _count(self) -> None:
        if self.handled == self.job.skip:
            self._started_at = ClockReading.now()
        self.handled += 1
        if self.handled == self.job.count:
            self.on_all_handled()

    # -- the end -------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Stop the clock and print the result. Call when every acknowledgement has arrived.

        Prints immediately, because a pod may exit without returning here."""
        self._ended_at = ClockReading.now()
        print(json.dumps(self.result()), flush=True)

    async def finish_when_settled(self) -> None:
        """Wait until no entry is pending, then finish. For contenders that cannot see their acknowledgements."""
        await asyncio.to_thread(self.wait_until_settled)

    def wait_until_settled(self) -> None:
        """Wait in the calling thread until no entry is pending, then finish."""
        with redis.Redis.from_url(self.job.url) as client:
            while self._pending(client):
                time.sleep(0.001)
        self.finish()

    def _pending(self, client: redis.Redis) -> int:
        self.polls += 1
        summary: Any = client.xpending(self.job.stream, self.job.group)
        return int(summary["pending"])

    def result(self) -> dict[str, Any]:
        """Return the result in the format of benchmarks.runs."""
        return {
            "seconds": self._ended_at.wall - self._started_at.wall,
            "cpu_seconds": self._ended_at.cpu - self._started_at.cpu,
            "system_seconds": self._ended_at.system - self._started_at.system,
            "handlers_seconds": self.handler_seconds,
            "mebibytes": peak("self"),
            "polls": self.polls,  # XPENDING commands of the harness, not of the contender
            "delays": self.delays,
            "samples": self.samples,
        }


def peak(pid: int | str) -> float:
    """Return the peak resident size of a process in MiB. getrusage would include the parent before the fork."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
