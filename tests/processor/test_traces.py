"""Telemetry in addition to the spans of attempts: exceptions, reads, refused configuration files, the express way."""

import asyncio
import logging
import sys
from collections import Counter
from types import FrameType
from typing import Any

import pytest
from prometheus_client import generate_latest

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor.metrics import Metrics, build_registry
from streamconsumer.processor.telemetry import current_traceparent, telemetry_from_env
from streamconsumer.processor.telemetry.exception_logs import MAX_MESSAGE_LENGTH, MAX_STACK_LENGTH
from tests.cluster.collector import Collector
from tests.cluster.logs import LogRecord, parse_records
from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.recorder import Recorder
from tests.processor.tracing import NewTelemetryKit, TelemetryKit, wait_for_named_spans

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


async def handle(group: Group, kit: TelemetryKit, handler: Any, *messages: dict[str, Any], **settings: Any) -> Metrics:
    """One attempt at each of them; and what is told of them is on its way."""
    group.delivery = Delivery(max_deliveries=1)
    for fields in messages:
        await group.add(fields=fields)
    processor = await group.start(handler, settings={"telemetry": kit.telemetry, **settings})
    done = 1 if settings.get("batch") else len(messages)  # a batch is counted once
    await eventually(lambda: processor.metrics.handler_calls >= done)
    await processor.stop_listening()
    kit.flush()
    return processor.metrics


async def records(collector: Collector, count: int) -> list[LogRecord]:
    def there() -> list[LogRecord]:
        return parse_records(collector.text("logs"))

    await eventually(lambda: len(there()) >= count)
    return there()


# -- what was raised ---------------------------------------------------------------------------------------------------


async def test_what_a_handler_raised_is_a_log_record_of_its_span(
    group: Group, kit: TelemetryKit, collector: Collector
) -> None:
    handler = Recorder(lambda _: ValueError("no such order"))
    await handle(group, kit, handler, {"id": "7", "traceparent": SAMPLED})
    [span] = await wait_for_named_spans(collector, "process orders")
    [record] = await records(collector, 1)
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


async def test_what_a_batch_failed_of_is_one_record(group: Group, kit: TelemetryKit, collector: Collector) -> None:
    async def refuse(batch: list[dict[str, str]]) -> None:
        raise ConnectionResetError("the bank hung up")

    await handle(group, kit, refuse, *[{"traceparent": SAMPLED}] * 3, batch=True)
    [record] = await records(collector, 1)
    assert record.attributes["exception.type"] == "ConnectionResetError"
    assert record.attributes["messaging.batch.message_count"] == 3


async def test_what_is_not_sampled_has_no_record(group: Group, kit: TelemetryKit, collector: Collector) -> None:
    unsampled, sampled = {"traceparent": NOT_SAMPLED}, {"traceparent": SAMPLED}
    await handle(group, kit, Recorder(lambda _: ValueError("no")), unsampled, sampled)
    assert [record.trace_id for record in await records(collector, 1)] == [TRACE]


async def test_a_record_is_bounded_whatever_is_raised(
    group: Group, kit: TelemetryKit, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "streamconsumer")  # pytest-xdist cannot carry what is no UTF-8

    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    def deep(left: int) -> None:
        if left:
            deep(left - 1)
        raise ValueError("long \udcff " * 1000)

    async def fail(data: dict[str, str]) -> None:
        if data["n"] == "0":
            raise Unspeakable
        deep(300)

    await handle(group, kit, fail, *[{"n": str(n), "traceparent": SAMPLED} for n in range(2)])
    told = {each.attributes["exception.type"].rpartition(".")[2]: each for each in await records(collector, 2)}
    assert set(told) == {"Unspeakable", "ValueError"}
    long = told["ValueError"].attributes
    assert len(long["exception.message"]) < 2 * MAX_MESSAGE_LENGTH  # what is no UTF-8 is spelt out
    assert len(long["exception.stacktrace"]) < 2 * MAX_STACK_LENGTH


async def test_records_can_be_turned_off_alone(group: Group, new_kit: NewTelemetryKit, collector: Collector) -> None:
    kit = new_kit({"OTEL_LOGS_EXPORTER": "none"})
    await handle(group, kit, Recorder(lambda _: ValueError("no")), {"traceparent": SAMPLED})
    await wait_for_named_spans(collector, "process orders")
    assert collector.text("logs") == ""


async def test_records_that_no_collector_takes_are_bounded_and_counted(
    group: Group, new_kit: NewTelemetryKit, collector: Collector
) -> None:
    """Spans arrive where records do not: each has an endpoint of its own."""
    metrics = Metrics()
    nowhere = {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"{collector.http_endpoint}/v1/nothing"}
    kit = new_kit({**nowhere, "OTEL_BLRP_MAX_QUEUE_SIZE": "5"}, metrics=metrics)
    await handle(group, kit, Recorder(lambda _: ValueError("no")), *[{"traceparent": SAMPLED}] * 20)
    assert metrics.exceptions_dropped == 20
    assert metrics.spans_dropped == 0


# -- reads -------------------------------------------------------------------------------------------------------------


async def test_a_read_has_no_span(group: Group, kit: TelemetryKit, collector: Collector) -> None:
    await handle(group, kit, Recorder(), {"traceparent": SAMPLED})
    await wait_for_named_spans(collector, "ack orders")
    assert {span.name for span in collector.spans()} == {"process orders", "ack orders"}


# -- configuration files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}])
def test_a_configuration_file_is_refused_with_what_to_do_instead(endpoint: dict[str, str]) -> None:
    with pytest.raises(InvalidSettings, match=r"OTEL_CONFIG_FILE is '/etc/otel.yaml'.*set OTEL_EXPORTER_OTLP_ENDPOINT"):
        telemetry_from_env({"OTEL_CONFIG_FILE": "/etc/otel.yaml", **endpoint})
    assert telemetry_from_env({"OTEL_CONFIG_FILE": "/etc/otel.yaml", "OTEL_SDK_DISABLED": "true"}) is None


# -- the express way ---------------------------------------------------------------------------------------------------


async def test_where_only_producers_sample_the_others_messages_go_the_express_way(
    group: Group, new_kit: NewTelemetryKit, collector: Collector
) -> None:
    """And nothing is lost by it: whose producer sampled has a span, and every producer's context is handed on."""
    kit = new_kit({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"})
    seen: list[str] = []

    async def note(_: dict[str, str]) -> None:
        seen.append(current_traceparent())
        await asyncio.sleep(0)

    processor = await group.start(note, settings={"telemetry": kit.telemetry})
    assert processor._pipeline.fast_path is not None
    for fields in ({"n": "1"}, {"traceparent": NOT_SAMPLED}, {"traceparent": SAMPLED}, {"n": "2"}):
        await group.add(fields=fields)
    await group.wait_settled()
    await processor.stop_listening()
    kit.flush()
    [span] = await wait_for_named_spans(collector, "process orders")
    assert seen[0] == seen[3] == ""
    assert seen[1:3] == [NOT_SAMPLED, f"00-{TRACE}-{span.span_id}-01"]
    assert span.parent_span_id == PARENT


async def test_without_an_endpoint_nothing_of_telemetry_is_called_for_a_message(
    group: Group, kit: TelemetryKit
) -> None:
    """So there is nothing to be lost by it; and with a collector the same count does find calls."""
    assert await calls_of_telemetry(group, {}) == Counter()
    assert sum((await calls_of_telemetry(group, {"telemetry": kit.telemetry})).values()) >= 100


async def calls_of_telemetry(group: Group, settings: dict[str, Any]) -> Counter[str]:
    """What is called in `processor/telemetry/` and in OpenTelemetry while 100 messages are handled."""
    handler, called = Recorder(), Counter[str]()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (
            "processor/telemetry/" in (file := frame.f_code.co_filename) or "opentelemetry" in file
        ):
            called[f"{file}:{frame.f_code.co_name}"] += 1

    processor = await group.start(handler, settings=settings)
    await group.add(1)
    await group.wait_settled()
    sys.setprofile(note)
    try:
        await group.add(100)
        await group.wait_settled()
    finally:
        sys.setprofile(None)
    await processor.stop_listening()
    return called


async def test_ten_thousand_messages_are_as_many_series_as_one(group: Group, kit: TelemetryKit) -> None:
    """No figure has an id for a label: what /metrics says grows in its numbers alone."""

    def series(metrics: Metrics) -> set[str]:
        lines = generate_latest(build_registry(metrics, {"stream": "orders"})).decode().splitlines()
        return {line.rpartition(" ")[0] for line in lines if line and not line.startswith("#")}

    processor = await group.start(Recorder(), batch=500, settings={"telemetry": kit.telemetry})
    await group.add(1)
    await group.wait_settled()
    one = series(processor.metrics)
    await group.add(10_000)
    await eventually(lambda: processor.metrics.handler_calls == 10_001, 30)
    assert series(processor.metrics) == one
    await processor.stop_listening()
