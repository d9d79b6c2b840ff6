"""Events are written in the background. `test_operator.py` tests their arrival at a real API server."""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

import pytest

from streamconsumer.operator.kube import event_recorder
from streamconsumer.operator.kube.client import MAX_NOTE_BYTES, KubeClient
from streamconsumer.operator.kube.event_recorder import EventRecorder
from streamconsumer.operator.manifests import Manifest
from tests.model.examples import manifest, stored


class RecordingKubeClient(KubeClient):
    """A client that records the messages of Events."""

    def __init__(self, rejected: str = "") -> None:
        self.messages: list[str] = []
        self.rejected, self.changed = rejected, asyncio.Event()

    async def create_event(
        self, regarding: Manifest, *, reason: str, message: str, warning: bool, at: datetime
    ) -> None:
        assert at <= datetime.now(UTC)
        assert (set(regarding), set(regarding["metadata"])) == ({"metadata"}, {"namespace", "name", "uid"})
        assert len(message) <= MAX_NOTE_BYTES
        if message == self.rejected:
            raise PermissionError("events is forbidden")
        self.messages.append(message)
        self.changed.set()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.messages) < count:
                self.changed.clear()
                await self.changed.wait()


def record_all(recorder: EventRecorder, *messages: str) -> None:
    for message in messages:
        recorder.record(manifest(), "Created", message, warning=False)


async def test_events_are_written_in_order_in_the_background() -> None:
    client = RecordingKubeClient()
    recorder = EventRecorder(client)
    record_all(recorder, "one", "two")
    assert client.messages == []
    writing = asyncio.create_task(recorder.run())
    await client.wait_for(2)
    record_all(recorder, "three")
    await client.wait_for(3)
    writing.cancel()
    assert client.messages == ["one", "two", "three"]


async def test_a_queued_event_contains_only_the_beginning_of_a_long_message() -> None:
    """An error of the API server quotes invalid values, which may have a megabyte."""
    client = RecordingKubeClient()
    recorder = EventRecorder(client)
    record_all(recorder, "x" * 1_000_000)
    writing = asyncio.create_task(recorder.run())
    await client.wait_for(1)
    writing.cancel()


async def test_an_event_that_cannot_be_written_does_not_block_the_next_one() -> None:
    client = RecordingKubeClient(rejected="one")
    recorder = EventRecorder(client)
    writing = asyncio.create_task(recorder.run())
    record_all(recorder, "one", "two")
    await client.wait_for(1)
    writing.cancel()
    assert client.messages == ["two"]


async def test_events_beyond_the_maximum_queue_length_are_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    client = RecordingKubeClient()
    recorder = EventRecorder(client)
    record_all(recorder, *(str(number) for number in range(event_recorder.MAX_QUEUED + 5)))
    writing = asyncio.create_task(recorder.run())
    await client.wait_for(event_recorder.MAX_QUEUED)
    writing.cancel()
    assert len(client.messages) == event_recorder.MAX_QUEUED
    assert len([each for each in caplog.records if each.levelno == logging.INFO]) == event_recorder.MAX_QUEUED + 5


async def test_event_notes_are_truncated_to_1024_bytes_between_characters() -> None:
    """The API server accepts 1,024 bytes."""

    class RecordingApi:
        note = ""

        async def request_json(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
            self.note = arguments["body"]["note"]
            return {}

    api = RecordingApi()
    regarding = stored(manifest())
    client = KubeClient(api)  # type: ignore[arg-type] # the only method that create_event calls
    await client.create_event(regarding, reason="Created", message="ü" * 900, warning=False, at=datetime.now(UTC))
    assert 1000 < len(api.note.encode()) <= 1024
    assert set(api.note) == {"ü"}
