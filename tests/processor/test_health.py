"""Probes and metrics over HTTP."""

import asyncio
import http.client
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamconsumer.processor.health import Health, ProbeServer
from streamconsumer.processor.metrics import Metrics, build_registry
from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.recorder import Recorder, fail_first_delivery

LABELS = {"stream": "orders", "consumer_group": "billing"}


class Probes:
    """Probe server of one processor, with its health and metrics."""

    def __init__(self, stuck_after: timedelta) -> None:
        self.health, self.metrics = Health(stuck_after), Metrics()
        self.server = ProbeServer(self.health, build_registry(self.metrics, LABELS), "127.0.0.1", 0)
        self.server.start()

    @property
    def settings(self) -> dict[str, Any]:
        return {"health": self.health, "metrics": self.metrics}

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    async def fetch(self, path: str) -> tuple[int, str]:
        return await asyncio.to_thread(self.get, path)

    def samples(self) -> dict[str, float]:
        """Return the values of all samples by name. The name of a bucket is `name{le}`."""
        values = {}
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                labels = dict(sample.labels)
                bound = labels.pop("le", None)
                assert labels == LABELS
                values[sample.name + (f"{{{bound}}}" if bound else "")] = sample.value
        return values


@pytest.fixture
def probes() -> Iterator[Probes]:
    running = Probes(stuck_after=timedelta(seconds=1.6))
    yield running
    running.server.stop()


async def test_processor_is_ready_while_it_reads_and_not_ready_while_it_drains(group: Group, probes: Probes) -> None:
    assert probes.get("/readyz") == (503, "starting\n")
    handler = Recorder(gate=False)
    processor = await group.start(handler, settings=probes.settings, poll=0.1)
    await eventually(lambda: probes.get("/readyz") == (200, "ok\n"))
    await group.add()
    await handler.wait_until_received(1)
    stopping = asyncio.create_task(processor.stop_listening())
    await eventually(lambda: probes.get("/readyz") == (503, "draining\n"))
    handler.gate.set()
    await stopping


async def test_readiness_reports_every_reason(probes: Probes) -> None:
    probes.health.mark_not_ready("the server is a replica")
    probes.health.set_problem("heartbeat", "failed to renew")
    assert probes.get("/readyz") == (503, "the server is a replica; failed to renew\n")
    probes.health.mark_ready()
    assert probes.get("/readyz") == (503, "failed to renew\n")
    probes.health.set_problem("heartbeat", "")
    assert probes.get("/readyz") == (200, "ok\n")


async def test_liveness_fails_while_a_handler_blocks_the_loop(group: Group, probes: Probes) -> None:
    async def handle(data: dict[str, str]) -> None:
        time.sleep(2.5)  # noqa: ASYNC251 - blocks the event loop on purpose

    await group.start(handle, settings=probes.settings, poll=0.1)
    assert probes.get("/livez") == (200, "ok\n")
    failed_probe = asyncio.create_task(asyncio.to_thread(_wait_for_failed_liveness, probes))
    await group.add()
    status, text = await failed_probe
    assert status == 503
    assert "the handler probably blocks it" in text
    await group.wait_settled()
    await eventually(lambda: probes.get("/livez") == (200, "ok\n"))


def _wait_for_failed_liveness(probes: Probes) -> tuple[int, str]:
    deadline = time.monotonic() + 5
    while (response := probes.get("/livez"))[0] == 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    return response


@pytest.mark.parametrize("kind", ["long handler", "long poll", "long outage"])
async def test_liveness_holds_during_a_long_wait(group: Group, probes: Probes, kind: str) -> None:
    """A restart would not help against a slow handler, an empty stream or a Redis outage."""
    handler = Recorder(gate=False)
    if kind == "long outage":
        group.server.kill()
    await group.start(handler, settings=probes.settings, poll=60)
    if kind == "long handler":
        await group.add(2)
        await handler.wait_until_received(1)
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        assert await probes.fetch("/livez") == (200, "ok\n")
        await asyncio.sleep(0.1)
    group.server.start()
    handler.gate.set()


async def test_metrics_count_deliveries_failures_and_acknowledgements(group: Group, probes: Probes) -> None:
    handler = Recorder(fail_first_delivery(RuntimeError("once")))
    processor = await group.start(handler, min_idle=1, settings=probes.settings)
    await group.add(5)
    await handler.wait_until_finished(5)
    await group.wait_settled()
    await processor.stop_listening()
    samples = probes.samples()
    expected = {
        "delivered": 5,
        "claimed": 0,
        "failed": 5,
        "retried": 5,
        "dead_lettered": 0,
        "acknowledged": 5,
        "redelivered": 0,
        "acknowledgements_lost": 0,
        "redis_errors": 0,
    }
    assert {name: samples[f"streamconsumer_{name}_total"] for name in expected} == expected
    assert samples["streamconsumer_in_flight"] == 0
    assert samples["streamconsumer_process_duration_seconds_count"] == 10
    assert samples["streamconsumer_process_duration_seconds_bucket{+Inf}"] == 10
    assert 0 < samples["streamconsumer_process_duration_seconds_sum"] < 60


async def test_durations_are_counted_in_the_conventional_buckets(probes: Probes) -> None:
    for seconds in (0.001, 0.005, 0.006, 0.3, 60):
        probes.metrics.record_duration(seconds)
    samples = probes.samples()
    name = "streamconsumer_process_duration_seconds_bucket"
    assert [samples[f"{name}{{{bound}}}"] for bound in ("0.005", "0.01", "0.25", "0.5", "10.0", "+Inf")] == [
        2, 3, 3, 4, 4, 5
    ]  # fmt: skip
    assert samples["streamconsumer_process_duration_seconds_sum"] == pytest.approx(60.312)


async def test_unknown_paths_and_methods_are_rejected(probes: Probes) -> None:
    assert probes.get("/")[0] == 404
    assert probes.get("/livez?verbose")[0] == 200
    connection = http.client.HTTPConnection("127.0.0.1", probes.server.port, timeout=5)
    connection.request("POST", "/livez")
    assert connection.getresponse().status == 405
    connection.close()
