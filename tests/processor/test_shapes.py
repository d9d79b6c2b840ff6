"""Every shape of context under every sampler, as it reaches a real collector; and what is recorded, by the conventions.

Messages are named by the shape of their context, and what arrived is told by its message's name.
"""

import asyncio
import importlib
import pkgutil
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider

from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor import Reject
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.telemetry import SpanRecorder, TracerProviderTracing, current_trace, otlp_sdk
from streamconsumer.processor.telemetry.exception_logs import ExceptionLogs
from streamconsumer.processor.telemetry.export_queue import (
    HEALTHY_EXPORT_SECONDS,
    MAX_QUEUE_BYTES,
    MAX_REQUEST_BYTES,
    ExportQueue,
)
from streamconsumer.processor.telemetry.otlp_encoding import ExportRequest, any_value, attributes
from streamconsumer.processor.telemetry.spans import RecordedSpan
from streamconsumer.processor.telemetry.trace_context import parse_traceparent
from tests.cluster.collector import Collector
from tests.cluster.spans import Span
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.recorder import Recorder
from tests.processor.tracing import NewTelemetryKit, TelemetryKit, linked_span_ids, wait_for_named_spans

PROCESS = f"process {STREAM}"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
WELL_FORMED = f"00-{TRACE}-{PARENT}-"

CONTEXTS: dict[str, dict[str, str | bytes]] = {
    "sampled": {"traceparent": f"{WELL_FORMED}01"},
    "sampled, random": {"traceparent": f"{WELL_FORMED}03"},
    "not sampled": {"traceparent": f"{WELL_FORMED}00"},
    "not sampled, random": {"traceparent": f"{WELL_FORMED}02"},
    "with a state": {"traceparent": f"{WELL_FORMED}01", "tracestate": "shop=eu,other=1"},
    "with a state that is garbage": {"traceparent": f"{WELL_FORMED}01", "tracestate": "=,;"},
    "of a later version": {"traceparent": f"01-{TRACE}-{PARENT}-01-more"},
    "missing": {},
    "garbage": {"traceparent": "00-zz"},
    "no ids": {"traceparent": f"00-{'0' * 32}-{'0' * 16}-01"},
    "in capitals": {"traceparent": f"{WELL_FORMED}01".upper()},
    "of no version": {"traceparent": f"ff-{TRACE}-{PARENT}-01"},
    "too long": {"traceparent": f"{WELL_FORMED}01" + "0" * 10_000},
    "binary": {"traceparent": b"\xff\x00" * 20},
}
SAMPLED = {"sampled", "sampled, random", "with a state", "with a state that is garbage", "of a later version"}
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


async def handled(group: Group, kit: TelemetryKit, collector: Collector, wanted: int) -> dict[str, Span]:
    """All shapes through one processor; what arrived, by its shape."""
    shapes: dict[str, str] = {}
    for shape, fields in CONTEXTS.items():
        [message_id] = await group.add(fields={"shape": shape, **fields})
        shapes[message_id] = shape
    handler = Recorder()
    processor = await group.start(handler, encoding="bytes", settings={"telemetry": kit.telemetry}, concurrency=4)
    await handler.wait_until_finished(len(CONTEXTS))
    await processor.stop_listening()
    assert kit.telemetry.flush()
    spans = await wait_for_named_spans(collector, PROCESS, wanted)
    assert len(spans) == wanted
    return {shapes[span.attributes["messaging.message.id"]]: span for span in spans}


@pytest.mark.parametrize("sampler", SAMPLERS)
async def test_each_shape_is_sampled_as_the_variables_say(
    group: Group, new_kit: NewTelemetryKit, collector: Collector, sampler: str
) -> None:
    found = await handled(group, new_kit(environment(sampler)), collector, len(SAMPLERS[sampler]))
    assert found.keys() == SAMPLERS[sampler]
    for shape, span in found.items():
        is_child = shape in CHILDREN
        assert ((span.trace_id, span.parent_span_id) == (TRACE, PARENT)) is is_child, shape
        assert [(link.trace_id, link.span_id) for link in span.links] == ([(TRACE, PARENT)] if is_child else []), shape


@pytest.mark.parametrize("trust", ["link", "ignore"])
async def test_who_does_not_trust_producers_has_traces_of_his_own(
    group: Group, new_kit: NewTelemetryKit, collector: Collector, trust: str
) -> None:
    """They can neither force a sample nor evade one."""
    found = await handled(group, new_kit(trust=trust), collector, len(CONTEXTS))
    assert len({span.trace_id for span in found.values()}) == len(CONTEXTS)
    for shape, span in found.items():
        assert (span.trace_id == TRACE, span.parent_span_id) == (False, "")
        assert linked_span_ids(span, "") == ([PARENT] if trust == "link" and shape in CHILDREN else [])


@pytest.mark.parametrize("sampler", ["parentbased_always_off", "parentbased_traceidratio 0"])
async def test_an_untrusted_producer_forces_no_sample(
    group: Group, new_kit: NewTelemetryKit, collector: Collector, sampler: str
) -> None:
    assert await handled(group, new_kit(environment(sampler), trust="link"), collector, 0) == {}


async def test_a_batch_is_kept_if_one_of_its_messages_is(
    group: Group, new_kit: NewTelemetryKit, collector: Collector
) -> None:
    telemetry = new_kit(environment("parentbased_traceidratio 0")).telemetry
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


async def test_state_and_the_field_that_is_asked_for_are_handed_on(
    group: Group, new_kit: NewTelemetryKit, collector: Collector
) -> None:
    states: list[str] = []

    async def handle(data: dict[str, str]) -> None:
        states.append(trace.get_current_span().get_span_context().trace_state.to_header())

    await group.add(fields={"ctx": f"{WELL_FORMED}01", "tracestate": "shop=eu", "traceparent": "garbage"})
    await group.start(handle, settings={"telemetry": new_kit(field="ctx").telemetry})
    [span] = await wait_for_named_spans(collector, PROCESS)
    assert (span.trace_id, states) == (TRACE, ["shop=eu"])


@pytest.mark.parametrize("allowed", [[], ["tenant"]])
async def test_baggage_passes_only_by_name(group: Group, new_kit: NewTelemetryKit, allowed: list[str]) -> None:
    seen: list[dict[str, Any]] = []

    async def handle(data: dict[str, str]) -> None:
        seen.append(dict(baggage.get_all()))

    fields = {"baggage": "tenant=a%20b;p=1, secret=x,nonsense", "traceparent": f"{WELL_FORMED}01"}
    await group.add(fields=fields)
    await group.start(handle, settings={"telemetry": new_kit(allowed_baggage=allowed).telemetry})
    await eventually(lambda: seen)
    assert seen == [{"tenant": "a b"} if allowed else {}]


async def test_what_a_handler_adds_to_its_span_arrives(group: Group, kit: TelemetryKit, collector: Collector) -> None:
    async def handle(data: dict[str, str]) -> None:
        span = trace.get_current_span()
        assert span.is_recording()
        span.set_attributes({"shop.total": 1.5, "shop.items": ["a", "b"], "shop.vip": True, "shop.count": -3})
        span.add_event("charged", {"card": "visa"})
        span.record_exception(ValueError("x"))
        span.end()  # not his to end

    await group.add()
    await group.start(handle, settings={"telemetry": kit.telemetry})
    [span] = await wait_for_named_spans(collector, PROCESS)
    added = {name: told for name, told in span.attributes.items() if name.startswith("shop.")}
    assert added == {"shop.total": 1.5, "shop.items": ["a", "b"], "shop.vip": True, "shop.count": -3}
    assert [(event.name, event.attributes) for event in span.events] == [
        ("charged", {"card": "visa"}),
        ("exception", {"exception.type": "ValueError", "exception.message": "ValueError: x"}),
    ]


async def test_a_provider_that_is_given_gets_the_spans(group: Group, kit: TelemetryKit, collector: Collector) -> None:
    who = {"stream": STREAM, "consumer_group": GROUP, "consumer": "pod-a"}
    telemetry = TracerProviderTracing(kit.provider, server=lambda: ("localhost", 1), **who)
    group.delivery = Delivery(terminal_errors=["ValueError"])
    for fields in ({"traceparent": f"{WELL_FORMED}01"}, {"traceparent": f"{WELL_FORMED}00"}, {"n": "bad"}):
        await group.add(fields=fields)
    handler = Recorder(lambda message: ValueError("no") if message.data.get("n") else None)
    await group.start(handler, settings={"telemetry": telemetry})
    await eventually(lambda: len(handler.received) == 3)
    await group.wait_settled()
    kit.provider.force_flush()
    first, last = await wait_for_named_spans(collector, PROCESS, 2)
    assert (first.trace_id, first.parent_span_id, linked_span_ids(first, "")) == (TRACE, PARENT, [PARENT])
    assert (last.status_code, last.attributes["error.type"], last.parent_span_id) == ("ERROR", "ValueError", "")


@pytest.mark.parametrize("batch", [False, True])
async def test_a_provided_provider_gets_the_same_attributes_and_links_as_the_collector(
    group: Group, kit: TelemetryKit, collector: Collector, batch: bool
) -> None:
    """Only the span's own ids differ: the provider's SDK chooses them."""
    who = {"stream": STREAM, "consumer_group": GROUP, "consumer": "pod-a"}
    provided = TracerProviderTracing(kit.provider, server=lambda: group.manager().address, **who)

    async def fail(_: Any) -> None:
        raise ValueError("no")

    async def handled_with(telemetry: Any, count: int) -> Span:
        await group.add(fields={"traceparent": f"{WELL_FORMED}01"})
        processor = await group.start(fail, settings={"telemetry": telemetry, "batch": batch})
        await eventually(lambda: processor.metrics.dead_lettered == 1)
        await processor.stop_listening()
        kit.flush()
        return (await wait_for_named_spans(collector, PROCESS, count))[-1]

    group.delivery = Delivery(max_deliveries=1)
    ours, theirs = await handled_with(kit.telemetry, 1), await handled_with(provided, 2)
    assert ours.attributes.keys() == theirs.attributes.keys()
    differs = {name for name in ours.attributes if ours.attributes[name] != theirs.attributes[name]}
    assert differs <= {"messaging.message.id", "streamconsumer.queue.stream_time", "streamconsumer.queue.buffer_time"}
    for span in (ours, theirs):
        assert (span.name, span.kind, span.status_code, span.status_message) == (
            *(PROCESS, "CONSUMER", "ERROR"),
            "ValueError: no",
        )
        assert [(link.trace_id, link.span_id, [*link.attributes]) for link in span.links] == [
            (TRACE, PARENT, ["messaging.message.id"] if batch else [])
        ]


def test_a_context_that_is_never_asked_for_is_the_same_when_it_is() -> None:
    assert current_trace() == {}
    remote = parse_traceparent(f"{WELL_FORMED}03")
    assert remote
    assert (remote.trace_id.hex(), remote.span_id.hex(), remote.flags) == (TRACE, PARENT, 3)


def test_values_of_every_kind_are_what_the_official_classes_read() -> None:
    given = {"a": "é\udcff", "b": -1, "c": 2**62, "d": 0.5, "e": [True, "x"], "f": {"g": 1}, "h": b"\xff", "i": None}
    span = RecordedSpan(attributes(given), bytes(16), bytes(8), 1)
    read = ExportTraceServiceRequest.FromString(
        ExportRequest({"r": "s" * 300}, "scope", "1", "url").encode([span.encode()])
    )
    [of_resource] = read.resource_spans
    [of_scope] = of_resource.scope_spans
    [found] = of_scope.spans
    assert of_resource.resource.attributes[0].value.string_value == "s" * 300
    assert (of_scope.scope.name, of_scope.schema_url) == ("scope", "url")
    told = {pair.key: pair.value for pair in found.attributes}
    assert told["a"].string_value == "é\\udcff"
    assert (told["b"].int_value, told["c"].int_value, told["d"].double_value) == (-1, 2**62, 0.5)
    assert [each.WhichOneof("value") for each in told["e"].array_value.values] == ["bool_value", "string_value"]
    assert told["f"].kvlist_value.values[0].value.int_value == 1
    assert (told["h"].bytes_value, told["i"].string_value) == (b"\xff", "None")
    assert any_value(True) != any_value(1)


# -- the way to the collector -----------------------------------------------------------------------------------------


def test_what_finds_no_room_is_dropped_and_counted_and_nothing_else() -> None:
    taken: list[int] = []

    def send(spans: Any) -> bool:
        taken.append(len(spans))
        return len(taken) % 2 == 1  # every second request is lost

    outbox = ExportQueue(send, max_size=100, batch_size=10, delay_seconds=3600)
    for _ in range(1000):
        outbox.put(b"span")
        assert len(outbox._queued) <= 100
    assert outbox.close(5)
    assert outbox.sent + outbox.dropped == 1000
    assert outbox.sent == sum(taken[::2])
    outbox.put(b"late")
    assert outbox.dropped == 1001 - outbox.sent


def test_what_is_dropped_is_told_while_there_is_always_more_to_send() -> None:
    """A busy pod's outbox is never empty: that is no reason to tell nothing of a collector that is away."""
    metrics, hangs = Metrics(), threading.Event()
    outbox = ExportQueue(
        lambda _: not hangs.wait(60), max_size=100, batch_size=100, delay_seconds=3600, metrics=metrics
    )
    for _ in range(1000):
        outbox.put(b"span")
    assert metrics.spans_dropped == 900
    hangs.set()
    assert outbox.close(5)
    assert metrics.spans_dropped == outbox.dropped == 1000


def test_large_spans_are_bounded_by_their_bytes() -> None:
    hangs, span = threading.Event(), b"x" * (1 << 20)
    outbox = ExportQueue(lambda _: hangs.wait(60), delay_seconds=3600)
    for _ in range(100):
        outbox.put(span)
    assert outbox.dropped == 100 - MAX_QUEUE_BYTES // len(span)
    hangs.set()
    assert outbox.flush(5)
    outbox.put(span)
    assert outbox.close(5)
    assert outbox.sent == MAX_QUEUE_BYTES // len(span) + 1


def test_a_request_is_bounded_by_its_bytes_and_one_span_that_is_larger_goes_alone() -> None:
    sizes, requests = [100, 3 << 20, 2 << 20, 5 << 20, 100, 100], []

    def send(spans: Sequence[bytes]) -> bool:
        requests.append([len(span) for span in spans])
        return True

    outbox = ExportQueue(send, delay_seconds=3600)
    with outbox._lock:  # so that all of them wait before the first is sent
        for size in sizes:
            outbox.put(b"x" * size)
    assert outbox.close(5)
    assert [size for request in requests for size in request] == sizes
    assert all(sum(request) <= MAX_REQUEST_BYTES or len(request) == 1 for request in requests)
    assert [5 << 20] in requests
    assert (outbox.sent, outbox.dropped) == (len(sizes), 0)


def test_large_spans_are_sent_before_there_are_many() -> None:
    """Or 32 MiB would be full before a second is over, with a collector that waits for them."""
    took = threading.Event()

    def send(_: Sequence[bytes]) -> bool:
        took.set()
        return True

    outbox = ExportQueue(send, delay_seconds=3600)
    for _ in range(4):
        outbox.put(b"x" * (1 << 20))
    assert took.wait(5)
    assert outbox.close(5)


class Served(ThreadingHTTPServer):
    """A collector that refuses requests beyond its limit, as OpenTelemetry's does."""

    daemon_threads = True
    limit = 1000

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked: list[int] = []
        self.tokens: list[str | None] = []


class Answers(BaseHTTPRequestHandler):
    server: Served

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        self.rfile.read(size)
        self.server.asked.append(size)
        self.server.tokens.append(self.headers["Authorization"])
        self.send_response(413 if size > self.server.limit else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def strict() -> Iterator[Served]:
    with Served() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_what_is_too_large_for_a_collector_is_dropped_once_and_counted(
    strict: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = f"http://127.0.0.1:{strict.server_port}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    provider, metrics = TracerProvider(shutdown_on_exit=False), Metrics()
    outbox = otlp_sdk.span_queue({"OTEL_BSP_SCHEDULE_DELAY": "3600000"}, provider, metrics)
    for more in (b"", b"x" * 2000, b""):
        outbox.put(a_span_with(more))
        assert outbox.flush(5)
    assert [size > strict.limit for size in strict.asked] == [False, True, False]
    assert (outbox.sent, outbox.dropped, metrics.spans_dropped) == (2, 1, 1)
    assert outbox.close(5)


def test_a_collector_is_shown_the_token_that_the_variables_say(strict: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{strict.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20hunter2")
    outbox = otlp_sdk.span_queue(
        {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}, TracerProvider(shutdown_on_exit=False), Metrics()
    )
    outbox.put(a_span_with(b""))
    assert outbox.close(5)
    assert strict.tokens == ["Bearer hunter2"]


def a_span_with(more: bytes) -> bytes:
    """A span with so much in it."""
    span = RecordedSpan(b"", bytes(16), bytes(8), 1)
    span.set_attribute("more", more)
    return span.encode()


class Watched(RecordedSpan):
    """Notes that it was made into bytes."""

    __slots__ = ("times",)

    def encode(self, *, is_remote: bool = True) -> bytes:
        self.times = getattr(self, "times", 0) + 1
        return super().encode(is_remote=is_remote)


def test_what_finds_the_outbox_full_is_not_even_encoded() -> None:
    hangs = threading.Event()
    outbox = ExportQueue(lambda _: hangs.wait(60), max_size=3, delay_seconds=3600)
    telemetry = SpanRecorder(
        outbox, stream=STREAM, consumer_group=GROUP, consumer="pod-a", server=lambda: ("redis", 6379)
    )
    spans = [Watched(b"", bytes(16), bytes(8), 1) for _ in range(10)]
    for span in spans:
        telemetry._export(span)
    assert [getattr(span, "times", 0) for span in spans] == [1] * 3 + [0] * 7
    assert outbox.dropped == 7
    records = ExceptionLogs(outbox, {})
    records.record(spans[0], Untold(), {})
    assert outbox.dropped == 8
    hangs.set()
    assert telemetry.flush(5)
    assert (outbox.sent, outbox.dropped) == (3, 8)
    assert outbox.close(5)


class Untold(Exception):
    """Nobody may ask it what it is."""

    def __str__(self) -> str:
        raise AssertionError("it was asked")


def eventually_not_behind(outbox: ExportQueue, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while outbox.is_backlogged and time.monotonic() < deadline:
        time.sleep(0.01)
    return not outbox.is_backlogged


def test_an_outbox_is_half_full_by_size_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few large spans fill 32 MiB long before there are many."""
    monkeypatch.setattr(
        "streamconsumer.processor.telemetry.export_queue.HEALTHY_EXPORT_SECONDS", 60
    )  # however slow this machine
    began, hangs = threading.Event(), threading.Event()

    def send(_: Sequence[bytes]) -> bool:
        began.set()
        return hangs.wait(60)

    outbox = ExportQueue(send, max_size=1000, batch_size=1000, delay_seconds=3600)
    for _ in range(15):
        outbox.put(b"x" * (1 << 20))
    assert began.wait(60), "what is large is sent at once"
    assert not outbox.is_backlogged
    for _ in range(3):
        outbox.put(b"x" * (1 << 20))
    assert outbox.is_backlogged
    hangs.set()
    assert outbox.close(60)


def test_a_collector_that_hangs_holds_nobody_up() -> None:
    hangs = threading.Event()
    outbox = ExportQueue(lambda _: hangs.wait(60), max_size=100, batch_size=10, delay_seconds=3600)
    began = time.monotonic()
    for _ in range(1000):
        outbox.put(b"span")
    assert eventually_not_behind(outbox, HEALTHY_EXPORT_SECONDS + 10)
    assert not outbox.close(0.2)
    assert time.monotonic() - began < 30
    assert (outbox.sent, outbox.dropped) == (0, 1000)
    hangs.set()


# -- the semantic conventions -----------------------------------------------------------------------------------------

OPERATIONS = {"send": "PRODUCER", "receive": "CLIENT", "process": "CONSUMER", "settle": "CLIENT"}


CONSTANT = re.compile(r'^([A-Z_0-9]+): Final = "([^"]+)"\n(?:"""(.*?)""")?', re.MULTILINE | re.DOTALL)


def registry() -> dict[str, str]:
    """Every attribute that the installed conventions know, and `deprecated` or nothing. The stable package counts: the
    incubating one calls deprecated what has moved there."""
    known: dict[str, str] = {}
    for package in ("opentelemetry.semconv._incubating.attributes", "opentelemetry.semconv.attributes"):
        folder = importlib.import_module(package)
        for module in pkgutil.iter_modules(folder.__path__):
            found = importlib.import_module(f"{package}.{module.name}")
            text = Path(str(found.__file__)).read_text(encoding="utf-8")
            for name, key, told in CONSTANT.findall(text):
                assert getattr(found, name) == key
                known[key] = "deprecated" if told.lstrip().startswith("Deprecated") else ""
    return known


def violations(spans: list[Span]) -> Iterator[str]:
    """What the conventions for messaging 1.44 would say of them."""
    known = registry()
    for span in spans:
        told = span.attributes
        keys = {*told, *(key for link in span.links for key in link.attributes)}
        ours = {key for key in keys if key.startswith("streamconsumer.")}
        yield from (f"unknown attribute {key}" for key in keys - ours - known.keys())
        yield from (f"deprecated attribute {key}" for key in keys & known.keys() if known[key])
        name, kind = told.get("messaging.operation.name"), told.get("messaging.operation.type", "")
        if span.name != f"{name} {told.get('messaging.destination.name')}":
            yield f"name {span.name}"
        if OPERATIONS.get(kind) != span.kind:
            yield f"kind {span.kind} of {kind}"
        if told.get("messaging.system") != "redis" or "server.address" not in told:
            yield "no system or address"
        if (span.status_code == "ERROR") != ("error.type" in told):
            yield "an error without its type"
        if span.status_code == "OK":
            yield "a status of OK"
        if kind == "process" and span.parent_span_id and not span.links:
            yield "no link to where the message was made"
        if "messaging.message.id" in told and "messaging.batch.message_count" in told:
            yield "one message and a batch"
        if span.schema_url != "https://opentelemetry.io/schemas/1.44.0":
            yield f"schema {span.schema_url}"


async def test_everything_that_is_emitted_follows_the_conventions(
    group: Group, kit: TelemetryKit, collector: Collector
) -> None:
    """Spans of all kinds: handled, failed, taken over, buried, acknowledged alone and together, in batches."""
    group.delivery = Delivery(terminal_errors=["ValueError"])
    await group.create_group()
    await group.add(5, {"traceparent": f"{WELL_FORMED}01"})
    await group.read_as("stranger", 5)
    await group.add(5, {"traceparent": f"{WELL_FORMED}01"})
    handler = Recorder(lambda message: ValueError("no") if message.deliveries == 2 else None)
    processor = await group.start(handler, min_idle=1, settings={"telemetry": kit.telemetry})
    await eventually(lambda: processor.metrics.dead_lettered == 5)
    await processor.stop_listening()

    async def refuse(batch: list[dict[str, str]]) -> None:
        raise Reject

    await group.add(5, {"traceparent": f"{WELL_FORMED}01"})
    await group.start(refuse, "pod-b", settings={"telemetry": kit.telemetry, "batch": True})
    await group.wait_settled()
    assert kit.telemetry.flush()
    await wait_for_named_spans(collector, f"claim {STREAM}")
    await wait_for_named_spans(collector, "send {orders}:billing:dead-letters", 10)
    spans = await asyncio.to_thread(collector.wait_for_spans)
    assert {span.name.partition(" ")[0] for span in spans} == {"process", "claim", "ack", "send"}
    assert list(violations(spans)) == []


def test_the_check_does_bite() -> None:
    """What FastStream and a careless loop emit."""
    careless = Span(
        name="orders process",
        kind="CLIENT",
        trace_id=TRACE,
        span_id=PARENT,
        parent_span_id=PARENT,
        attributes={
            "messaging.system": "redis",
            "messaging.operation": "process",
            "messaging.operation.type": "process",
            "messaging.redis.group": "billing",
        },
        links=(),
        events=(),
        status_code="OK",
        status_message="",
        start_ns=0,
        end_ns=0,
        resource={},
        scope_name="",
        schema_url="",
    )
    found = set(violations([careless]))
    assert {"deprecated attribute messaging.operation", "unknown attribute messaging.redis.group"} <= found
    assert {"name orders process", "kind CLIENT of process", "a status of OK", "schema "} <= found
    assert "no link to where the message was made" in found
    assert "an error without its type" in set(violations([replace(careless, status_code="ERROR")]))
