"""Who runs in the races. Each is a process of its own: `python -m benchmarks.contenders NAME JOB` prints one line."""

import sys
from dataclasses import dataclass

from benchmarks.contenders.course import Job


@dataclass(frozen=True)
class Contender:
    """`name` is its module here."""

    name: str
    told: str
    """What the tables call it."""

    def command(self, job: Job) -> list[str]:
        """What runs it as a process of its own."""
        return [sys.executable, "-m", "benchmarks.contenders", self.name, job.to_json()]


STREAMCONSUMER = Contender("streamconsumer", "StreamConsumer")
PIPELINED = Contender("pipelined", "bare redis-py loop, XACK and next read in one pipeline")
NAIVE = Contender("naive", "bare redis-py loop, XACK for each message")
SEMAPHORE = Contender("semaphore", "bare redis-py loop, task a message, semaphore, one XACK for what is done")
PROTOCOL = Contender("protocol", "bare asyncio.Protocol and hiredis, XACK and next read in one write")
FASTSTREAM = Contender("faststream", "FastStream")
TIMERS = Contender("timers", "no Redis: the handlers alone, what the loop's timers allow")
SAMPLED = Contender("sampled", "StreamConsumer, looked at every millisecond")
