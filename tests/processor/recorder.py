"""A handler that remembers what it was given."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from streamconsumer.processor import Message, current_message
from tests.processor.eventually import TIMEOUT_SECONDS, eventually


class Recorder:
    """Remembers each message; goes no further while `gate` is closed; then raises what `failing` says, if anything."""

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
        """How often each message was begun."""
        return Counter(self.ids)

    async def wait_until_received(self, count: int, within: float = TIMEOUT_SECONDS) -> None:
        await eventually(lambda: len(self.received) >= count, within)

    async def wait_until_finished(self, count: int, within: float = TIMEOUT_SECONDS) -> None:
        await eventually(lambda: len(self.finished) >= count, within)


def fail_first_delivery(error: BaseException) -> Callable[[Message], BaseException | None]:
    """Fails the first delivery of each message."""
    return lambda message: error if message.deliveries == 1 else None


def fail_every_delivery(error: BaseException) -> Callable[[Message], BaseException | None]:
    return lambda _: error
