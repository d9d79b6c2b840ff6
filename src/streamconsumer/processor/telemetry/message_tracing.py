"""Tracing interface of the processor: one call when an attempt starts, one when it ends, and a few for rare events."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from streamconsumer.processor.message import Entry, Message


class MessageTracing(Protocol):
    """Implemented by `SpanRecorder` and `TracerProviderTracing`."""

    dead_letter_stream: str
    """Name of the dead-letter stream, set by the consumer. Empty with a user's own stream manager."""

    def on_ready(self, clock_offset_ns: int) -> None:
        """Record that the group exists and the first read is next.

        `clock_offset_ns` is how far the server's clock is ahead of this machine's.
        """

    def start_attempt(self, entry: Entry, data: Mapping[Any, Any]) -> Any:
        """Start the span of an attempt and make it current. Returns None if there is no span to end."""

    def end_attempt(self, attempt: Any, entry: Entry, outcome: str, error: BaseException | None = None) -> None:
        """End the span of an attempt. `outcome` is one of `semconv.OUTCOMES`, or empty if unknown."""

    def start_batch(self, entries: Sequence[Entry], messages: Sequence[Message]) -> Any:
        """Start the span of one batch call and make it current."""

    def end_batch(self, attempt: Any, entries: Sequence[Entry], error: BaseException | None = None) -> None:
        """End the span of a batch call. `error` is set if the whole batch failed."""

    def on_received(self, entries: Sequence[Entry]) -> None:
        """Record that this process received the entries."""

    @property
    def trace_fields(self) -> frozenset[str | bytes] | None:
        """Entry fields without which a message gets neither a span nor a context. None if every message may."""

    @property
    def is_backlogged(self) -> bool:
        """True if spans are recorded faster than sent and `wait_for_export` would help."""

    async def wait_for_export(self) -> None:
        """Pause reading briefly so that the export queue can drain."""

    def on_claimed(self, entries: Sequence[Entry], start_ns: int) -> None:
        """Record that entries of another consumer were claimed."""

    def on_acknowledged(self, message_ids: Collection[str], start_ns: int) -> None:
        """Record that Redis replied to XACK."""

    def on_dead_lettered(self, entry: Entry, start_ns: int, *, was_started: bool) -> None:
        """Record that an entry was dead-lettered. `was_started`: an earlier process started it and may have crashed."""
