"""A pod's telemetry in the process of a test, exported to a real collector, and helpers that read its spans."""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.telemetry import SpanRecorder
from tests.cluster.collector import Collector
from tests.cluster.spans import Link, Span
from tests.processor.eventually import eventually
from tests.processor.group import Group


@dataclasses.dataclass
class TelemetryKit:
    """Telemetry of a pod whose OTEL_ variables name the collector."""

    telemetry: SpanRecorder
    provider: TracerProvider
    """Tracer provider for the handler's own spans."""

    def flush(self) -> None:
        assert self.telemetry.flush()
        self.provider.force_flush()


NewTelemetryKit = Callable[..., TelemetryKit]


def handler_spans(spans: list[Span]) -> list[Span]:
    """Return the spans of attempts and handlers: no acknowledgements, claims, dead letters or pod starts."""
    return [span for span in spans if span.kind in {"CONSUMER", "INTERNAL"} and not span.name.startswith("start ")]


async def consumer_spans(collector: Collector, count: int) -> list[Span]:
    return handler_spans(
        await asyncio.to_thread(collector.wait_for_spans, lambda spans: len(handler_spans(spans)) >= count)
    )


async def wait_for_named_spans(collector: Collector, name: str, count: int = 1) -> list[Span]:
    """Wait for `count` spans with a name. Returns all of them in the order in which they started."""

    def matching(spans: list[Span]) -> list[Span]:
        return sorted((span for span in spans if span.name == name), key=lambda span: span.start_ns)

    return matching(await asyncio.to_thread(collector.wait_for_spans, lambda spans: len(matching(spans)) >= count))


def linked_span_ids(span: Span, kind: str) -> list[str]:
    """Return the span ids of the links of a kind."""
    return [link.span_id for link in span.links if link.attributes.get("streamconsumer.link", "") == kind]


def only_link(span: Span, kind: str) -> Link:
    [link] = [link for link in span.links if link.attributes.get("streamconsumer.link", "") == kind]
    return link


async def handle_messages(
    group: Group, telemetry_kit: TelemetryKit, handler: Any, *messages: dict[str, Any], **settings: Any
) -> Metrics:
    """Make one attempt at each message and export what was recorded. Returns the processor's metrics."""
    group.delivery = Delivery(max_deliveries=1)
    for fields in messages:
        await group.add(fields=fields)
    processor = await group.start(handler, settings={"telemetry": telemetry_kit.telemetry, **settings})
    calls = 1 if settings.get("batch") else len(messages)
    await eventually(lambda: processor.metrics.handler_calls >= calls)
    await processor.stop_listening()
    telemetry_kit.flush()
    return processor.metrics
