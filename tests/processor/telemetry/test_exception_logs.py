"""Exceptions of handlers as log records in a real collector."""

import logging

import pytest

from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.telemetry.exception_logs import MAX_MESSAGE_LENGTH, MAX_STACK_LENGTH
from tests.cluster.collector import Collector
from tests.cluster.logs import LogRecord, parse_records
from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.recorder import Recorder
from tests.processor.telemetry.telemetry_kit import NewTelemetryKit, TelemetryKit, handle_messages, wait_for_named_spans

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


async def wait_for_records(collector: Collector, count: int) -> list[LogRecord]:
    def received() -> list[LogRecord]:
        return parse_records(collector.text("logs"))

    await eventually(lambda: len(received()) >= count)
    return received()


async def test_exception_is_a_log_record_of_the_attempts_span(
    group: Group, telemetry_kit: TelemetryKit, collector: Collector
) -> None:
    handler = Recorder(lambda _: ValueError("no such order"))
    await handle_messages(group, telemetry_kit, handler, {"id": "7", "traceparent": SAMPLED})
    [span] = await wait_for_named_spans(collector, "process orders")
    [record] = await wait_for_records(collector, 1)
    assert (record.event_name, record.severity, record.severity_number) == ("messaging.process.exception", "WARN", 13)
    assert (record.trace_id, record.span_id, record.flags) == (TRACE, span.span_id, 1)
    assert span.start_ns <= record.at_ns <= span.end_ns + 1_000_000_000
    stack = record.attributes.pop("exception.stacktrace")
    assert stack.startswith("Traceback (most recent call last):\n")
    assert stack.endswith("ValueError: no such order\n")
    assert record.attributes == {
        "messaging.system": "redis",
        "messaging.destination.name": "orders",
        "messaging.consumer.group.name": "billing",
        "messaging.message.id": handler.ids[0],
        "exception.type": "ValueError",
        "exception.message": "no such order",
    }
    assert (record.scope_name, record.schema_url) == (span.scope_name, span.schema_url)
    assert span.events == ()


async def test_failed_batch_has_one_record(group: Group, telemetry_kit: TelemetryKit, collector: Collector) -> None:
    async def refuse(batch: list[dict[str, str]]) -> None:
        raise ConnectionResetError("the bank hung up")

    await handle_messages(group, telemetry_kit, refuse, *[{"traceparent": SAMPLED}] * 3, batch=True)
    [record] = await wait_for_records(collector, 1)
    assert record.attributes["exception.type"] == "ConnectionResetError"
    assert record.attributes["messaging.batch.message_count"] == 3


async def test_unsampled_attempt_has_no_record(group: Group, telemetry_kit: TelemetryKit, collector: Collector) -> None:
    unsampled, sampled = {"traceparent": NOT_SAMPLED}, {"traceparent": SAMPLED}
    await handle_messages(group, telemetry_kit, Recorder(lambda _: ValueError("no")), unsampled, sampled)
    assert [record.trace_id for record in await wait_for_records(collector, 1)] == [TRACE]


async def test_record_is_bounded_for_any_exception(
    group: Group, telemetry_kit: TelemetryKit, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "streamconsumer")  # pytest-xdist fails on text that is not UTF-8

    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def recurse(depth: int) -> None:
        if depth:
            recurse(depth - 1)
        raise ValueError("long \udcff " * 1000)

    async def fail(data: dict[str, str]) -> None:
        if data["n"] == "0":
            raise UnprintableError
        recurse(300)

    await handle_messages(group, telemetry_kit, fail, *[{"n": str(n), "traceparent": SAMPLED} for n in range(2)])
    records = {
        each.attributes["exception.type"].rpartition(".")[2]: each for each in await wait_for_records(collector, 2)
    }
    assert set(records) == {"UnprintableError", "ValueError"}
    attributes = records["ValueError"].attributes
    assert len(attributes["exception.message"]) < 2 * MAX_MESSAGE_LENGTH  # lone surrogates are escaped
    assert len(attributes["exception.stacktrace"]) < 2 * MAX_STACK_LENGTH


async def test_records_can_be_disabled_without_spans(
    group: Group, new_telemetry_kit: NewTelemetryKit, collector: Collector
) -> None:
    telemetry_kit = new_telemetry_kit({"OTEL_LOGS_EXPORTER": "none"})
    await handle_messages(group, telemetry_kit, Recorder(lambda _: ValueError("no")), {"traceparent": SAMPLED})
    await wait_for_named_spans(collector, "process orders")
    assert collector.text("logs") == ""


async def test_records_are_bounded_and_counted_when_the_collector_rejects_them(
    group: Group, new_telemetry_kit: NewTelemetryKit, collector: Collector
) -> None:
    """Only the endpoint for logs is wrong, so spans still arrive."""
    metrics = Metrics()
    nowhere = {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"{collector.http_endpoint}/v1/nothing"}
    telemetry_kit = new_telemetry_kit({**nowhere, "OTEL_BLRP_MAX_QUEUE_SIZE": "5"}, metrics=metrics)
    await handle_messages(group, telemetry_kit, Recorder(lambda _: ValueError("no")), *[{"traceparent": SAMPLED}] * 20)
    assert metrics.exceptions_dropped == 20
    assert metrics.spans_dropped == 0
