"""Every form of trace context with every sampler, in a real collector.

Each message is named after the form of its context, and spans are matched to messages by that name.
"""

from typing import Any

import pytest
from opentelemetry import baggage, trace

from streamconsumer.model.processor_settings import TraceContextSettings
from streamconsumer.processor.telemetry import current_trace
from streamconsumer.processor.telemetry.trace_context import parse_traceparent
from tests.cluster.collector import Collector
from tests.cluster.spans import Span
from tests.processor.eventually import eventually
from tests.processor.group import STREAM, Group
from tests.processor.recorder import Recorder
from tests.processor.telemetry.telemetry_kit import NewTelemetryKit, TelemetryKit, linked_span_ids, wait_for_named_spans

PROCESS = f"process {STREAM}"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
WELL_FORMED = f"00-{TRACE}-{PARENT}-"

CONTEXTS: dict[str, dict[str, str | bytes]] = {
    "sampled": {"traceparent": f"{WELL_FORMED}01"},
    "sampled, random": {"traceparent": f"{WELL_FORMED}03"},
    "not sampled": {"traceparent": f"{WELL_FORMED}00"},
    "not sampled, random": {"traceparent": f"{WELL_FORMED}02"},
    "with a state": {"traceparent": f"{WELL_FORMED}01", "tracestate": "shop=eu,other=1"},
    "with an invalid state": {"traceparent": f"{WELL_FORMED}01", "tracestate": "=,;"},
    "of a later version": {"traceparent": f"01-{TRACE}-{PARENT}-01-more"},
    "missing": {},
    "garbage": {"traceparent": "00-zz"},
    "no ids": {"traceparent": f"00-{'0' * 32}-{'0' * 16}-01"},
    "in capitals": {"traceparent": f"{WELL_FORMED}01".upper()},
    "with an invalid version": {"traceparent": f"ff-{TRACE}-{PARENT}-01"},
    "too long": {"traceparent": f"{WELL_FORMED}01" + "0" * 10_000},
    "binary": {"traceparent": b"\xff\x00" * 20},
}
SAMPLED = {"sampled", "sampled, random", "with a state", "with an invalid state", "of a later version"}
UNSAMPLED = {"not sampled", "not sampled, random"}
CHILDREN = SAMPLED | UNSAMPLED
ROOTS = CONTEXTS.keys() - CHILDREN

SAMPLERS = {
    "": SAMPLED | ROOTS,
    "parentbased_always_on": SAMPLED | ROOTS,
    "parentbased_always_off": SAMPLED,
    "parentbased_traceidratio 0": SAMPLED,
    "parentbased_traceidratio 1": SAMPLED | ROOTS,
    "parentbased_traceidratio nonsense": SAMPLED | ROOTS,
    "always_on": set(CONTEXTS),
    "always_off": set(),
    "traceidratio 0": set(),
    "traceidratio 1": set(CONTEXTS),
    "no such sampler": SAMPLED | ROOTS,
}


def environment(sampler: str) -> dict[str, str]:
    name, _, ratio = sampler.partition(" ") if "traceidratio" in sampler else (sampler, "", "")
    return {"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": ratio} if name else {}


async def spans_by_context(
    group: Group, telemetry_kit: TelemetryKit, collector: Collector, count: int
) -> dict[str, Span]:
    """Handle a message with each context in one processor. Returns the exported spans by context."""
    names: dict[str, str] = {}
    for name, fields in CONTEXTS.items():
        [message_id] = await group.add(fields={"context": name, **fields})
        names[message_id] = name
    handler = Recorder()
    processor = await group.start(
        handler, encoding="bytes", settings={"telemetry": telemetry_kit.telemetry}, concurrency=4
    )
    await handler.wait_until_finished(len(CONTEXTS))
    await processor.stop_listening()
    assert telemetry_kit.telemetry.flush()
    spans = await wait_for_named_spans(collector, PROCESS, count)
    assert len(spans) == count
    return {names[span.attributes["messaging.message.id"]]: span for span in spans}


@pytest.mark.parametrize("sampler", SAMPLERS)
async def test_context_is_sampled_as_the_sampler_requires(
    group: Group, new_telemetry_kit: NewTelemetryKit, collector: Collector, sampler: str
) -> None:
    spans = await spans_by_context(group, new_telemetry_kit(environment(sampler)), collector, len(SAMPLERS[sampler]))
    assert spans.keys() == SAMPLERS[sampler]
    for name, span in spans.items():
        is_child = name in CHILDREN
        assert ((span.trace_id, span.parent_span_id) == (TRACE, PARENT)) is is_child, name
        assert [(link.trace_id, link.span_id) for link in span.links] == ([(TRACE, PARENT)] if is_child else []), name


@pytest.mark.parametrize("trust", ["link", "ignore"])
async def test_untrusted_producers_context_is_not_the_parent(
    group: Group, new_telemetry_kit: NewTelemetryKit, collector: Collector, trust: str
) -> None:
    """Such a producer can neither force nor prevent sampling."""
    telemetry_kit = new_telemetry_kit(trace_context=TraceContextSettings.model_validate({"context": trust}))
    spans = await spans_by_context(group, telemetry_kit, collector, len(CONTEXTS))
    assert len({span.trace_id for span in spans.values()}) == len(CONTEXTS)
    for name, span in spans.items():
        assert (span.trace_id == TRACE, span.parent_span_id) == (False, "")
        assert linked_span_ids(span, "") == ([PARENT] if trust == "link" and name in CHILDREN else [])


@pytest.mark.parametrize("sampler", ["parentbased_always_off", "parentbased_traceidratio 0"])
async def test_untrusted_producer_cannot_force_sampling(
    group: Group, new_telemetry_kit: NewTelemetryKit, collector: Collector, sampler: str
) -> None:
    telemetry_kit = new_telemetry_kit(environment(sampler), trace_context=TraceContextSettings(context="link"))
    assert await spans_by_context(group, telemetry_kit, collector, 0) == {}


async def test_batch_is_recorded_when_one_of_its_messages_is_sampled(
    group: Group, new_telemetry_kit: NewTelemetryKit, collector: Collector
) -> None:
    telemetry = new_telemetry_kit(environment("parentbased_traceidratio 0")).telemetry
    batches: list[int] = []

    async def handle(batch: list[dict[str, str]]) -> None:
        batches.append(len(batch))

    await group.add(3, {"traceparent": f"{WELL_FORMED}00"})
    processor = await group.start(handler := handle, settings={"telemetry": telemetry, "batch": True})
    await eventually(lambda: sum(batches) == 3)
    await processor.stop_listening()
    await group.add(1, {"traceparent": f"{WELL_FORMED}00"})
    await group.add(1, {"traceparent": f"{WELL_FORMED}01"})
    await group.start(handler, "pod-b", settings={"telemetry": telemetry, "batch": True})
    await eventually(lambda: sum(batches) == 5)
    [span] = await wait_for_named_spans(collector, PROCESS)
    assert span.attributes["messaging.batch.message_count"] == batches[-1]


async def test_tracestate_and_the_configured_context_field_are_propagated(
    group: Group, new_telemetry_kit: NewTelemetryKit, collector: Collector
) -> None:
    states: list[str] = []

    async def handle(data: dict[str, str]) -> None:
        states.append(trace.get_current_span().get_span_context().trace_state.to_header())

    await group.add(fields={"ctx": f"{WELL_FORMED}01", "tracestate": "shop=eu", "traceparent": "garbage"})
    telemetry = new_telemetry_kit(trace_context=TraceContextSettings(context_field="ctx")).telemetry
    await group.start(handle, settings={"telemetry": telemetry})
    [span] = await wait_for_named_spans(collector, PROCESS)
    assert (span.trace_id, states) == (TRACE, ["shop=eu"])


@pytest.mark.parametrize("allowed", [[], ["tenant"]])
async def test_only_allowed_baggage_keys_are_propagated(
    group: Group, new_telemetry_kit: NewTelemetryKit, allowed: list[str]
) -> None:
    handler_baggage: list[dict[str, Any]] = []

    async def handle(data: dict[str, str]) -> None:
        handler_baggage.append(dict(baggage.get_all()))

    fields = {"baggage": "tenant=a%20b;p=1, secret=x,nonsense", "traceparent": f"{WELL_FORMED}01"}
    await group.add(fields=fields)
    telemetry = new_telemetry_kit(trace_context=TraceContextSettings(baggage=allowed)).telemetry
    await group.start(handle, settings={"telemetry": telemetry})
    await eventually(lambda: handler_baggage)
    assert handler_baggage == [{"tenant": "a b"} if allowed else {}]


async def test_attributes_and_events_of_a_handler_are_exported(
    group: Group, telemetry_kit: TelemetryKit, collector: Collector
) -> None:
    async def handle(data: dict[str, str]) -> None:
        span = trace.get_current_span()
        assert span.is_recording()
        span.set_attributes({"shop.total": 1.5, "shop.items": ["a", "b"], "shop.vip": True, "shop.count": -3})
        span.add_event("charged", {"card": "visa"})
        span.record_exception(ValueError("x"))
        span.end()  # without effect: the processor ends the span

    await group.add()
    await group.start(handle, settings={"telemetry": telemetry_kit.telemetry})
    [span] = await wait_for_named_spans(collector, PROCESS)
    added = {name: value for name, value in span.attributes.items() if name.startswith("shop.")}
    assert added == {"shop.total": 1.5, "shop.items": ["a", "b"], "shop.vip": True, "shop.count": -3}
    assert [(event.name, event.attributes) for event in span.events] == [
        ("charged", {"card": "visa"}),
        ("exception", {"exception.type": "ValueError", "exception.message": "ValueError: x"}),
    ]


def test_traceparent_is_parsed_into_ids_and_flags() -> None:
    assert current_trace() == {}
    producer = parse_traceparent(f"{WELL_FORMED}03")
    assert producer
    assert (producer.trace_id.hex(), producer.span_id.hex(), producer.flags) == (TRACE, PARENT, 3)
