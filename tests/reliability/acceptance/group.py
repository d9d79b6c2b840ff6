"""Consumer group with its own server and its own pods, which have the product's default settings."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from tests.cluster.redis_servers import Options, RedisServer
from tests.cluster.runs import wait_until
from tests.reliability.fork_server import ForkServer, Pod
from tests.reliability.ledger import GROUP, Ledger
from tests.reliability.scenario import POD_SETTINGS, pod_environment
from tests.reliability.scripted_handler import trigger_file

STREAM = "orders"
START_TIMEOUT_SECONDS = 60.0
HOLD_TIMEOUT_SECONDS = 10.0
QUICK_MESSAGES = 20
MAX_ATTEMPTS = 5

T = TypeVar("T")

Instructions = Callable[[int], Mapping[str, str]]
"""Function that returns the fields of the message with this number."""


class NotReached(Exception):
    """A measurement did not reach the state that it measures."""


class NotHeld(NotReached):
    """A pod did not read as many messages as the measurement needs.

    A pod that the machine runs too slowly does not prefetch, because it takes the handlers for slow.
    """


def retry_until_held(measure: Callable[[Path], T], folder: Path) -> T:
    """Repeat a measurement whose pod did not hold its messages, each time in another folder."""
    for attempt in range(MAX_ATTEMPTS - 1):
        with suppress(NotHeld):
            return measure(folder / str(attempt))
    return measure(folder / "last")


class Group:
    """Pods of one group, and the ledger of its messages."""

    def __init__(
        self, fork_server: ForkServer, folder: Path, options: Options | None = None, /, **settings: str
    ) -> None:
        """Start a server in `folder`, which must not exist. `settings` are added to the product's defaults."""
        self._fork_server, self.folder, self.settings = fork_server, folder, {**POD_SETTINGS, **settings}
        folder.mkdir(parents=True)
        self.server = RedisServer(options).start()
        self.client = Redis.from_url(self.server.url, decode_responses=True)
        self.ledger = Ledger(STREAM, folder / "ledger")
        self.pods: dict[str, Pod] = {}

    def start_pod(self, name: str, url: str = "", fork_server: ForkServer | None = None) -> Pod:
        environment = pod_environment(STREAM, url or self.server.url, name, self.ledger, self.settings)
        pod = self.pods[name] = (fork_server or self._fork_server).start(name, self.folder, environment)
        return pod

    def add(self, count: int, instructions: Instructions) -> list[str]:
        """Produce messages. Returns their numbers `n`."""
        known = set(self.ledger.produced)
        for index in range(count):
            if self.ledger.add(self.client, dict(instructions(index))) is None:
                raise NotReached(f"{self.folder.name}: the server rejected a message before the fault")
        return sorted(self.ledger.produced - known)

    def let_prefetch(self, consumer: str) -> None:
        """Let the only pod handle quick messages, so that it then reads more messages than it can run."""
        for _ in range(QUICK_MESSAGES):
            self.add(1, lambda _: {"ms": "0"})
            self.wait(
                lambda: len(self.ledger.lines("done")) == len(self.ledger.produced), "a quick message is not done"
            )
        self.wait(lambda: self.pending_of(consumer) == 0, "quick messages are not acknowledged")

    def trigger(self) -> None:
        """Let the messages with `gil` or `block` occupy their process."""
        trigger_file(self.ledger.handled_file).touch()

    def wait_held(self, consumer: str, count: int) -> None:
        """Wait until a consumer owns `count` entries. Raises NotHeld if it does not read them."""
        if not wait_until(lambda: self.pending_of(consumer) == count, HOLD_TIMEOUT_SECONDS):
            raise NotHeld(f"{self.folder}: {consumer} owns {self.pending_of(consumer)} entries, expected {count}")

    # -- state -----------------------------------------------------------------------------------------------------

    def pending_of(self, consumer: str) -> int:
        """Return the number of entries that a consumer owns."""
        with suppress(ResponseError):  # the pods have not created the group yet
            summary: Any = self.client.xpending(STREAM, GROUP)
            return sum(each["pending"] for each in summary["consumers"] if each["name"] == consumer)
        return 0

    def starts(self) -> dict[str, list[tuple[str, float]]]:
        """Return the starts of each message: consumer and time. Includes a second start in the same process."""
        found: dict[str, list[tuple[str, float]]] = {}
        for kind, n, _, consumer, _, at in self.ledger.lines():
            if kind.startswith("started"):
                found.setdefault(n, []).append((consumer, float(at)))
        return found

    def blocked_reads(self) -> int:
        """Return the number of blocked clients."""
        clients: Any = self.client.info("clients")
        return int(clients["blocked_clients"])

    def wait(self, condition: Callable[[], object], problem: str, within: float = START_TIMEOUT_SECONDS) -> None:
        """Wait until a condition is true. Raises NotReached with the logs of the pods."""

        def is_true() -> bool:
            with suppress(RedisError, OSError):
                return bool(condition())
            return False

        if not wait_until(is_true, within, pause=0.05):
            raise NotReached(f"{self.folder.name}: {problem} after {within:.0f} s\n{self.logs()}")

    def logs(self) -> str:
        """Return the last log lines of each pod."""
        return "\n".join(f"--- {name}\n{pod.output[-3000:]}" for name, pod in self.pods.items())

    # -- faults ----------------------------------------------------------------------------------------------------

    def connections_of(self, pod: Pod) -> list[str]:
        """Return the addresses of a pod's connections to the server, as the server shows them."""
        ports = _local_ports(pod.pid)
        listed: Any = self.client.client_list()
        return [each["addr"] for each in listed if int(each["addr"].rpartition(":")[2]) in ports]

    def cut(self, addresses: list[str]) -> None:
        """Close these connections."""
        for address in addresses:
            with suppress(ResponseError):  # the connection has just ended
                self.client.client_kill(address)

    def cut_all(self) -> None:
        """Close all connections except the one of this command."""
        self.client.client_kill_filter(_type="normal", skipme=True)

    # -- end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        for pod in self.pods.values():
            pod.remove()
        self.client.close()
        self.server.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _local_ports(pid: int) -> set[int]:
    """Return the local ports of a process's TCP connections."""
    descriptors = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            descriptors.add(str(descriptor.readlink()))
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(line[1].rpartition(":")[2], 16) for line in lines if f"socket:[{line[9]}]" in descriptors}
