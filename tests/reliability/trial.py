"""One stream, one group, one course of events that passes through reading, handling, failing, taking over and draining.

The same course is gone through again and again, with a different thing going wrong each time.
"""

import itertools
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis

from tests.cluster.runs import wait_until
from tests.reliability.ledger import GROUP, Account, Ledger
from tests.reliability.nursery import Nursery, Pod

PATIENCE = 25.0

_numbers = itertools.count()

SETTINGS = {
    "CONSUMER_GROUP": GROUP,
    "HANDLER_PYTHON": "tests.reliability.deeds:handle",
    "HTTP_HOST": "127.0.0.1",
    "HTTP_PORT": "0",
    "TERMINATION_LOG": "termination-log",
    "POLL_INTERVAL": "200ms",
    "BATCH_COUNT": "4",
    "CONCURRENCY": "3",
    "DRAIN_TIMEOUT": "2s",
    "DELIVERY_MIN_IDLE": "1s",
    "DELIVERY_MAX_DELIVERIES": "3",
    "DELIVERY_BACKOFF_MIN_DELAY": "50ms",
    "DELIVERY_BACKOFF_MAX_DELAY": "500ms",
    "RECONNECT_MAX_DELAY": "200ms",
}


def settings(stream: str, url: str, name: str, ledger: Ledger, **more: str) -> dict[str, str]:
    """The environment of a pod."""
    own = {"STREAM": stream, "REDIS_URL": url, "CONSUMER_NAME": name, **more}
    variables = {f"STREAMCONSUMER_{key}": value for key, value in {**SETTINGS, **own}.items()}
    return {**variables, "LEDGER": str(ledger.handled)}


@dataclass
class Trial:
    """A stream of its own on a server that trials share."""

    nursery: Nursery
    client: Redis
    url: str
    folder: Path
    more: dict[str, str] = field(default_factory=dict)
    """Settings of its pods."""

    def __post_init__(self) -> None:
        number = next(_numbers)
        self.stream = f"orders-{number}"
        self.folder = self.folder / f"trial-{number}"
        self.folder.mkdir()
        self.ledger = Ledger(self.stream, self.folder / "ledger")
        self.pods: list[Pod] = []
        self.begun: set[str] = set()
        """What a pod knew to be its own when the group was destroyed."""

    def pod(self, name: str, url: str | None = None, **environment: str) -> Pod:
        """Start one. `environment` is beside its settings."""
        variables = settings(self.stream, url or self.url, name, self.ledger, **self.more)
        self.pods.append(self.nursery.start(name, self.folder, {**variables, **environment}))
        return self.pods[-1]

    def begin(self) -> None:
        """A backlog, in which there is everything: what a dead stranger holds, what fails once, what
        waits for so long that it is laid aside, what fails always."""
        self.client.xgroup_create(self.stream, GROUP, "0", mkstream=True)
        for _ in range(2):
            self.ledger.add(self.client)
        reply: Any = self.client.xreadgroup(GROUP, "stranger", {self.stream: ">"}, 2)
        self.client.xclaim(self.stream, GROUP, "stranger", 0, [each[0] for each in reply[0][1]], idle=60_000)
        self.ledger.add(self.client, {"fails": "1"})
        self.ledger.add(self.client, {"later": "2.1"})
        self.ledger.add(self.client, {"poison": "1"})
        for _ in range(6):
            self.ledger.add(self.client)
        self.ledger.add(self.client, {"ms": "900"})  # long enough to show signs of life

    def go_on(self, victim: Pod) -> None:
        """What comes while it runs: a group that goes, more messages, and SIGTERM while it is busy."""
        if not self._noted("done", 10, victim):
            return
        self.begun = {line[1] for line in self.ledger.lines("begun")}
        self.ledger.destroy_group(self.client)
        self.ledger.add(self.client, {"fails": "1"})
        self._noted("done", 12, victim)
        begun = len(self.ledger.lines("begun"))
        for milliseconds in (150, 150, 150, 0, 0, 0, 0):
            self.ledger.add(self.client, {"ms": str(milliseconds)})
        self._noted("begun", begun + 2, victim)
        victim.signal(signal.SIGTERM)
        victim.ended(8)

    def _noted(self, kind: str, count: int, victim: Pod, within: float = 4) -> bool:
        """Whether the ledger has so many lines of this kind and the victim still lives."""
        wait_until(lambda: len(self.ledger.lines(kind)) >= count or victim.ended(0), within)
        return not victim.ended(0)

    def end(self, within: float = PATIENCE) -> Account:
        """The account, once all is settled."""
        try:
            return self.ledger.settle(self.client, within, self.told)
        finally:
            for pod in self.pods:
                pod.remove()

    def told(self) -> str:
        """The last that the pods said."""
        logs = {pod.name: pod.output.splitlines()[-15:] for pod in self.pods}
        return "\n".join(f"--- {name}\n" + "\n".join(line[:600] for line in lines) for name, lines in logs.items())
