"""Spans of attempts and batches in a real collector, and in the logs of a pod."""

import asyncio
import dataclasses
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace

from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor import BatchFailed, current_message, current_messages
from streamconsumer.processor.message import Entry
from streamconsumer.processor.telemetry import SpanRecorder
from tests.cluster.collector import Collector
from tests.cluster.spans import Span
from tests.processor.eventually import TIMEOUT_SECONDS, eventually
from tests.processor.group import Group
from tests.processor.pod import NewPod
from tests.processor.recorder import Recorder, fail_first_delivery
from tests.processor.telemetry.telemetry_kit import TelemetryKit, consumer_spans

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


async def spans_of(
    group: Group, telemetry: SpanRecorder, collector: Collector, handler: Any, *messages: dict[str, Any], **options: Any
) -> list[Span]:
    """Handle the messages. Returns their spans."""
    for fields in messages:
        await group.add(fields=fields)
    handler = handler or Recorder()
    processor = await group.start(handler, settings={"telemetry": telemetry}, **options)
    await eventually(
        lambda: processor.metrics.duration_counts and sum(processor.metrics.duration_counts) >= len(messages)
    )
    await processor.stop_listening()
    assert telemetry.flush()
    return await consumer_spans(collector, len(messages))


async def test_message_span_is_a_child_of_its_producer_and_links_to_it(
    group: Group, telemetry: SpanRecorder, collector: Collector
) -> None:
    handler = Recorder()
    fields = {"id": "7", "traceparent": SAMPLED, "tracestate": "shop=eu"}
    [span] = await spans_of(group, telemetry, collector, handler, fields)
    assert (span.name, span.kind) == ("process orders", "CONSUMER")
    assert (span.trace_id, span.parent_span_id) == (TRACE, PARENT)
    assert [(link.trace_id, link.span_id) for link in span.links] == [(TRACE, PARENT)]
    assert span.attributes == {
        "messaging.system": "redis",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders",
        "messaging.consumer.group.name": "billing",
        "messaging.message.id": handler.ids[0],
        "messaging.client.id": "pod-a",
        "server.address": "127.0.0.1",
        "server.port": group.server.port,
        "streamconsumer.outcome": "ack",
        "streamconsumer.queue.stream_time": pytest.approx(0.5, abs=0.5),
        "streamconsumer.queue.buffer_time": pytest.approx(0.5, abs=0.5),
    }
    assert (span.status_code, span.events) == ("UNSET", ())
    assert span.scope_name == "streamconsumer"
    assert span.schema_url == "https://opentelemetry.io/schemas/1.44.0"


async def test_message_without_a_producers_context_starts_a_trace(
    group: Group, telemetry: SpanRecorder, collector: Collector
) -> None:
    first, second = await spans_of(group, telemetry, collector, None, {"n": "1"}, {"traceparent": "garbage"})
    for span in (first, second):
        assert (span.parent_span_id, span.links) == ("", ())
    assert first.trace_id != second.trace_id


async def test_traces_of_concurrent_messages_do_not_mix(
    group: Group, telemetry_kit: TelemetryKit, telemetry: SpanRecorder, collector: Collector
) -> None:
    tracer = trace.get_tracer("shop", tracer_provider=telemetry_kit.provider)

    async def handle(data: dict[str, Any]) -> None:
        await asyncio.sleep(0.01)
        with tracer.start_as_current_span(current_message().message_id):
            await asyncio.sleep(0.01)

    messages = [{"traceparent": f"00-{number:032x}-{number:016x}-01"} for number in range(1, 21)]
    await spans_of(group, telemetry, collector, handle, *messages, concurrency=10)
    spans = await consumer_spans(collector, 40)
    outer = {span.attributes["messaging.message.id"]: span for span in spans if span.kind == "CONSUMER"}
    inner = [span for span in spans if span.kind == "INTERNAL"]
    assert sorted(int(span.trace_id, 16) for span in outer.values()) == list(range(1, 21))
    assert len(inner) == 20
    for span in inner:
        assert (span.trace_id, span.parent_span_id) == (outer[span.name].trace_id, outer[span.name].span_id)


async def test_spans_of_a_plain_function_are_in_its_messages_trace(
    group: Group, telemetry_kit: TelemetryKit, telemetry: SpanRecorder, collector: Collector
) -> None:
    def handle(data: dict[str, Any]) -> None:
        trace.get_tracer("shop", tracer_provider=telemetry_kit.provider).start_span("charge").end()

    await spans_of(group, telemetry, collector, handle, {"traceparent": SAMPLED})
    inner, outer = sorted(await consumer_spans(collector, 2), key=lambda span: span.name)
    assert (inner.name, inner.parent_span_id) == ("charge", outer.span_id)


async def test_message_is_not_exported_when_its_producer_did_not_sample_it(
    group: Group, telemetry: SpanRecorder, collector: Collector
) -> None:
    messages = [{"traceparent": NOT_SAMPLED}, {"traceparent": SAMPLED}]
    for fields in messages:
        await group.add(fields=fields)
    handler = Recorder()
    await group.start(handler, settings={"telemetry": telemetry})
    await handler.wait_until_finished(2)
    assert telemetry.flush()
    [span] = await consumer_spans(collector, 1)
    assert span.attributes["messaging.message.id"] == handler.ids[1]


class CardDeclined(Exception):
    pass


async def test_failed_attempt_has_an_error_type_and_no_events(
    group: Group, telemetry: SpanRecorder, collector: Collector
) -> None:
    handler = Recorder(lambda message: CardDeclined("no funds") if message.data["n"] == "1" else ValueError("x"))
    group.delivery = Delivery(terminal_errors=["Exception"])
    own, builtin = await spans_of(group, telemetry, collector, handler, {"n": "1"}, {"n": "2"})
    assert (own.status_code, own.status_message) == ("ERROR", "CardDeclined: no funds")
    assert own.attributes["error.type"] == f"{__name__}.CardDeclined"
    assert builtin.attributes["error.type"] == "ValueError"
    assert own.events == builtin.events == ()


async def test_error_text_that_is_not_utf_8_is_escaped(telemetry: SpanRecorder, collector: Collector) -> None:
    entry = Entry("1-0", ())
    attempt = telemetry.start_attempt(entry, {})
    assert attempt
    telemetry.end_attempt(attempt, entry, "retry", CardDeclined("no funds \udcff"))
    assert telemetry.flush()
    [span] = await consumer_spans(collector, 1)
    assert span.status_message == "CardDeclined: no funds \\udcff"


async def test_retry_has_its_own_span_with_the_delivery_count(
    group: Group, telemetry: SpanRecorder, collector: Collector
) -> None:
    handler = Recorder(fail_first_delivery(RuntimeError("once")))
    await group.add(fields={"traceparent": SAMPLED})
    processor = await group.start(handler, min_idle=1, settings={"telemetry": telemetry})
    await handler.wait_until_finished(1)
    await processor.stop_listening()
    first, second = sorted(await consumer_spans(collector, 2), key=lambda span: span.start_ns)
    assert first.trace_id == second.trace_id == TRACE
    assert (first.status_code, second.status_code) == ("ERROR", "UNSET")
    assert "streamconsumer.delivery.count" not in first.attributes
    assert second.attributes["streamconsumer.delivery.count"] == 2


async def spans_of_batches(
    group: Group, telemetry: SpanRecorder, collector: Collector, handler: Any, messages: list[dict[str, str]]
) -> list[Span]:
    for fields in messages:
        await group.add(fields=fields)
    settings = {"telemetry": telemetry, "batch": True}
    processor = await group.start(handler, batch=1000, settings=settings)
    await eventually(lambda: processor.metrics.acknowledged + processor.metrics.dead_lettered == len(messages))
    await processor.stop_listening()
    return await consumer_spans(collector, processor.metrics.handler_calls)


async def test_batch_span_has_its_own_trace_and_links_to_each_message(
    group: Group, telemetry: SpanRecorder, collector: Collector
) -> None:
    ids: list[str] = []
    current_span_ids: list[str] = []

    async def handle(batch: list[dict[str, str]]) -> None:
        ids.extend(message.message_id for message in current_messages())
        current_span_ids.append(f"{trace.get_current_span().get_span_context().span_id:016x}")

    other_producer = f"00-{'2' * 32}-{'3' * 16}-01"
    messages = [{"traceparent": SAMPLED}, {"n": "1"}, {"traceparent": other_producer}, {"traceparent": "garbage"}]
    [span] = await spans_of_batches(group, telemetry, collector, handle, messages)
    assert (span.name, span.kind, span.parent_span_id) == ("process orders", "CONSUMER", "")
    assert span.trace_id not in {TRACE, "2" * 32}
    assert current_span_ids == [span.span_id]
    assert [(link.trace_id, link.span_id, link.attributes) for link in span.links] == [
        (TRACE, PARENT, {"messaging.message.id": ids[0]}),
        ("2" * 32, "3" * 16, {"messaging.message.id": ids[2]}),
    ]
    assert span.attributes["messaging.batch.message_count"] == 4
    assert "messaging.message.id" not in span.attributes
    assert (span.status_code, span.events) == ("UNSET", ())


async def test_large_batch_keeps_all_its_links(group: Group, telemetry: SpanRecorder, collector: Collector) -> None:
    async def handle(batch: list[dict[str, str]]) -> None:
        await asyncio.sleep(0.3)

    messages = [{"traceparent": SAMPLED}] * 1000
    spans = await spans_of_batches(group, telemetry, collector, handle, messages)
    sizes = [span.attributes["messaging.batch.message_count"] for span in spans]
    assert [len(span.links) for span in spans] == sizes
    assert max(sizes) > 128, "the SDK alone would keep 128 links"


@pytest.mark.parametrize("failed", [1, 2, 3])
async def test_batch_span_is_an_error_only_when_all_messages_failed(
    group: Group, telemetry: SpanRecorder, collector: Collector, failed: int
) -> None:
    group.delivery = Delivery(max_deliveries=1)

    async def handle(batch: list[dict[str, str]]) -> None:
        raise BatchFailed({number: CardDeclined("no funds") for number in range(failed)})

    [span] = await spans_of_batches(group, telemetry, collector, handle, [{"n": "0"}] * 3)
    assert span.status_code == ("ERROR" if failed == 3 else "UNSET")
    assert span.attributes.get("error.type") == (f"{__name__}.CardDeclined" if failed == 3 else None)


async def test_attempt_cancelled_by_a_drain_is_an_error(
    group: Group, telemetry: SpanRecorder, collector: Collector
) -> None:
    handler = Recorder(gate=False)
    await group.add()
    processor = await group.start(handler, drain=0.05, settings={"telemetry": telemetry})
    await handler.wait_until_received(1)
    await processor.stop_listening()
    [span] = await consumer_spans(collector, 1)
    assert (span.status_code, span.attributes["error.type"]) == ("ERROR", "asyncio.exceptions.CancelledError")


async def test_idle_processor_records_no_spans(group: Group, telemetry: SpanRecorder, collector: Collector) -> None:
    processor = await group.start(Recorder(), poll=0.05, min_idle=0.2, settings={"telemetry": telemetry})
    await eventually(lambda: processor.metrics.reads >= 5)
    await processor.stop_listening()
    assert telemetry.shutdown()
    await asyncio.sleep(0.4)  # the collector's own delays
    assert collector.spans() == []


# -- in a process -----------------------------------------------------------------------------------------------------


async def test_last_spans_arrive_after_sigterm_and_log_lines_have_their_ids(
    group: Group, collector: Collector, new_pod: NewPod
) -> None:
    await group.add(fields={"n": "1", "traceparent": SAMPLED})
    resource = {"OTEL_SERVICE_NAME": "orders", "OTEL_RESOURCE_ATTRIBUTES": "k8s.pod.name=pod-a"}
    late = {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}  # nothing is exported before the end
    pod = new_pod("pod_handlers:log_handled").start(environment={**collector.environment, **resource, **late})
    [line] = await pod.wait_for_log("handled")
    start_seconds = time.monotonic()
    pod.signal(signal.SIGTERM)
    assert await pod.wait_for_exit() == 0
    assert time.monotonic() - start_seconds < TIMEOUT_SECONDS
    [span] = await consumer_spans(collector, 1)
    assert (line["trace_id"], line["span_id"], line["trace_flags"]) == (TRACE, span.span_id, "01")
    assert line["message_id"] == span.attributes["messaging.message.id"]
    assert (span.resource["service.name"], span.resource["k8s.pod.name"]) == ("orders", "pod-a")


async def test_log_line_of_a_failure_has_the_trace_id(group: Group, collector: Collector, new_pod: NewPod) -> None:
    [message_id] = await group.add(fields={"n": "1", "traceparent": SAMPLED})
    pod = new_pod("pod_handlers:fail").start(environment=collector.environment)
    [line] = await pod.wait_for_log("message failed; will retry")
    assert (line["message_id"], line["level"]) == (message_id, "ERROR")
    assert "ConnectionResetError: the bank hung up" in line["exc_info"]
    assert line["trace_id"] == TRACE


@dataclasses.dataclass
class BlackHole:
    """Server that accepts connections and never responds."""

    listener: socket.socket

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"


@pytest.fixture
def black_hole() -> Iterator[BlackHole]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield BlackHole(listener)


@pytest.mark.parametrize("kind", ["refuses", "never responds"])
async def test_unavailable_collector_delays_no_message_and_the_shutdown_only_briefly(
    group: Group, black_hole: BlackHole, new_pod: NewPod, kind: str
) -> None:
    if kind == "refuses":
        endpoint = black_hole.endpoint
        black_hole.listener.close()
    else:
        endpoint = black_hole.endpoint
    await group.add(1000)
    pod = new_pod("pod_handlers:log_handled").start(environment={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
    await pod.wait_for_log("handled", times=1000)
    await group.wait_settled()
    start_seconds = time.monotonic()
    pod.signal(signal.SIGTERM)
    assert await pod.wait_for_exit() == 0
    # 3 s for the last spans plus the exit of a process on a busy machine. The SDK alone would take 30 s.
    assert time.monotonic() - start_seconds < TIMEOUT_SECONDS
