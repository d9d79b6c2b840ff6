"""Handlers that record their messages: `Recorder` for single messages, `BatchRecorder` for batches."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from streamconsumer.processor import Message, current_message, current_messages
from tests.processor.eventually import TIMEOUT_SECONDS, eventually


class Recorder:
    """Records each message, waits while `gate` is closed, then raises the error that `failing` returns, if any."""

    def __init__(self, failing: Callable[[Message], BaseException | None] | None = None, *, gate: bool = True) -> None:
        self.received: list[Message] = []
        self.finished: list[str] = []
        self.cancelled: list[str] = []
        self.running = 0
        self.max_running = 0
        self.gate = asyncio.Event()
        self._failing = failing
        if gate:
            self.gate.set()

    async def __call__(self, data: dict[str, Any]) -> None:
        message = current_message()
        assert message.data == data
        self.received.append(message)
        self.running += 1
        self.max_running = max(self.running, self.max_running)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(message.message_id)
            raise
        finally:
            self.running -= 1
        if self._failing and (error := self._failing(message)):
            raise error
        self.finished.append(message.message_id)

    @property
    def ids(self) -> list[str]:
        return [message.message_id for message in self.received]

    @property
    def attempt_counts(self) -> Counter[str]:
        """Number of started attempts per message id."""
        return Counter(self.ids)

    async def wait_until_received(self, count: int, within: float = TIMEOUT_SECONDS) -> None:
        await eventually(lambda: len(self.received) >= count, within)

    async def wait_until_finished(self, count: int, within: float = TIMEOUT_SECONDS) -> None:
        await eventually(lambda: len(self.finished) >= count, within)


class BatchRecorder:
    """Records each batch, waits while `gate` is closed, then raises the error that `failing` returns, if any."""

    def __init__(
        self, failing: Callable[[list[Message]], BaseException | None] | None = None, *, gate: bool = True
    ) -> None:
        self.batches: list[list[Message]] = []
        self.finished: list[str] = []
        self.cancelled = 0
        self.gate = asyncio.Event()
        self._failing = failing
        if gate:
            self.gate.set()

    async def __call__(self, batch: list[dict[str, Any]]) -> None:
        messages = current_messages()
        assert [message.data for message in messages] == batch
        self.batches.append(messages)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self._failing and (error := self._failing(messages)):
            raise error
        self.finished += [message.message_id for message in messages]

    @property
    def ids(self) -> list[list[str]]:
        return [[message.message_id for message in batch] for batch in self.batches]

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]

    async def wait_until_started(self, batches: int) -> None:
        await eventually(lambda: len(self.batches) >= batches)

    async def wait_until_finished(self, messages: int, within: float = TIMEOUT_SECONDS) -> None:
        await eventually(lambda: len(self.finished) >= messages, within)


def fail_first_delivery(error: BaseException) -> Callable[[Message], BaseException | None]:
    """Fail the first delivery of each message."""
    return lambda message: error if message.deliveries == 1 else None


def fail_every_delivery(error: BaseException) -> Callable[[Message], BaseException | None]:
    return lambda _: error
