"""Large Secrets of one namespace take one thread at a time, and no memory between two polls."""

import asyncio
import threading
import time
from datetime import timedelta

import pytest

from streamconsumer.model.status import StreamReason
from streamconsumer.operator.redis_monitor.monitored_stream import (
    EndpointId,
    MonitoredStream,
    Observation,
    ObservationEffect,
    PollTarget,
)
from streamconsumer.operator.redis_monitor.namespace_network import (
    MAX_KEPT_SECRET_BYTES,
    ConnectionLimits,
    NamespaceNetwork,
)
from streamconsumer.operator.redis_monitor.poller import EndpointPoller
from streamconsumer.redis_client.credentials import no_host_lookup
from streamconsumer.redis_client.tls import MAX_CA_BYTES, TlsMaterial
from tests.cluster.certificates import Authority
from tests.model.examples import consumer

ENDPOINTS = 8


class Secrets:
    """Secrets of a namespace in which every Secret has the same value."""

    def __init__(self, value: bytes) -> None:
        self.value = value

    async def check(self, namespace: str) -> None:
        """Allow every read."""

    async def get_secret(self, namespace: str, name: str) -> dict[str, bytes]:
        return {"ca.crt": self.value}


class Pollers:
    """Pollers of several endpoints that refuse every connection."""

    def __init__(self, value: bytes, count: int = ENDPOINTS) -> None:
        self.network = NamespaceNetwork(no_host_lookup, ConnectionLimits(100))
        self.observations: asyncio.Queue[Observation] = asyncio.Queue()
        self.pollers = [self._poller(Secrets(value), number) for number in range(count)]

    def _poller(self, secrets: Secrets, number: int) -> EndpointPoller:
        tls = {"caSecretRef": {"name": "ca", "key": "ca.crt"}}
        item = consumer(f"orders-{number}", redis={"url": f"rediss://127.0.0.{number + 1}:1/0", "tls": tls})
        poller = EndpointPoller(secrets, self.network, item, timedelta(minutes=10), self._on_observation)  # type: ignore[arg-type]
        target = PollTarget.from_consumer(item, frozenset(), None)
        endpoint_id = EndpointId("shop", str(number), 0)
        key = (item.namespace, item.name)
        poller.watch(MonitoredStream(key, endpoint_id, lambda _: ObservationEffect(), target), target)
        return poller

    def _on_observation(self, _: MonitoredStream, observation: Observation) -> bool:
        self.observations.put_nowait(observation)
        return False

    async def poll(self) -> list[Observation]:
        """Poll each endpoint once."""
        tasks = [asyncio.create_task(poller.run()) for poller in self.pollers]
        try:
            async with asyncio.timeout(60):
                observations = [await self.observations.get() for _ in tasks]
                while self.network._polls._value != 16:  # noqa: ASYNC110 - the end of a poll sets no event
                    await asyncio.sleep(0.01)
            return observations
        finally:
            self.kept = [poller._checked or poller._client for poller in self.pollers]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Authority(tmp_path_factory.mktemp("authority")).file.read_bytes()


class SlowSetup:
    """A TLS set-up that takes 20 ms longer, and counts its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._load, self._lock, self._running = TlsMaterial.context, threading.Lock(), 0
        self.most = self.calls = 0
        monkeypatch.setattr(TlsMaterial, "context", lambda material: self._slow(material))  # noqa: PLW0108 - a method

    def _slow(self, material: TlsMaterial) -> object:
        with self._lock:
            self._running += 1
            self.calls += 1
            self.most = max(self.most, self._running)
        time.sleep(0.02)
        with self._lock:
            self._running -= 1
        return self._load(material)


async def test_one_large_certificate_is_loaded_at_a_time_and_none_is_kept(
    certificate: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = SlowSetup(monkeypatch)
    large = Pollers(certificate * (MAX_KEPT_SECRET_BYTES // len(certificate) + 1))
    assert {each.conditions[0].reason for each in await large.poll()} == {StreamReason.UNREACHABLE}
    assert (setup.most, set(large.kept)) == (1, {None})


async def test_small_certificates_of_a_namespace_take_one_thread_at_a_time_and_are_kept(
    certificate: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All namespaces share the two threads. Each certificate is loaded once for all connections of its endpoint."""
    setup = SlowSetup(monkeypatch)
    small = Pollers(certificate)
    await small.poll()
    assert (setup.most, setup.calls) == (1, ENDPOINTS)
    assert None not in small.kept


async def test_value_above_the_limit_is_not_used() -> None:
    too_large = Pollers(b"#" * (MAX_CA_BYTES + 1), count=1)
    (observation,) = await too_large.poll()
    assert observation.conditions[0].reason is StreamReason.INVALID_SETTINGS
    assert f"found {MAX_CA_BYTES + 1} bytes, expected at most {MAX_CA_BYTES}" in observation.conditions[0].message
