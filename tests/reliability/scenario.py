"""Scenario: one stream and group, and one sequence of reads, handling, failures, claims and drains.

Tests repeat the same sequence with a different fault each time.
"""

import itertools
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis

from tests.cluster.runs import wait_until
from tests.reliability.fork_server import ForkServer, Pod
from tests.reliability.ledger import DELETE, GROUP, Account, Ledger, stream_entries

SETTLE_TIMEOUT_SECONDS = 60.0

_numbers = itertools.count()

POD_SETTINGS = {
    "CONSUMER_GROUP": GROUP,
    "HANDLER_PYTHON": "tests.reliability.scripted_handler:handle",
    "HTTP_HOST": "127.0.0.1",
    "HTTP_PORT": "0",
    "TERMINATION_LOG": "termination-log",
}
"""Settings of a pod that runs as a process. All other settings keep the product's defaults."""

SETTINGS = {
    **POD_SETTINGS,
    "POLL_INTERVAL": "200ms",
    "BATCH_COUNT": "4",
    "CONCURRENCY": "3",
    "DRAIN_TIMEOUT": "2s",
    "DELIVERY_MIN_IDLE": "3s",  # longer than the detection of a dead pod takes
    "DELIVERY_MAX_DELIVERIES": "3",
    "DELIVERY_BACKOFF_MIN_DELAY": "50ms",
    "DELIVERY_BACKOFF_MAX_DELAY": "500ms",
}


def pod_environment(
    stream: str, url: str, name: str, ledger: Ledger, settings: Mapping[str, str] = SETTINGS, /, **overrides: str
) -> dict[str, str]:
    """Return the environment of a pod."""
    own = {"STREAM": stream, "REDIS_URL": url, "CONSUMER_NAME": name, **overrides}
    variables = {f"STREAMCONSUMER_{key}": value for key, value in {**settings, **own}.items()}
    return {**variables, "LEDGER": str(ledger.handled_file)}


@dataclass
class Scenario:
    """Scenario with its own stream on a shared server."""

    fork_server: ForkServer
    client: Redis
    url: str
    folder: Path
    extra_settings: dict[str, str] = field(default_factory=dict)
    """Settings of the pods in addition to `SETTINGS`."""

    def __post_init__(self) -> None:
        number = next(_numbers)
        self.stream = f"orders-{number}"
        self.folder = self.folder / f"scenario-{number}"
        self.folder.mkdir()
        self.ledger = Ledger(self.stream, self.folder / "ledger")
        self.pods: list[Pod] = []
        self.expected_first: set[str] = set()
        """Ids of the messages that are handled before the first event: all but those with a long or endless wait."""
        self.deleted_id = ""
        """Id of the message that is deleted while it waits."""

    def start_pod(self, name: str, url: str | None = None, **environment: str) -> Pod:
        """Start a pod. `environment` is added to the settings."""
        variables = pod_environment(self.stream, url or self.url, name, self.ledger, **self.extra_settings)
        self.pods.append(self.fork_server.start(name, self.folder, {**variables, **environment}))
        return self.pods[-1]

    def add_backlog(self) -> None:
        """Add a backlog with every kind of message.

        The backlog has pending entries of a dead pod and of a dead consumer of another program. Messages fail once or
        always, wait long enough to be postponed in Redis, or run longer than a heartbeat interval.
        """
        self.client.xgroup_create(self.stream, GROUP, "0", mkstream=True)
        interrupted = [self._add(ms="300") for _ in range(2)]
        self._kill_pod_during(interrupted)
        claimed = [self._add() for _ in range(2)]
        self.client.xreadgroup(GROUP, "stranger", {self.stream: ">"}, 2)
        self.client.xclaim(self.stream, GROUP, "stranger", 0, [*claimed], idle=60_000)
        self._add(later="2.1")
        self._add(poison="1")
        self.deleted_id = self._add(later="8")
        quick = [self._add() for _ in range(6)]
        self.expected_first = {*interrupted, *claimed, *quick, self._add(fails="1"), self._add(ms="900")}

    def _kill_pod_during(self, message_ids: list[str]) -> None:
        """Start a pod and kill it while it handles these messages, so that another pod must claim them."""
        pod = self.start_pod("pod-0")
        self._wait(lambda: len(self.ledger.lines("started")) == len(message_ids), pod)
        pod.remove()

    def run_until_drained(self, victim: Pod) -> None:
        """Run the events: delete a waiting entry, destroy the group, add messages, and send SIGTERM to the busy pod.

        Returns early if the pod dies.
        """
        is_alive = self._wait(lambda: self.expected_first <= {line[2] for line in self.ledger.lines("done")}, victim, 6)
        self.ledger.remove(self.client, DELETE, self.deleted_id)
        if not is_alive:
            return
        slow = self._add(ms="1500")
        self._wait(lambda: slow in {line[2] for line in self.ledger.lines("started")}, victim)
        self.ledger.destroy_group(self.client)
        retried = self._add(fails="1")
        self._wait(lambda: retried in {line[2] for line in self.ledger.lines("done")}, victim)
        started_before = len(self.ledger.lines("started"))
        for milliseconds in (150, 150, 150, 0, 0, 0, 0):
            self.ledger.add(self.client, {"ms": str(milliseconds)})
        self._wait(lambda: len(self.ledger.lines("started")) >= started_before + 2, victim)
        victim.signal(signal.SIGTERM)
        victim.wait_for_exit(8)

    def _wait(self, condition: Callable[[], bool], pod: Pod, within: float = 4) -> bool:
        """Wait until the condition is true or the pod has ended. Returns whether the pod is alive."""
        wait_until(lambda: condition() or pod.wait_for_exit(0), within)
        return not pod.wait_for_exit(0)

    def _add(self, **instructions: str) -> str:
        message_id = self.ledger.add(self.client, instructions)
        assert message_id, "the server rejected a message before the first fault"
        return message_id

    def wait_settled(self, within: float = SETTLE_TIMEOUT_SECONDS) -> Account:
        """Wait until every message is settled, then remove the pods. Returns the account."""
        try:
            return self.ledger.wait_settled(self.client, within, self.pod_logs)
        finally:
            for pod in self.pods:
                pod.remove()

    def invoices(self) -> list[str]:
        """Return the effects that the handlers added."""
        return sorted(fields["n"] for _, fields in stream_entries(self.client, f"{self.stream}-invoices"))

    def pod_logs(self) -> str:
        """Return the last log lines of each pod."""
        logs = {pod.name: pod.output.splitlines()[-15:] for pod in self.pods}
        return "\n".join(f"--- {name}\n" + "\n".join(line[:600] for line in lines) for name, lines in logs.items())
