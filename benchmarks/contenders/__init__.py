"""Contenders of the benchmarks, each a separate process: `python -m benchmarks.contenders NAME JOB` prints JSON."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contenders.harness import Job

ENTRY = {"id": "1234567", "item": "a" * 60, "amount": "b" * 40}
"""Entry of all contenders: three fields with a number and 100 bytes of payload."""


@dataclass(frozen=True)
class Contender:
    """Consumer that is measured. `name` is its module in this package, unless `program` is set."""

    name: str
    label: str
    """Name in the tables."""
    is_wrapped: bool = False
    """True if its entries have their own format."""
    program: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables in addition to those of the run."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Fields of its entries in addition to `ENTRY`."""

    @property
    def entry(self) -> dict[str, str]:
        """Entry that its stream is filled with."""
        if not self.is_wrapped:
            return {**ENTRY, **self.fields}
        task = {"task_id": "1", "task_name": "handle", "labels": {}, "args": [ENTRY], "kwargs": {}}
        return {"data": json.dumps(task)}

    def command(self, job: Job) -> list[str]:
        """Return the command that runs the contender."""
        if self.program:
            return [str(self.program), job.to_json()]
        return [sys.executable, "-m", "benchmarks.contenders", self.name, job.to_json()]


STREAMCONSUMER = Contender("streamconsumer", "StreamConsumer")
PIPELINED = Contender("pipelined", "bare redis-py loop, XACK and next read in one pipeline")
STRAIGHTFORWARD = Contender("straightforward", "bare redis-py loop, SDK's `start_as_current_span` around each message")
NAIVE = Contender("naive", "bare redis-py loop, XACK for each message")
SEMAPHORE = Contender("semaphore", "bare redis-py loop, task per message, semaphore, one XACK for finished messages")
PROTOCOL = Contender("protocol", "bare asyncio.Protocol and hiredis, XACK and next read in one write")
FASTSTREAM = Contender("faststream", "FastStream")
TASKIQ = Contender("taskiq", "taskiq-redis", is_wrapped=True)
TIMERS = Contender("timers", "no Redis: handlers only, limited by the event loop's timers")
SAMPLED = Contender("sampled", "StreamConsumer, sampled")
