"""Cost of telemetry on the message path: no spans for reads, the fast path, no calls without an endpoint, no labels."""

import asyncio
import sys
from collections import Counter
from types import FrameType
from typing import Any

from prometheus_client import generate_latest

from streamconsumer.processor.metrics import Metrics, build_registry
from streamconsumer.processor.telemetry import current_traceparent
from tests.cluster.collector import Collector
from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.recorder import Recorder
from tests.processor.telemetry.telemetry_kit import NewTelemetryKit, TelemetryKit, handle_messages, wait_for_named_spans

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


async def test_read_has_no_span(group: Group, telemetry_kit: TelemetryKit, collector: Collector) -> None:
    await handle_messages(group, telemetry_kit, Recorder(), {"traceparent": SAMPLED})
    await wait_for_named_spans(collector, "ack orders")
    assert {span.name for span in collector.spans()} == {"process orders", "ack orders"}


async def test_unsampled_messages_take_the_fast_path_when_only_producers_sample(
    group: Group, new_telemetry_kit: NewTelemetryKit, collector: Collector
) -> None:
    """A message that its producer sampled still has a span, and every producer's context is propagated."""
    telemetry_kit = new_telemetry_kit(
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
    )
    traceparents: list[str] = []

    async def note(_: dict[str, str]) -> None:
        traceparents.append(current_traceparent())
        await asyncio.sleep(0)

    processor = await group.start(note, settings={"telemetry": telemetry_kit.telemetry})
    assert processor._pipeline.fast_path is not None
    for fields in ({"n": "1"}, {"traceparent": NOT_SAMPLED}, {"traceparent": SAMPLED}, {"n": "2"}):
        await group.add(fields=fields)
    await group.wait_settled()
    await processor.stop_listening()
    telemetry_kit.flush()
    [span] = await wait_for_named_spans(collector, "process orders")
    assert traceparents[0] == traceparents[3] == ""
    assert traceparents[1:3] == [NOT_SAMPLED, f"00-{TRACE}-{span.span_id}-01"]
    assert span.parent_span_id == PARENT


async def test_message_calls_no_telemetry_function_without_an_endpoint(
    group: Group, telemetry_kit: TelemetryKit
) -> None:
    """With a collector the same profile finds calls, so the check works."""
    assert await count_telemetry_calls(group, {}) == Counter()
    assert sum((await count_telemetry_calls(group, {"telemetry": telemetry_kit.telemetry})).values()) >= 100


async def count_telemetry_calls(group: Group, settings: dict[str, Any]) -> Counter[str]:
    """Count calls of functions in `processor/telemetry/` and OpenTelemetry while 100 messages are handled."""
    handler, calls = Recorder(), Counter[str]()

    def count_call(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (
            "streamconsumer/processor/telemetry/" in (file := frame.f_code.co_filename) or "opentelemetry" in file
        ):
            calls[f"{file}:{frame.f_code.co_name}"] += 1

    processor = await group.start(handler, settings=settings)
    await group.add(1)
    await group.wait_settled()
    sys.setprofile(count_call)
    try:
        await group.add(100)
        await group.wait_settled()
    finally:
        sys.setprofile(None)
    await processor.stop_listening()
    return calls


async def test_number_of_metric_series_does_not_grow_with_messages(group: Group, telemetry_kit: TelemetryKit) -> None:
    """No metric has a message id as a label, so only values change in /metrics."""

    def series(metrics: Metrics) -> set[str]:
        lines = generate_latest(build_registry(metrics, {"stream": "orders"})).decode().splitlines()
        return {line.rpartition(" ")[0] for line in lines if line and not line.startswith("#")}

    processor = await group.start(Recorder(), batch=500, settings={"telemetry": telemetry_kit.telemetry})
    await group.add(1)
    await group.wait_settled()
    series_before = series(processor.metrics)
    await group.add(10_000)
    await eventually(lambda: processor.metrics.handler_calls == 10_001, 30)
    assert series(processor.metrics) == series_before
    await processor.stop_listening()
