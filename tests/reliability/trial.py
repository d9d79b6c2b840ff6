"""One stream, one group, one course of events that passes through reading, handling, failing, taking over and draining.

The same course is gone through again and again, with a different thing going wrong each time.
"""

import itertools
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis

from tests.cluster.runs import wait_until
from tests.reliability.ledger import DELETE, GROUP, Account, Ledger, stream_entries
from tests.reliability.nursery import ForkServer, Pod

SETTLE_TIMEOUT_SECONDS = 60.0

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
    "DELIVERY_MIN_IDLE": "3s",  # longer than it takes to know that a pod of our own is dead
    "DELIVERY_MAX_DELIVERIES": "3",
    "DELIVERY_BACKOFF_MIN_DELAY": "50ms",
    "DELIVERY_BACKOFF_MAX_DELAY": "500ms",
}


def pod_environment(stream: str, url: str, name: str, ledger: Ledger, **overrides: str) -> dict[str, str]:
    """The environment of a pod."""
    own = {"STREAM": stream, "REDIS_URL": url, "CONSUMER_NAME": name, **overrides}
    variables = {f"STREAMCONSUMER_{key}": value for key, value in {**SETTINGS, **own}.items()}
    return {**variables, "LEDGER": str(ledger.handled_file)}


@dataclass
class Scenario:
    """A stream of its own on a server that trials share."""

    fork_server: ForkServer
    client: Redis
    url: str
    folder: Path
    extra_settings: dict[str, str] = field(default_factory=dict)
    """Settings of its pods."""

    def __post_init__(self) -> None:
        number = next(_numbers)
        self.stream = f"orders-{number}"
        self.folder = self.folder / f"trial-{number}"
        self.folder.mkdir()
        self.ledger = Ledger(self.stream, self.folder / "ledger")
        self.pods: list[Pod] = []
        self.expected_first: set[str] = set()
        """What is handled before anything else happens: all but what waits for long or for ever."""
        self.deleted_id = ""
        """What is deleted while it waits."""

    def start_pod(self, name: str, url: str | None = None, **environment: str) -> Pod:
        """Start one. `environment` is beside its settings."""
        variables = pod_environment(self.stream, url or self.url, name, self.ledger, **self.extra_settings)
        self.pods.append(self.fork_server.start(name, self.folder, {**variables, **environment}))
        return self.pods[-1]

    def add_backlog(self) -> None:
        """A backlog, in which there is everything: what a dead pod and a dead stranger hold, what fails once, what
        waits for so long that it is laid aside, what fails always, what takes longer than a sign of life."""
        self.client.xgroup_create(self.stream, GROUP, "0", mkstream=True)
        taken_over = [self._add(ms="300") for _ in range(2)]
        self._kill_pod_during(taken_over)
        claimed = [self._add() for _ in range(2)]
        self.client.xreadgroup(GROUP, "stranger", {self.stream: ">"}, 2)
        self.client.xclaim(self.stream, GROUP, "stranger", 0, [*claimed], idle=60_000)
        self._add(later="2.1")
        self._add(poison="1")
        self.deleted_id = self._add(later="8")
        quick = [self._add() for _ in range(6)]
        self.expected_first = {*taken_over, *claimed, *quick, self._add(fails="1"), self._add(ms="900")}

    def _kill_pod_during(self, message_ids: list[str]) -> None:
        """In the middle of these messages, which are to be taken over."""
        pod = self.start_pod("pod-0")
        self._wait(lambda: len(self.ledger.lines("begun")) == len(message_ids), pod)
        pod.remove()

    def run_until_drained(self, victim: Pod) -> None:
        """What comes while it runs: an entry that is deleted while it waits, a group that goes, more messages, and
        SIGTERM while it is busy."""
        lives = self._wait(lambda: self.expected_first <= {line[2] for line in self.ledger.lines("done")}, victim, 6)
        self.ledger.remove(self.client, DELETE, self.deleted_id)
        if not lives:
            return
        slow = self._add(ms="1500")
        self._wait(lambda: slow in {line[2] for line in self.ledger.lines("begun")}, victim)
        self.ledger.destroy_group(self.client)
        again = self._add(fails="1")
        self._wait(lambda: again in {line[2] for line in self.ledger.lines("done")}, victim)
        so_far = len(self.ledger.lines("begun"))
        for milliseconds in (150, 150, 150, 0, 0, 0, 0):
            self.ledger.add(self.client, {"ms": str(milliseconds)})
        self._wait(lambda: len(self.ledger.lines("begun")) >= so_far + 2, victim)
        victim.signal(signal.SIGTERM)
        victim.wait_for_exit(8)

    def _wait(self, condition: Callable[[], bool], pod: Pod, within: float = 4) -> bool:
        """Wait until something is so or the pod has ended. Returns whether it lives."""
        wait_until(lambda: condition() or pod.wait_for_exit(0), within)
        return not pod.wait_for_exit(0)

    def _add(self, **errand: str) -> str:
        message_id = self.ledger.add(self.client, errand)
        assert message_id, "the server did not take a message before anything had gone wrong"
        return message_id

    def wait_settled(self, within: float = SETTLE_TIMEOUT_SECONDS) -> Account:
        """The account, once all is settled."""
        try:
            return self.ledger.wait_settled(self.client, within, self.pod_logs)
        finally:
            for pod in self.pods:
                pod.remove()

    def invoices(self) -> list[str]:
        """The effects of its handlers."""
        return sorted(fields["n"] for _, fields in stream_entries(self.client, f"{self.stream}-invoices"))

    def pod_logs(self) -> str:
        """The last that the pods said."""
        logs = {pod.name: pod.output.splitlines()[-15:] for pod in self.pods}
        return "\n".join(f"--- {name}\n" + "\n".join(line[:600] for line in lines) for name, lines in logs.items())
