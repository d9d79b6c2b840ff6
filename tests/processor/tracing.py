"""A pod's telemetry in the process of a test, on its way to a real collector."""

import asyncio
import dataclasses
from collections.abc import Callable

from opentelemetry.sdk.trace import TracerProvider

from streamconsumer.processor.telemetry import SpanRecorder
from tests.cluster.collector import Collector
from tests.cluster.spans import Link, Span


@dataclasses.dataclass
class TelemetryKit:
    """What a pod's telemetry is when the OTEL_ variables name the collector."""

    telemetry: SpanRecorder
    provider: TracerProvider
    """The handler's."""

    def flush(self) -> None:
        assert self.telemetry.flush()
        self.provider.force_flush()


NewTelemetryKit = Callable[..., TelemetryKit]


def handler_spans(spans: list[Span]) -> list[Span]:
    """Without what was acknowledged, taken over and buried, and without pods' starts."""
    return [span for span in spans if span.kind in {"CONSUMER", "INTERNAL"} and not span.name.startswith("start ")]


async def consumer_spans(collector: Collector, count: int) -> list[Span]:
    return handler_spans(
        await asyncio.to_thread(collector.wait_for_spans, lambda spans: len(handler_spans(spans)) >= count)
    )


async def wait_for_named_spans(collector: Collector, name: str, count: int = 1) -> list[Span]:
    """So many spans of a name, in the order in which they began."""

    def found(spans: list[Span]) -> list[Span]:
        return sorted((span for span in spans if span.name == name), key=lambda span: span.start_ns)

    return found(await asyncio.to_thread(collector.wait_for_spans, lambda spans: len(found(spans)) >= count))


def linked_span_ids(span: Span, kind: str) -> list[str]:
    """The span ids of its links of a kind."""
    return [link.span_id for link in span.links if link.attributes.get("streamconsumer.link", "") == kind]


def only_link(span: Span, kind: str) -> Link:
    [link] = [link for link in span.links if link.attributes.get("streamconsumer.link", "") == kind]
    return link
