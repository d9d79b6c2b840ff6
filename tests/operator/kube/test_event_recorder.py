"""Events are written when there is time. The API server is a list here; that they arrive is for test_operator.py."""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

import pytest

from streamconsumer.operator.kube import event_recorder
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.kube.event_recorder import EventRecorder
from streamconsumer.operator.manifests import Manifest
from tests.model.examples import manifest, stored


class Written(KubeClient):
    """Keeps the sentences, and says when there are as many as wanted."""

    def __init__(self, refused: str = "") -> None:
        self.sentences: list[str] = []
        self.refused, self.changed = refused, asyncio.Event()

    async def create_event(
        self, regarding: Manifest, *, reason: str, message: str, warning: bool, at: datetime
    ) -> None:
        assert at <= datetime.now(UTC)
        assert set(regarding) == {"metadata"}
        if message == self.refused:
            raise PermissionError("events is forbidden")
        self.sentences.append(message)
        self.changed.set()

    async def are(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.sentences) < count:
                self.changed.clear()
                await self.changed.wait()


def told(given: EventRecorder, *sentences: str) -> None:
    for sentence in sentences:
        given.record(manifest(), "Created", sentence, warning=False)


async def test_events_are_written_in_order_in_the_background() -> None:
    cluster = Written()
    given = EventRecorder(cluster)
    told(given, "one", "two")
    assert cluster.sentences == []
    writing = asyncio.create_task(given.run())
    await cluster.are(2)
    told(given, "three")
    await cluster.are(3)
    writing.cancel()
    assert cluster.sentences == ["one", "two", "three"]


async def test_an_event_that_cannot_be_written_does_not_block_the_next_one() -> None:
    cluster = Written(refused="one")
    given = EventRecorder(cluster)
    writing = asyncio.create_task(given.run())
    told(given, "one", "two")
    await cluster.are(1)
    writing.cancel()
    assert cluster.sentences == ["two"]


async def test_events_beyond_the_maximum_queue_length_are_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cluster = Written()
    given = EventRecorder(cluster)
    told(given, *(str(number) for number in range(event_recorder.MAX_QUEUED + 5)))
    writing = asyncio.create_task(given.run())
    await cluster.are(event_recorder.MAX_QUEUED)
    writing.cancel()
    assert len(cluster.sentences) == event_recorder.MAX_QUEUED
    assert len([each for each in caplog.records if each.levelno == logging.INFO]) == event_recorder.MAX_QUEUED + 5


async def test_event_notes_are_truncated_to_1024_bytes_between_characters() -> None:
    """1,024 bytes, and no letter torn apart."""

    class Recorder:
        note = ""

        async def request_json(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
            self.note = arguments["body"]["note"]
            return {}

    api = Recorder()
    about = stored(manifest())
    cluster = KubeClient(api)  # type: ignore[arg-type] # as much of it as is needed
    await cluster.create_event(about, reason="Created", message="ü" * 900, warning=False, at=datetime.now(UTC))
    assert 1000 < len(api.note.encode()) <= 1024
    assert set(api.note) == {"ü"}
