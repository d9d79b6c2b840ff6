"""Spans through the tracer provider of the program that runs the processor."""

from typing import Any

import pytest

from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor.telemetry import TracerProviderTracing
from tests.cluster.collector import Collector
from tests.cluster.spans import Span
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.recorder import Recorder
from tests.processor.telemetry.telemetry_kit import TelemetryKit, linked_span_ids, wait_for_named_spans

PROCESS = f"process {STREAM}"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
WELL_FORMED = f"00-{TRACE}-{PARENT}-"


async def test_given_provider_receives_the_spans_of_attempts(
    group: Group, telemetry_kit: TelemetryKit, collector: Collector
) -> None:
    consumer_id = {"stream": STREAM, "consumer_group": GROUP, "consumer": "pod-a"}
    telemetry = TracerProviderTracing(telemetry_kit.provider, server=lambda: ("localhost", 1), **consumer_id)
    group.delivery = Delivery(terminal_errors=["ValueError"])
    for fields in ({"traceparent": f"{WELL_FORMED}01"}, {"traceparent": f"{WELL_FORMED}00"}, {"n": "bad"}):
        await group.add(fields=fields)
    handler = Recorder(lambda message: ValueError("no") if message.data.get("n") else None)
    await group.start(handler, settings={"telemetry": telemetry})
    await eventually(lambda: len(handler.received) == 3)
    await group.wait_settled()
    telemetry_kit.provider.force_flush()
    first, last = await wait_for_named_spans(collector, PROCESS, 2)
    assert (first.trace_id, first.parent_span_id, linked_span_ids(first, "")) == (TRACE, PARENT, [PARENT])
    assert (last.status_code, last.attributes["error.type"], last.parent_span_id) == ("ERROR", "ValueError", "")


@pytest.mark.parametrize("batch", [False, True])
async def test_given_provider_receives_the_same_attributes_and_links_as_the_collector(
    group: Group, telemetry_kit: TelemetryKit, collector: Collector, batch: bool
) -> None:
    """Only the span ids differ, because the provider's SDK chooses them."""
    consumer_id = {"stream": STREAM, "consumer_group": GROUP, "consumer": "pod-a"}
    provided = TracerProviderTracing(telemetry_kit.provider, server=lambda: group.manager().address, **consumer_id)

    async def fail(_: Any) -> None:
        raise ValueError("no")

    async def handle_with(telemetry: Any, count: int) -> Span:
        await group.add(fields={"traceparent": f"{WELL_FORMED}01"})
        processor = await group.start(fail, settings={"telemetry": telemetry, "batch": batch})
        await eventually(lambda: processor.metrics.dead_lettered == 1)
        await processor.stop_listening()
        telemetry_kit.flush()
        return (await wait_for_named_spans(collector, PROCESS, count))[-1]

    group.delivery = Delivery(max_deliveries=1)
    recorded, provided_span = await handle_with(telemetry_kit.telemetry, 1), await handle_with(provided, 2)
    assert recorded.attributes.keys() == provided_span.attributes.keys()
    different = {name for name, value in recorded.attributes.items() if value != provided_span.attributes[name]}
    assert different <= {"messaging.message.id", "streamconsumer.queue.stream_time", "streamconsumer.queue.buffer_time"}
    for span in (recorded, provided_span):
        assert (span.name, span.kind, span.status_code, span.status_message) == (
            *(PROCESS, "CONSUMER", "ERROR"),
            "ValueError: no",
        )
        assert [(link.trace_id, link.span_id, [*link.attributes]) for link in span.links] == [
            (TRACE, PARENT, ["messaging.message.id"] if batch else [])
        ]
