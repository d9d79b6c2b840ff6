"""Parser of the spans that the collector writes: OTLP in JSON, one request for each line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
STATUS_CODES = ("UNSET", "OK", "ERROR")


@dataclass(frozen=True)
class Link:
    trace_id: str
    span_id: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Event:
    name: str
    attributes: dict[str, Any]
    at_ns: int


@dataclass(frozen=True)
class Span:
    """Finished span. Ids are lower-case hexadecimal. `parent_span_id` is empty for a root."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_span_id: str
    attributes: dict[str, Any]
    links: tuple[Link, ...]
    events: tuple[Event, ...]
    status_code: str
    status_message: str
    start_ns: int
    end_ns: int
    resource: dict[str, Any]
    scope_name: str
    schema_url: str

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


def parse_spans(text: str) -> list[Span]:
    """Return the spans in the text of a collector's file, which may have been copied out of a pod.

    Ignores an unfinished last line, which the collector is still writing.
    """
    complete = text[: text.rfind("\n") + 1]
    return [span for line in complete.splitlines() if line for span in _spans(json.loads(line))]


def _spans(request: dict[str, Any]) -> Iterator[Span]:
    for of_resource in request.get("resourceSpans", []):
        resource = attributes(of_resource.get("resource", {}))
        for of_scope in of_resource.get("scopeSpans", []):
            schema_url = of_scope.get("schemaUrl") or of_resource.get("schemaUrl", "")
            for span in of_scope.get("spans", []):
                yield _span(span, resource, of_scope.get("scope", {}).get("name", ""), schema_url)


def _span(span: dict[str, Any], resource: dict[str, Any], scope: str, schema_url: str) -> Span:
    status = span.get("status", {})
    return Span(
        name=span.get("name", ""),
        kind=KINDS[span.get("kind", 0)],
        trace_id=span["traceId"],
        span_id=span["spanId"],
        parent_span_id=span.get("parentSpanId", ""),
        attributes=attributes(span),
        links=tuple(Link(link["traceId"], link["spanId"], attributes(link)) for link in span.get("links", [])),
        events=tuple(
            Event(event.get("name", ""), attributes(event), int(event.get("timeUnixNano", 0)))
            for event in span.get("events", [])
        ),
        status_code=STATUS_CODES[status.get("code", 0)],
        status_message=status.get("message", ""),
        start_ns=int(span["startTimeUnixNano"]),
        end_ns=int(span["endTimeUnixNano"]),
        resource=resource,
        scope_name=scope,
        schema_url=schema_url,
    )


def attributes(holder: dict[str, Any]) -> dict[str, Any]:
    return {pair["key"]: _value(pair.get("value", {})) for pair in holder.get("attributes", [])}


def _value(value: dict[str, Any]) -> Any:
    """Return the Python value of an OTLP AnyValue. 64-bit integers are strings in JSON."""
    for kind, content in value.items():
        if kind == "intValue":
            return int(content)
        if kind == "arrayValue":
            return [_value(item) for item in content.get("values", [])]
        if kind == "kvlistValue":
            return {pair["key"]: _value(pair["value"]) for pair in content.get("values", [])}
        return content
    return None
