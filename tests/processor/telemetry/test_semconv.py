"""Recorded spans follow the semantic conventions for messaging 1.44."""

import asyncio
import importlib
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor import Reject
from tests.cluster.collector import Collector
from tests.cluster.spans import Span
from tests.processor.eventually import eventually
from tests.processor.group import STREAM, Group
from tests.processor.recorder import Recorder
from tests.processor.telemetry.telemetry_kit import TelemetryKit, wait_for_named_spans

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
WELL_FORMED = f"00-{TRACE}-{PARENT}-"

OPERATIONS = {"send": "PRODUCER", "receive": "CLIENT", "process": "CONSUMER", "settle": "CLIENT"}


CONSTANT = re.compile(r'^([A-Z_0-9]+): Final = "([^"]+)"\n(?:"""(.*?)""")?', re.MULTILINE | re.DOTALL)


def registry() -> dict[str, str]:
    """Return every attribute of the installed conventions, each with `deprecated` or an empty string.

    The stable package overrides the incubating one, which marks attributes as deprecated that moved to the stable one.
    """
    registered: dict[str, str] = {}
    for package in ("opentelemetry.semconv._incubating.attributes", "opentelemetry.semconv.attributes"):
        folder = importlib.import_module(package)
        for module in pkgutil.iter_modules(folder.__path__):
            attributes = importlib.import_module(f"{package}.{module.name}")
            text = Path(str(attributes.__file__)).read_text(encoding="utf-8")
            for name, key, docstring in CONSTANT.findall(text):
                assert getattr(attributes, name) == key
                registered[key] = "deprecated" if docstring.lstrip().startswith("Deprecated") else ""
    return registered


def violations(spans: list[Span]) -> Iterator[str]:
    """Yield each violation of the conventions for messaging 1.44."""
    registered = registry()
    for span in spans:
        attributes = span.attributes
        keys = {*attributes, *(key for link in span.links for key in link.attributes)}
        own_keys = {key for key in keys if key.startswith("streamconsumer.")}
        yield from (f"unregistered attribute {key}" for key in keys - own_keys - registered.keys())
        yield from (f"deprecated attribute {key}" for key in keys & registered.keys() if registered[key])
        name, kind = attributes.get("messaging.operation.name"), attributes.get("messaging.operation.type", "")
        if span.name != f"{name} {attributes.get('messaging.destination.name')}":
            yield f"name {span.name}"
        if OPERATIONS.get(kind) != span.kind:
            yield f"kind {span.kind} of {kind}"
        if attributes.get("messaging.system") != "redis" or "server.address" not in attributes:
            yield "no system or address"
        if (span.status_code == "ERROR") != ("error.type" in attributes):
            yield "an error without its type"
        if span.status_code == "OK":
            yield "a status of OK"
        if kind == "process" and span.parent_span_id and not span.links:
            yield "no link to the producer"
        if "messaging.message.id" in attributes and "messaging.batch.message_count" in attributes:
            yield "one message and a batch"
        if span.schema_url != "https://opentelemetry.io/schemas/1.44.0":
            yield f"schema {span.schema_url}"


async def test_all_spans_follow_the_conventions(
    group: Group, telemetry_kit: TelemetryKit, collector: Collector
) -> None:
    """Covers success, failure, claims, dead letters, single and joint acknowledgements, and batches."""
    group.delivery = Delivery(terminal_errors=["ValueError"])
    await group.create_group()
    await group.add(5, {"traceparent": f"{WELL_FORMED}01"})
    await group.read_as("stranger", 5)
    await group.add(5, {"traceparent": f"{WELL_FORMED}01"})
    handler = Recorder(lambda message: ValueError("no") if message.deliveries == 2 else None)
    processor = await group.start(handler, min_idle=1, settings={"telemetry": telemetry_kit.telemetry})
    await eventually(lambda: processor.metrics.dead_lettered == 5)
    await processor.stop_listening()

    async def refuse(batch: list[dict[str, str]]) -> None:
        raise Reject

    await group.add(5, {"traceparent": f"{WELL_FORMED}01"})
    await group.start(refuse, "pod-b", settings={"telemetry": telemetry_kit.telemetry, "batch": True})
    await group.wait_settled()
    assert telemetry_kit.telemetry.flush()
    await wait_for_named_spans(collector, f"claim {STREAM}")
    await wait_for_named_spans(collector, "send {orders}:billing:dead-letters", 10)
    spans = await asyncio.to_thread(collector.wait_for_spans)
    names = {span.name.partition(" ")[0] for span in spans} - {"start"}  # the collector may receive it late
    assert names == {"process", "claim", "ack", "send"}
    assert list(violations(spans)) == []


def test_check_finds_violations() -> None:
    """The span is like those of FastStream and of a careless consume loop."""
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
    problems = set(violations([careless]))
    assert {"deprecated attribute messaging.operation", "unregistered attribute messaging.redis.group"} <= problems
    assert {"name orders process", "kind CLIENT of process", "a status of OK", "schema "} <= problems
    assert "no link to the producer" in problems
    assert "an error without its type" in set(violations([replace(careless, status_code="ERROR")]))
