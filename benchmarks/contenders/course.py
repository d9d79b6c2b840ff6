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
class Moment:
    """Wall clock and CPU clocks, read at the same time."""

    wall: float
    cpu: float
    system: float
    """CPU time in the kernel. Part of `cpu`."""

    @classmethod
    def now(cls) -> Self:
        usage = resource.getrusage(resource.RUSAGE_SELF)  # includes all threads
        return cls(time.perf_counter(), usage.ru_utime + usage.ru_stime, usage.ru_stime)


class Course:
    """Handler of the job's kind, and its measurements."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.seen = self.polls = 0
        self.delays: list[float] = []
        self.all_seen: Callable[[], object] = lambda: None
        """Called once after the last message was handled, before it is acknowledged."""
        self.handle = {"noop": self._noop, "wait": self._wait, "stamp": self._stamp}[job.handler]
        self._began = self._ended = Moment(0, 0, 0)
        self.handlers_seconds = 0.0
        self.samples: Counter[str] = Counter()

    @property
    def over(self) -> bool:
        return self.seen >= self.job.count

    @property
    def running(self) -> bool:
        """True between the first message and the end of the run."""
        return bool(self._began.wall) and not self._ended.wall

    async def _noop(self, _data: Any) -> None:
        self._count()

    async def _wait(self, _data: Any) -> None:
        began = time.perf_counter()
        if not self._began.wall:
            self._began = Moment.now()
        await asyncio.sleep(WAIT_SECONDS)
        self.handlers_seconds += time.perf_counter() - began
        self.seen += 1
        if self.seen == self.job.count:
            self.all_seen()

    async def _stamp(self, data: Any) -> None:
        now = time.time_ns()
        self._count()
        if self.seen > self.job.skip:
            self.delays.append((now - int(data.get("sent") or data[b"sent"])) / 1e6)

    def _count(self) -> None:
        if self.seen == self.job.skip:
            self._began = Moment.now()
        self.seen += 1
        if self.seen == self.job.count:
            self.all_seen()

    # -- the end -------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Print the result. Call this after the last acknowledgement, because a pod may exit without returning."""
        self._ended = Moment.now()
        print(json.dumps(self.result()), flush=True)

    async def settled(self) -> None:
        """Wait until no entry is pending, then end. Used by contenders that do not see their acknowledgements."""
        await asyncio.to_thread(self.wait_until_settled)

    def wait_until_settled(self) -> None:
        """Wait in the calling thread until no entry is pending, then end."""
        with redis.Redis.from_url(self.job.url) as client:
            while self._pending(client):
                time.sleep(0.001)
        self.end()

    def _pending(self, client: redis.Redis) -> int:
        self.polls += 1
        found: Any = client.xpending(self.job.stream, self.job.group)
        return int(found["pending"])

    def result(self) -> dict[str, Any]:
        """Return the result in the format of benchmarks.races."""
        return {
            "seconds": self._ended.wall - self._began.wall,
            "cpu_seconds": self._ended.cpu - self._began.cpu,
            "system_seconds": self._ended.system - self._began.system,
            "handlers_seconds": self.handlers_seconds,
            "mebibytes": peak("self"),
            "polls": self.polls,  # XPENDING commands of the harness, not of the contender
            "delays": self.delays,
            "samples": self.samples,
        }


def peak(pid: int | str) -> float:
    """Return the peak resident size of a process in MiB. getrusage would include the parent before the fork."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
