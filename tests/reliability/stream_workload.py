"""Stream with a continuous producer, and pods that the chaos test disturbs."""

import random
import resource
import signal
import threading
from contextlib import suppress
from pathlib import Path

from redis.exceptions import RedisError

from tests.reliability.faults import ServerPair
from tests.reliability.fork_server import ForkServer, Pod
from tests.reliability.ledger import Account, Ledger
from tests.reliability.scenario import pod_environment
from tests.reliability.scripted_handler import outage_file, trigger_file
from tests.reliability.traffic import Producer

PODS = 3
SETTLE_TIMEOUT_SECONDS = 90.0
DRAIN_SECONDS = 8.0
"""Time after SIGTERM until a pod is killed."""

SETTINGS = {
    "DELIVERY_MAX_DELIVERIES": "10",
    # The circuit breaker opens at times, and at the end when only poison messages are left (see `fork_server`).
    "DELIVERY_BREAKER_FAILURES": "5",
    "DELIVERY_BREAKER_MAX_PAUSE": "500ms",
    "CONCURRENCY": "4",
    "BATCH_COUNT": "10",
}


class StreamWorkload:
    """Stream with a continuous producer, and pods that are killed, frozen, stopped and replaced."""

    def __init__(
        self, stream: str, server_pair: ServerPair, fork_server: ForkServer, folder: Path, rng: random.Random
    ) -> None:
        self.stream, self._server_pair, self._fork_server, self._rng = stream, server_pair, fork_server, rng
        self.folder = folder / stream
        self.folder.mkdir()
        self.ledger = Ledger(stream, self.folder / "ledger")
        self.pods: list[Pod] = []
        self._pods_started = 0
        self._traffic = Producer(self.ledger, lambda: server_pair.client, random.Random(rng.random()), replicas=1)

    def open(self) -> None:
        trigger_file(self.ledger.handled_file).touch()  # a message with `gil` waits for nothing
        for _ in range(PODS):
            self.start_pod()
        self._traffic.start()

    def start_pod(self, name: str = "") -> None:
        """Start a pod. With the name of a killed pod, it owns the entries that the killed pod did not finish."""
        self._pods_started += 1
        name = name or f"{self.stream}-pod-{self._pods_started}"
        handler = "tests.reliability.scripted_handler:handle" + ("_in_thread" if self._pods_started % 4 == 0 else "")
        environment = pod_environment(
            self.stream, self._server_pair.proxy.url, name, self.ledger, **SETTINGS, HANDLER_PYTHON=handler
        )
        self.pods.append(self._fork_server.start(name, self.folder, environment))

    def replace(self, pod: Pod, number: signal.Signals) -> None:
        """End a pod by a signal and start another one, under the same name or a new one."""
        self.pods.remove(pod)
        pod.signal(number)
        if number == signal.SIGKILL:
            pod.remove()
        else:
            threading.Timer(DRAIN_SECONDS, pod.remove).start()
        self.start_pod(pod.name if number == signal.SIGKILL and self._rng.random() < 0.5 else "")

    def freeze(self, pod: Pod, seconds: float) -> None:
        pod.signal(signal.SIGSTOP)
        threading.Timer(seconds, pod.signal, (signal.SIGCONT,)).start()

    def duplicate(self, pod: Pod, seconds: float) -> None:
        """Start another process under the name of a running pod, and kill the first process after a while."""
        self.pods.remove(pod)
        self.start_pod(pod.name)
        threading.Timer(seconds, pod.remove).start()

    @staticmethod
    def limit_memory(pod: Pod, seconds: float) -> None:
        """Refuse more memory to a pod for a while."""
        with suppress(OSError):  # the pod has ended
            pages = int(Path(f"/proc/{pod.pid}/statm").read_text().split()[0])
            _set_memory_limit(pod, pages * resource.getpagesize())
            end = threading.Timer(seconds, _set_memory_limit, (pod, resource.RLIM_INFINITY))
            end.daemon = True
            end.start()

    def hold_interpreter_lock(self, seconds: float) -> None:
        """Add a message whose handler holds the interpreter lock of its pod."""
        self.ledger.add(self._server_pair.client, {"gil": f"{seconds:.1f}", "ms": "0"}, replicas=1)

    def lose_group_twice(self, seconds: float) -> None:
        """Destroy the group, and destroy it again after a while."""
        self.destroy_group()
        threading.Timer(seconds, self.destroy_group).start()

    def destroy_group(self) -> None:
        with suppress(RedisError, OSError):
            self.ledger.destroy_group(self._server_pair.client)

    def replace_ended_pods(self) -> None:
        """Start a new pod for each pod that has ended by itself, for example without memory."""
        for pod in [pod for pod in self.pods if not pod.is_running]:
            self.pods.remove(pod)
            pod.remove()
            self.start_pod()

    def start_outage(self, seconds: float) -> None:
        """Make a dependency of the handlers unavailable. `seconds` can be long enough that breaker trials count."""
        file = outage_file(self.ledger.handled_file)
        file.touch()
        threading.Timer(seconds, file.unlink, (True,)).start()

    def close(self) -> None:
        """Stop the producer, and make sure that `PODS` healthy pods run."""
        self._traffic.stop()
        for pod in self.pods:
            pod.signal(signal.SIGCONT)
            _set_memory_limit(pod, resource.RLIM_INFINITY)
        self.replace_ended_pods()

    def wait_settled(self) -> Account:
        return self.ledger.wait_settled(self._server_pair.client, SETTLE_TIMEOUT_SECONDS)


def _set_memory_limit(pod: Pod, size: int) -> None:
    with suppress(OSError):
        if pod.is_running:
            resource.prlimit(pod.pid, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
