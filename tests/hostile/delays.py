"""Delays that a healthy tenant notices: until an entry is observed, and until an edit is applied."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.redis_servers import RedisServer
from tests.model.examples import manifest
from tests.operator.namespace import Namespace, eventually
from tests.operator.redis_operator import redis_client

ROUNDS = 6
MAX_FACTOR = 2
MIN_SECONDS = 0.25
"""Shorter delays count as this delay. The hostile servers run on the same two cores, and take some milliseconds."""

TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Delays:
    """Seconds of each trial in one phase."""

    observed: Sequence[float]
    reconciled: Sequence[float]

    def problems(self, fault_free: "Delays") -> list[str]:
        """Return the delays that are more than MAX_FACTOR times as long as without faults."""
        pairs = {
            "observed": (self.observed, fault_free.observed),
            "reconciled": (self.reconciled, fault_free.reconciled),
        }
        return [
            f"{name}: mean {statistics.mean(now):.2f} s, without faults {statistics.mean(before):.2f} s"
            for name, (now, before) in pairs.items()
            if statistics.mean(now) > MAX_FACTOR * max(statistics.mean(before), MIN_SECONDS)
        ]


class HealthyTenant:
    """StreamConsumers on a Redis server without faults."""

    def __init__(
        self, namespace: Namespace, redis: RedisServer, metrics: Callable[[], str], *, host: str = "", count: int = 4
    ) -> None:
        """`metrics` returns the metrics of the operator. `host` is the name of the Redis server for the operator."""
        self.namespace, self._metrics = namespace, metrics
        self._names = [f"healthy-{number}" for number in range(count)]
        # The operator polls each database on its own, so the delays of the streams are independent samples.
        self._urls = {name: f"redis://{host or redis.host}:{redis.port}/{db}" for db, name in enumerate(self._names)}
        self._redis = {name: redis_client(redis, db=db) for db, name in enumerate(self._names)}
        self._lengths = dict.fromkeys(self._names, 0)
        self._replicas = dict.fromkeys(self._names, 1)

    def create(self) -> None:
        """Create the StreamConsumers and their groups, and wait until each is observed. No pods create the groups."""
        for name in self._names:
            self._redis[name].xgroup_create(name, "billing", "0", mkstream=True)
            self.namespace.create(manifest(name, redis={"url": self._urls[name]}, stream=name))
        eventually(self._check_observed, TIMEOUT_SECONDS)

    def measure(self) -> Delays:
        observed, reconciled = [], []
        for _ in range(ROUNDS):
            observed += self._observation_delays()
            reconciled += self._reconcile_delays()
        return Delays(observed, reconciled)

    def close(self) -> None:
        for client in self._redis.values():
            client.close()

    def _check_observed(self) -> None:
        for name in self._names:
            assert self.namespace.conditions(name)["RedisReachable"]["status"] == "True"

    def _observation_delays(self) -> list[float]:
        for name in self._names:
            self._redis[name].xadd(name, {"n": 1})
            self._lengths[name] += 1
        return self._wait_for_all(self._observed_names)

    def _reconcile_delays(self) -> list[float]:
        for name in self._names:
            self._replicas[name] = 3 - self._replicas[name]
            self.namespace.edit(name, replicas=self._replicas[name])
        return self._wait_for_all(self._reconciled_names)

    def _observed_names(self) -> set[str]:
        """Return the streams whose lag in the metrics is current. The status follows more slowly, on purpose."""
        lags = {
            (sample.labels["resource_namespace"], sample.labels["resource_name"]): sample.value
            for family in text_string_to_metric_families(self._metrics())
            if family.name == "streamconsumer_group_lag"
            for sample in family.samples
        }
        return {name for name in self._names if lags.get((self.namespace.name, name)) == self._lengths[name]}

    def _reconciled_names(self) -> set[str]:
        deployments = self.namespace.list_all("Deployment")
        replicas = {each["metadata"]["name"]: each["spec"]["replicas"] for each in deployments}
        return {name for name in self._names if replicas.get(f"{name}-consumer") == self._replicas[name]}

    def _wait_for_all(self, done: Callable[[], set[str]]) -> list[float]:
        """Return the seconds until each name is done."""
        began, delays = time.monotonic(), dict[str, float]()
        while len(delays) < len(self._names):
            elapsed = time.monotonic() - began
            assert elapsed < TIMEOUT_SECONDS, f"not done after {elapsed:.0f} s: {set(self._names) - delays.keys()}"
            for name in done() - delays.keys():
                delays[name] = time.monotonic() - began
            time.sleep(0.05)
        return list(delays.values())
