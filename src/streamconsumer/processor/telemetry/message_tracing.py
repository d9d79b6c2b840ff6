"""What the loop and those beside it ask of telemetry: one call when an attempt begins, one when it ends, and a few for
what is rare."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from streamconsumer.processor.message import Entry, Message


class MessageTracing(Protocol):
    """`Telemetry`, or `ProvidedTelemetry`."""

    dead_letter_stream: str
    """Told by the intake."""

    def on_ready(self, clock_offset_ns: int) -> None:
        """The group is there, and the first read comes next. By so much the server's clock is ahead of this
        machine's."""

    def start_attempt(self, entry: Entry, data: Mapping[Any, Any]) -> Any:
        """The span of an attempt, current from here on. None: there is nothing to end."""

    def end_attempt(self, attempt: Any, entry: Entry, outcome: str, error: BaseException | None = None) -> None:
        """`outcome` is one of `names.OUTCOMES`, or nothing where that is not known."""

    def start_batch(self, entries: Sequence[Entry], messages: Sequence[Message]) -> Any:
        """The span of one call for a batch."""

    def end_batch(self, attempt: Any, entries: Sequence[Entry], error: BaseException | None = None) -> None:
        """The error is that of all of it."""

    def on_received(self, entries: Sequence[Entry]) -> None:
        """This process has them."""

    @property
    def trace_fields(self) -> frozenset[str | bytes] | None:
        """The fields that give a message a span or a context to hand on, where none else has any. None: all may."""

    @property
    def is_backlogged(self) -> bool:
        """Whether more is recorded than is sent, and `catch_up` would help."""

    async def wait_for_export(self) -> None:
        """For a moment, before more is read."""

    def on_claimed(self, entries: Sequence[Entry], start_ns: int) -> None:
        """Entries of another consumer are ours."""

    def on_acknowledged(self, message_ids: Collection[str], start_ns: int) -> None:
        """XACK was answered."""

    def on_dead_lettered(self, entry: Entry, start_ns: int, *, was_started: bool) -> None:
        """It is a dead letter. `was_begun`: by a process that died of it, perhaps."""
