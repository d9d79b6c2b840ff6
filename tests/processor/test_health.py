"""What a kubelet and a Prometheus are told, over HTTP."""

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


class Pages:
    """The pages of one processor, and the health and metrics behind them."""

    def __init__(self, stuck_after: timedelta) -> None:
        self.health, self.metrics = Health(stuck_after), Metrics()
        self.endpoint = ProbeServer(self.health, build_registry(self.metrics, LABELS), "127.0.0.1", 0)
        self.endpoint.start()

    @property
    def settings(self) -> dict[str, Any]:
        return {"health": self.health, "metrics": self.metrics}

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.endpoint.port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    async def fetch(self, path: str) -> tuple[int, str]:
        return await asyncio.to_thread(self.get, path)

    def samples(self) -> dict[str, float]:
        """Name to value; a bucket is `name{le}`."""
        found = {}
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                labels = dict(sample.labels)
                bound = labels.pop("le", None)
                assert labels == LABELS
                found[sample.name + (f"{{{bound}}}" if bound else "")] = sample.value
        return found


@pytest.fixture
def pages() -> Iterator[Pages]:
    served = Pages(stuck_after=timedelta(seconds=1.6))
    yield served
    served.endpoint.stop()


async def test_a_processor_is_ready_once_it_reads_and_not_while_it_drains(group: Group, pages: Pages) -> None:
    assert pages.get("/readyz") == (503, "starting\n")
    handler = Recorder(gate=False)
    processor = await group.start(handler, settings=pages.settings, poll=0.1)
    await eventually(lambda: pages.get("/readyz") == (200, "ok\n"))
    await group.add()
    await handler.wait_until_received(1)
    stopping = asyncio.create_task(processor.stop_listening())
    await eventually(lambda: pages.get("/readyz") == (503, "draining\n"))
    handler.gate.set()
    await stopping


async def test_a_handler_that_blocks_the_loop_is_noticed_from_outside_of_it(group: Group, pages: Pages) -> None:
    async def handle(data: dict[str, str]) -> None:
        time.sleep(2.5)  # noqa: ASYNC251 - the mistake that this is about

    await group.start(handle, settings=pages.settings, poll=0.1)
    assert pages.get("/livez") == (200, "ok\n")
    asking = asyncio.create_task(asyncio.to_thread(_first_bad_answer, pages))
    await group.add()
    status, text = await asking
    assert status == 503
    assert "the handler probably blocks it" in text
    await group.wait_settled()
    await eventually(lambda: pages.get("/livez") == (200, "ok\n"))


def _first_bad_answer(pages: Pages) -> tuple[int, str]:
    deadline = time.monotonic() + 5
    while (answer := pages.get("/livez"))[0] == 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


@pytest.mark.parametrize("kind", ["long handler", "long poll", "long outage"])
async def test_a_long_wait_is_no_sign_of_death(group: Group, pages: Pages, kind: str) -> None:
    """Restarting the pod would help none of these: a handler takes its time, a stream is empty, Redis is away."""
    handler = Recorder(gate=False)
    if kind == "long outage":
        group.server.kill()
    await group.start(handler, settings=pages.settings, poll=60)
    if kind == "long handler":
        await group.add(2)
        await handler.wait_until_received(1)
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        assert await pages.fetch("/livez") == (200, "ok\n")
        await asyncio.sleep(0.1)
    group.server.start()
    handler.gate.set()


async def test_the_metrics_count_what_happened(group: Group, pages: Pages) -> None:
    handler = Recorder(fail_first_delivery(RuntimeError("once")))
    processor = await group.start(handler, min_idle=1, settings=pages.settings)
    await group.add(5)
    await handler.wait_until_finished(5)
    await group.wait_settled()
    await processor.stop_listening()
    found = pages.samples()
    expected = {
        "delivered": 5,
        "claimed": 0,
        "failed": 5,
        "retried": 5,
        "dead_lettered": 0,
        "acknowledged": 5,
        "redelivered": 0,
        "acknowledgements_lost": 0,
        "faults": 0,
    }
    assert {name: found[f"streamconsumer_{name}_total"] for name in expected} == expected
    assert found["streamconsumer_in_flight"] == 0
    assert found["streamconsumer_process_duration_seconds_count"] == 10
    assert found["streamconsumer_process_duration_seconds_bucket{+Inf}"] == 10
    assert 0 < found["streamconsumer_process_duration_seconds_sum"] < 60


async def test_durations_fall_into_the_buckets_of_the_conventions(pages: Pages) -> None:
    for seconds in (0.001, 0.005, 0.006, 0.3, 60):
        pages.metrics.record_duration(seconds)
    found = pages.samples()
    name = "streamconsumer_process_duration_seconds_bucket"
    assert [found[f"{name}{{{bound}}}"] for bound in ("0.005", "0.01", "0.25", "0.5", "10.0", "+Inf")] == [
        2, 3, 3, 4, 4, 5
    ]  # fmt: skip
    assert found["streamconsumer_process_duration_seconds_sum"] == pytest.approx(60.312)


async def test_other_pages_and_methods_are_refused(pages: Pages) -> None:
    assert pages.get("/")[0] == 404
    assert pages.get("/livez?verbose")[0] == 200
    connection = http.client.HTTPConnection("127.0.0.1", pages.endpoint.port, timeout=5)
    connection.request("POST", "/livez")
    assert connection.getresponse().status == 501
    connection.close()
