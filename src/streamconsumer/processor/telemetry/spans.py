"""Span of an attempt, with OpenTelemetry's span interface for the handler. The span is encoded when the attempt ends.

A handler may add attributes, events and links to the current span, and start child spans with any SDK. OpenTelemetry
objects are built only on demand, because few handlers use them.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.util.types import Attributes, AttributeValue

from streamconsumer.processor.error_logging import format_error
from streamconsumer.processor.telemetry import otlp_encoding, semconv
from streamconsumer.processor.telemetry.content import Link
from streamconsumer.processor.telemetry.trace_context import SpanRef

MAX_EVENTS = 128
"""Maximum number of events, and maximum number of links, that a handler can add to its span. Same as in the SDK."""

MAX_STATUS_LENGTH = 500
"""Maximum length of a status message in characters."""


class UnsampledSpan(trace.Span):
    """Span that is not recorded. While it is the current span, spans that the handler starts are its children, and are
    not recorded either."""

    __slots__ = ("_context", "flags", "parent", "span_id", "state", "trace_id")

    def __init__(self, trace_id: bytes, span_id: bytes, flags: int, *, parent: bytes = b"", state: str = "") -> None:
        self.trace_id, self.span_id, self.flags, self.parent, self.state = trace_id, span_id, flags, parent, state
        self._context: SpanContext | None = None

    def get_span_context(self) -> SpanContext:
        if self._context is None:
            numbers = int.from_bytes(self.trace_id, "big"), int.from_bytes(self.span_id, "big")
            state = TraceState.from_header([self.state]) if self.state else None
            self._context = SpanContext(
                *numbers, is_remote=False, trace_flags=TraceFlags(self.flags), trace_state=state
            )
        return self._context

    @property
    def ref(self) -> SpanRef:
        """Reference to this span for links from other spans."""
        return SpanRef(self.trace_id, self.span_id, self.flags, self.state)

    def is_recording(self) -> bool:
        return False

    def end(self, end_time: int | None = None) -> None:
        pass

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        pass

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        pass

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        pass

    def update_name(self, name: str) -> None:
        pass

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        pass

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        pass


class RecordedSpan(UnsampledSpan):
    """Span that is recorded. The processor ends the span with `encode`. If a handler calls `end`, nothing happens."""

    __slots__ = ("_added", "_events", "_links", "_status", "head", "parts", "start_ns")

    def __init__(
        self, head: bytes, trace_id: bytes, span_id: bytes, flags: int, *, parent: bytes = b"", state: str = ""
    ) -> None:
        super().__init__(trace_id, span_id, flags, parent=parent, state=state)
        self.head, self.start_ns = head, time.time_ns()
        self.parts: list[bytes] = []
        """Encoded attributes and links that the processor has added."""
        self._added: dict[str, Any] | None = None
        self._events: list[bytes] | None = None
        self._links: list[bytes] | None = None
        self._status: bytes = b""

    def is_recording(self) -> bool:
        return True

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        self._added = {**(self._added or {}), **attributes}

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self.set_attributes({key: value})

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        self._events = [] if self._events is None else self._events
        if len(self._events) < MAX_EVENTS:
            self._events.append(otlp_encoding.event(name, timestamp or time.time_ns(), attributes or {}))

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        self._links = [] if self._links is None else self._links
        if len(self._links) < MAX_EVENTS:
            ids = context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")
            self._links.append(otlp_encoding.link(*ids, int(context.trace_flags), attributes or {}))

    def update_name(self, name: str) -> None:
        """Do nothing, because users search for spans by their fixed name."""

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        code = status.status_code if isinstance(status, Status) else status
        text = status.description if isinstance(status, Status) else description
        if code is StatusCode.ERROR:
            self._status = otlp_encoding.error_status((text or "")[:MAX_STATUS_LENGTH])
        elif code is StatusCode.OK:
            self._status = otlp_encoding.ok_status()

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: ARG002 - part of OpenTelemetry's interface
    ) -> None:
        kind, message = error_type(exception), format_error(exception)
        self.add_event(
            "exception", {"exception.type": kind, "exception.message": message, **(attributes or {})}, timestamp
        )

    def describe(self, attributes: Mapping[str, Any], links: Iterable[Link]) -> None:
        """Add the processor's attributes and links to the span."""
        self.parts.append(otlp_encoding.attributes(attributes))
        for (trace_id, span_id, flags, _), link_attributes in links:
            self.parts.append(otlp_encoding.link(trace_id, span_id, flags, link_attributes))

    def encode(self, *, is_remote: bool = True) -> bytes:
        """End the span now and encode it. `is_remote` is True if the parent is a span in another process."""
        parts = [self.head, *self.parts, self._status]
        if self._added:
            parts.append(otlp_encoding.attributes(self._added))
        parts += [*(self._events or ()), *(self._links or ())]
        times = self.start_ns, time.time_ns()
        return otlp_encoding.span(
            self.trace_id,
            self.span_id,
            self.flags,
            times,
            parts,
            parent=self.parent,
            is_remote=is_remote,
            state=self.state,
        )


def record_failure(span: trace.Span, error: BaseException) -> None:
    """Set the span's error status and its attribute `error.type`."""
    span.set_attribute(semconv.ERROR_TYPE, error_type(error))
    span.set_status(Status(StatusCode.ERROR, format_error(error)[:MAX_STATUS_LENGTH]))


def error_type(error: BaseException) -> str:
    """Return the class name of an exception, with the module unless the module is `builtins`."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
