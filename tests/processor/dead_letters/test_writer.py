"""Dead letters are sent in round trips of limited size, and each entry has its own result."""

from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import ResponseError

from streamconsumer.processor.dead_letters import writer
from streamconsumer.processor.dead_letters.writer import DeadLetterWriter, chunks_by_size
from streamconsumer.redis_client.outcome import Outcome
from streamconsumer.redis_client.replies import UnexpectedReply
from tests.processor.group import GROUP, STREAM, Group


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([5], [[0]]),
        ([10], [[0]]),
        ([11], [[0]]),
        ([5, 5, 5], [[0, 1, 2]]),
        ([5, 5, 1, 4, 7], [[0, 1, 2], [3, 4]]),
        ([11, 11, 1], [[0], [1], [2]]),
    ],
)
def test_dead_letters_are_split_above_the_size_of_a_round_trip(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], expected: list[list[int]]
) -> None:
    monkeypatch.setattr(writer, "MAX_CHUNK_BYTES", 10)
    dead_letters = [(str(number), [b"x", b"y" * (size - 1)]) for number, size in enumerate(sizes)]
    assert [[int(name) for name, _ in chunk] for chunk in chunks_by_size(dead_letters)] == expected


async def test_each_entry_has_its_own_result() -> None:
    refused = ResponseError("OOM")
    replies = [b"done", b"lost", b"trimmed", refused, b"unknown", None]

    async def answer(commands: Sequence[Sequence[Any]]) -> list[Any]:
        assert len(commands) == len(replies)
        return replies

    ids = [f"{number}-0" for number in range(len(replies))]
    dead_letters = DeadLetterWriter(answer, "orders", "billing", "dead", 10)
    *known, unknown, nothing = await dead_letters.write_many("pod-a", [(each, [b"n", b"1"]) for each in ids])
    assert known == [Outcome.DONE, Outcome.LOST, Outcome.TRIMMED, refused]
    assert isinstance(unknown, UnexpectedReply)
    assert isinstance(nothing, UnexpectedReply)


async def test_dead_letters_of_own_entries_are_written(group: Group) -> None:
    await group.create_group()
    mine, of_peer = await group.add(2)
    await group.read_as("pod-a")
    await group.claim([of_peer], "pod-b")
    dead_letters = DeadLetterWriter(group.manager().execute_pipeline, STREAM, GROUP, "dead", 10)
    fields = [b"n", b"1"]
    assert await dead_letters.write_many("pod-a", [(mine, fields), (of_peer, fields)]) == [Outcome.DONE, Outcome.LOST]
    written: Any = await group.client.xrange("dead")
    assert [each for _, each in written] == [{"n": "1"}]
    assert [each.message_id for each in await group.entries()] == [of_peer]
