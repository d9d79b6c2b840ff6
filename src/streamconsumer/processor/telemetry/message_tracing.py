"""Tracing interface of the processor, with calls for the start and the end of an attempt and for rare events."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from streamconsumer.processor.message import Entry, Message


class MessageTracing(Protocol):
    """Tracing interface that `SpanRecorder` and `TracerProviderTracing` implement."""

    dead_letter_stream: str
    """Name of the dead-letter stream, set by the consumer. Empty for a custom stream manager."""

    def on_ready(self, clock_offset_ns: int) -> None:
        """Record that the group exists and that the first read follows.

        `clock_offset_ns` is the time by which the server's clock is ahead of this machine's clock.
        """

    def start_attempt(self, entry: Entry, data: Mapping[Any, Any]) -> Any:
        """Start the span of an attempt and make it the current span. Returns None if no span was started."""

    def end_attempt(self, attempt: Any, entry: Entry, outcome: str, error: BaseException | None = None) -> None:
        """End the span of an attempt. `outcome` is one of `semconv.OUTCOMES`, or empty if unknown."""

    def start_batch(self, entries: Sequence[Entry], messages: Sequence[Message]) -> Any:
        """Start the span of a handler call with one batch, and make it the current span."""

    def end_batch(self, attempt: Any, entries: Sequence[Entry], error: BaseException | None = None) -> None:
        """End the span of a handler call with one batch. `error` is set if the whole batch failed."""

    def on_received(self, entries: Sequence[Entry]) -> None:
        """Record that this process received the entries."""

    @property
    def trace_fields(self) -> frozenset[str | bytes] | None:
        """Name of the trace context field, as text and as bytes. None if any message can get a span.

        A message without the trace context field gets no span and no context.
        """

    @property
    def is_backlogged(self) -> bool:
        """True if spans are recorded faster than they are sent, and a pause in `wait_for_export` would let the queue
        drain."""

    async def wait_for_export(self) -> None:
        """Pause reading briefly so that the export queue can drain."""

    def on_claimed(self, entries: Sequence[Entry], start_ns: int) -> None:
        """Record that entries of another consumer were claimed."""

    def on_acknowledged(self, message_ids: Collection[str], start_ns: int) -> None:
        """Record that Redis has replied to the XACK of these messages. `start_ns` is the time at which the XACK was
        sent."""

    def on_dead_lettered(self, entry: Entry, start_ns: int, *, was_started: bool) -> None:
        """Record that an entry was dead-lettered.

        `was_started` is True if an earlier process started an attempt and may have crashed during this attempt.
        """
