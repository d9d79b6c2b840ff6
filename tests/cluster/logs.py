"""Parser of the log records that the collector writes: OTLP in JSON, one request for each line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.cluster.spans import attributes


@dataclass(frozen=True)
class LogRecord:
    """Log record. Ids are lower-case hexadecimal."""

    event_name: str
    severity: str
    severity_number: int
    trace_id: str
    span_id: str
    flags: int
    at_ns: int
    attributes: dict[str, Any]
    scope_name: str
    schema_url: str


def parse_records(text: str) -> list[LogRecord]:
    """Return the records in the text of a collector's file. Ignore an unfinished last line, which is being written."""
    complete = text[: text.rfind("\n") + 1]
    return [
        LogRecord(
            event_name=record.get("eventName", ""),
            severity=record.get("severityText", ""),
            severity_number=record.get("severityNumber", 0),
            trace_id=record.get("traceId", ""),
            span_id=record.get("spanId", ""),
            flags=record.get("flags", 0),
            at_ns=int(record.get("timeUnixNano", 0)),
            attributes=attributes(record),
            scope_name=of_scope.get("scope", {}).get("name", ""),
            schema_url=of_scope.get("schemaUrl", ""),
        )
        for line in complete.splitlines()
        if line
        for of_resource in json.loads(line).get("resourceLogs", [])
        for of_scope in of_resource.get("scopeLogs", [])
        for record in of_scope.get("logRecords", [])
    ]
