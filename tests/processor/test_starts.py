"""The span of a pod's start and the link from the first message to it, in a real collector."""

import asyncio
import signal
import time
from statistics import median
from typing import Any

import pytest

from streamconsumer.processor.telemetry import starting
from streamconsumer.processor.telemetry.sampling import Sampling
from tests.cluster.collector import Collector
from tests.cluster.spans import Span
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.pod import NewPod, Pod
from tests.processor.tracing import NewKit, arrived, linked, only_link

PROCESS = f"process {STREAM}"
NONE = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}


async def ended(pod: Pod) -> None:
    pod.signal(signal.SIGTERM)
    assert await pod.ended() == 0


async def spans_of(group: Group, collector: Collector, pod: Pod, messages: int = 2, **environment: str) -> list[Span]:
    """All that a pod tells of its life, with some messages in it."""
    before = time.time_ns()
    pod.start(environment={**collector.environment, "OTEL_SERVICE_NAME": "shop", **environment})
    await pod.says("processor started")
    for _ in range(messages):
        await group.add(1)
        await group.settled()
    await ended(pod)
    spans = await asyncio.to_thread(collector.wait_for_spans)
    assert all(span.start_ns >= before - 20_000_000 for span in spans)  # a clock of ticks
    return spans


async def test_the_first_message_is_linked_to_the_start(group: Group, collector: Collector, new_pod: NewPod) -> None:
    pod = new_pod("pod_handlers:silent")
    await spans_of(group, collector, pod)
    [start] = await arrived(collector, "start shop")
    assert (start.kind, start.parent_span_id, start.status_code) == ("INTERNAL", "", "UNSET")
    assert start.links == ()
    assert start.attributes["messaging.destination.name"] == STREAM
    assert start.attributes["messaging.consumer.group.name"] == GROUP
    assert start.attributes["messaging.client.id"] == "pod-a"
    assert "server.address" in start.attributes
    first, second = await arrived(collector, PROCESS, 2)
    link = only_link(first, "pod_start")
    assert (link.trace_id, link.span_id) == (start.trace_id, start.span_id)
    assert linked(second, "pod_start") == []
    assert 0.1 < start.seconds < 20  # Python itself takes longer
    assert start.end_ns <= first.start_ns


async def test_the_first_batch_is_linked_to_the_start(group: Group, collector: Collector, new_pod: NewPod) -> None:
    await spans_of(group, collector, new_pod("pod_handlers:note_batch", handler_batch="true"))
    [start] = await arrived(collector, "start shop")
    first, second = await arrived(collector, PROCESS, 2)
    assert (linked(first, "pod_start"), linked(second, "pod_start")) == ([start.span_id], [])


async def test_a_start_is_sampled_as_what_begins_here(group: Group, collector: Collector, new_pod: NewPod) -> None:
    pod = new_pod("pod_handlers:silent")
    pod.start(environment={**collector.environment, **NONE})
    await pod.says("processor started")
    await group.add(1, {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"})
    await group.settled()
    await ended(pod)
    [span] = await arrived(collector, PROCESS)
    assert linked(span, "pod_start") == []
    assert not [each for each in collector.spans() if each.name.startswith("start ")]


async def test_a_pod_that_listens_tells_nothing_more(group: Group, collector: Collector, new_pod: NewPod) -> None:
    every = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
    pod = new_pod("pod_handlers:silent", poll_interval="100ms")
    pod.start(environment={**collector.environment, **every})
    await arrived(collector, f"start {GROUP}")
    collector.forget()
    await group.forget_commands()

    async def has_read_often() -> bool:
        return (await group.commands()).get("xreadgroup", 0) >= 10

    await eventually(has_read_often, 15)
    await ended(pod)  # everything is sent by then
    assert collector.spans() == []


async def test_listening_again_is_no_start(group: Group, new_kit: NewKit, collector: Collector) -> None:
    kit = new_kit(starts="shop")
    for _ in range(2):
        kit.telemetry.listening(0)
    kit.flush()
    [start] = await arrived(collector, "start shop")
    assert start.seconds < 600


def test_a_process_knows_when_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two clocks are read one after the other, and a busy machine may interrupt the process in between.
    first, second = (median(starting.process_began_ns() for _ in range(9)) for _ in range(2))
    assert time.time_ns() - first > 0
    assert abs(second - first) < 20_000_000

    def unknown(*_: Any) -> int:
        raise OSError

    monkeypatch.setattr(time, "clock_gettime_ns", unknown)
    assert time.time_ns() - starting.process_began_ns() < 1_000_000_000


def test_a_start_that_is_not_sampled_has_no_span() -> None:
    assert starting.begun("shop", Sampling(bound=0)) is None
