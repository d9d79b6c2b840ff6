"""Events are written when there is time. The API server is a list here; that they arrive is for test_operator.py."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from streamconsumer.errors import ServerBusy
from streamconsumer.operator import events
from streamconsumer.operator.cluster import Cluster
from streamconsumer.operator.events import Events
from streamconsumer.operator.manifests import Manifest
from tests.model.examples import manifest, stored


class Written(Cluster):
    """Keeps the sentences, and says when there are as many as wanted."""

    def __init__(self, refused: str = "") -> None:
        self.sentences: list[str] = []
        self.refused, self.changed = refused, asyncio.Event()

    async def record(self, about: Manifest, *, reason: str, message: str, warning: bool, at: datetime) -> None:
        assert at <= datetime.now(UTC)
        assert set(about) == {"metadata"}
        if message == self.refused:
            raise PermissionError("events is forbidden")
        self.sentences.append(message)
        self.changed.set()

    async def are(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.sentences) < count:
                self.changed.clear()
                await self.changed.wait()


def told(given: Events, *sentences: str) -> None:
    for sentence in sentences:
        given.tell(manifest(), "Created", sentence, warning=False)


async def test_what_is_told_is_written_in_order_and_later() -> None:
    cluster = Written()
    given = Events(cluster)
    told(given, "one", "two")
    assert cluster.sentences == []
    writing = asyncio.create_task(given.write())
    await cluster.are(2)
    told(given, "three")
    await cluster.are(3)
    writing.cancel()
    assert cluster.sentences == ["one", "two", "three"]


async def test_one_that_cannot_be_written_keeps_no_other_from_it() -> None:
    cluster = Written(refused="one")
    given = Events(cluster)
    writing = asyncio.create_task(given.write())
    told(given, "one", "two")
    await cluster.are(1)
    writing.cancel()
    assert cluster.sentences == ["two"]


async def test_so_many_wait_and_the_rest_is_in_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cluster = Written()
    given = Events(cluster)
    told(given, *(str(number) for number in range(events.MOST + 5)))
    await given.flush()
    assert len(cluster.sentences) == events.MOST
    assert len([each for each in caplog.records if each.levelno == logging.INFO]) == events.MOST + 5


async def test_of_one_that_is_about_to_go_it_is_written_before_it_does_whatever_else_waits() -> None:
    cluster = Written()
    given = Events(cluster)
    told(given, "scaled")
    about: dict[str, Any] = manifest()
    await given.tell_now(about, "GroupDestroyed", "gone", warning=False)
    assert cluster.sentences == ["gone"]


async def test_a_warning_is_written_first_and_never_left_out_for_the_sake_of_another() -> None:
    cluster = Written()
    given = Events(cluster)
    told(given, *(str(number) for number in range(events.MOST)))
    given.tell(manifest(), "ImageUnavailable", "no such image", warning=True)
    await given.flush()
    assert cluster.sentences[0] == "no such image"
    assert len(cluster.sentences) == events.MOST


async def test_an_api_server_that_is_busy_is_asked_again_when_it_says() -> None:
    class Busy(Written):
        async def record(self, about: Manifest, **told: Any) -> None:
            if not self.refused:
                self.refused = "once"
                raise ServerBusy("429", timedelta(milliseconds=10))
            await super().record(about, **told)

    cluster = Busy()
    given = Events(cluster)
    writing = asyncio.create_task(given.write())
    told(given, "one", "two")
    await cluster.are(2)
    writing.cancel()
    assert cluster.sentences == ["one", "two"]


async def test_a_note_is_cut_to_what_the_api_server_takes_whatever_its_letters_are() -> None:
    """1,024 bytes, and no letter torn apart."""

    class Recorder:
        note = ""

        async def call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
            self.note = arguments["body"]["note"]
            return {}

    api = Recorder()
    about = stored(manifest())
    cluster = Cluster(api)  # type: ignore[arg-type] # as much of it as is needed
    await cluster.record(about, reason="Created", message="ü" * 900, warning=False, at=datetime.now(UTC))
    assert 1000 < len(api.note.encode()) <= 1024
    assert set(api.note) == {"ü"}
