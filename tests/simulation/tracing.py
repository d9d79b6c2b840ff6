"""Tracing that gives each attempt a span without content, and exports nothing."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from streamconsumer.processor.message import Entry, Message

SPAN = object()


class SimulatedTracing:
    """Implementation of `MessageTracing`."""

    dead_letter_stream = ""
    trace_fields: frozenset[str | bytes] | None = None
    is_backlogged = False

    def on_ready(self, clock_offset_ns: int) -> None:
        """Do nothing."""

    def start_attempt(self, entry: Entry, data: Mapping[Any, Any]) -> Any:
        """Return a span."""
        return SPAN

    def end_attempt(self, attempt: Any, entry: Entry, outcome: str, error: BaseException | None = None) -> None:
        """Do nothing."""

    def start_batch(self, entries: Sequence[Entry], messages: Sequence[Message]) -> Any:
        """Return a span."""
        return SPAN

    def end_batch(self, attempt: Any, entries: Sequence[Entry], error: BaseException | None = None) -> None:
        """Do nothing."""

    def on_received(self, entries: Sequence[Entry]) -> None:
        """Do nothing."""

    async def wait_for_export(self) -> None:
        """Do nothing."""

    def on_claimed(self, entries: Sequence[Entry], start_ns: int) -> None:
        """Do nothing."""

    def on_acknowledged(self, message_ids: Collection[str], start_ns: int) -> None:
        """Do nothing."""

    def on_dead_lettered(self, entry: Entry, start_ns: int, *, was_started: bool) -> None:
        """Do nothing."""
