"""Span of a pod's start, and the link to it from the first message, in a real collector."""

import asyncio
import signal
import time
from statistics import median
from typing import Any

import pytest

from streamconsumer.processor.telemetry import startup_span
from streamconsumer.processor.telemetry.sampling import Sampler
from tests.cluster.collector import Collector
from tests.cluster.spans import Span
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.pod import NewPod, Pod
from tests.processor.telemetry.telemetry_kit import NewTelemetryKit, linked_span_ids, only_link, wait_for_named_spans

PROCESS = f"process {STREAM}"
NONE = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}


async def stop(pod: Pod) -> None:
    pod.signal(signal.SIGTERM)
    assert await pod.wait_for_exit() == 0


async def spans_of(group: Group, collector: Collector, pod: Pod, messages: int = 2, **environment: str) -> list[Span]:
    """Run a pod that handles some messages. Returns all its spans."""
    before = time.time_ns()
    pod.start(environment={**collector.environment, "OTEL_SERVICE_NAME": "shop", **environment}, new_interpreter=True)
    await pod.wait_for_log("processor started")
    for _ in range(messages):
        await group.add(1)
        await group.wait_settled()
    await stop(pod)
    spans = await asyncio.to_thread(collector.wait_for_spans)
    assert all(span.start_ns >= before - 20_000_000 for span in spans)  # the kernel counts the start in ticks
    return spans


async def test_first_message_links_to_the_pod_start(group: Group, collector: Collector, new_pod: NewPod) -> None:
    pod = new_pod("pod_handlers:noop")
    await spans_of(group, collector, pod)
    [start] = await wait_for_named_spans(collector, "start shop")
    assert (start.kind, start.parent_span_id, start.status_code) == ("INTERNAL", "", "UNSET")
    assert start.links == ()
    assert start.attributes["messaging.destination.name"] == STREAM
    assert start.attributes["messaging.consumer.group.name"] == GROUP
    assert start.attributes["messaging.client.id"] == "pod-a"
    assert "server.address" in start.attributes
    first, second = await wait_for_named_spans(collector, PROCESS, 2)
    link = only_link(first, "pod_start")
    assert (link.trace_id, link.span_id) == (start.trace_id, start.span_id)
    assert linked_span_ids(second, "pod_start") == []
    assert 0.1 < start.seconds < 20  # Python itself takes longer
    assert start.end_ns <= first.start_ns


async def test_first_batch_links_to_the_pod_start(group: Group, collector: Collector, new_pod: NewPod) -> None:
    await spans_of(group, collector, new_pod("pod_handlers:log_batch", handler_batch="true"))
    [start] = await wait_for_named_spans(collector, "start shop")
    first, second = await wait_for_named_spans(collector, PROCESS, 2)
    assert (linked_span_ids(first, "pod_start"), linked_span_ids(second, "pod_start")) == ([start.span_id], [])


async def test_pod_start_is_not_sampled_when_only_producers_sample(
    group: Group, collector: Collector, new_pod: NewPod
) -> None:
    pod = new_pod("pod_handlers:noop")
    pod.start(environment={**collector.environment, **NONE}, new_interpreter=True)
    await pod.wait_for_log("processor started")
    await group.add(1, {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"})
    await group.wait_settled()
    await stop(pod)
    [span] = await wait_for_named_spans(collector, PROCESS)
    assert linked_span_ids(span, "pod_start") == []
    assert not [each for each in collector.spans() if each.name.startswith("start ")]


async def test_idle_pod_sends_no_spans_after_its_start(group: Group, collector: Collector, new_pod: NewPod) -> None:
    fast_export = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
    pod = new_pod("pod_handlers:noop", poll_interval="100ms")
    pod.start(environment={**collector.environment, **fast_export}, new_interpreter=True)
    await wait_for_named_spans(collector, f"start {GROUP}")
    collector.clear()
    await group.reset_command_counts()

    async def has_read_often() -> bool:
        return (await group.command_counts()).get("xreadgroup", 0) >= 5

    await eventually(has_read_often, 15)
    await stop(pod)  # the shutdown sends all spans
    assert collector.spans() == []


async def test_start_is_recorded_once_when_listening_starts_twice(
    group: Group, new_telemetry_kit: NewTelemetryKit, collector: Collector
) -> None:
    telemetry_kit = new_telemetry_kit(startup_name="shop")
    for _ in range(2):
        telemetry_kit.telemetry.on_ready(0)
    telemetry_kit.flush()
    [start] = await wait_for_named_spans(collector, "start shop")
    assert start.seconds < 600


def test_process_start_time_falls_back_to_now_when_the_kernel_does_not_report_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two clocks are read one after the other, and a busy machine may interrupt the process in between.
    first, second = (median(startup_span.process_start_ns() for _ in range(9)) for _ in range(2))
    assert time.time_ns() - first > 0
    assert abs(second - first) < 20_000_000

    def unknown(*_: Any) -> int:
        raise OSError

    monkeypatch.setattr(time, "clock_gettime_ns", unknown)
    assert time.time_ns() - startup_span.process_start_ns() < 1_000_000_000


def test_unsampled_start_has_no_span() -> None:
    assert startup_span.create_startup_span("shop", Sampler(bound=0)) is None
