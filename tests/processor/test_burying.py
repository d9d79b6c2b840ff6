"""Burying on real servers: the letter and the acknowledgement together, or neither."""

import pytest
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from streamconsumer.processor.dead_letters import fields, parse
from streamconsumer.processor.stream.dead_letters import DeadLetters
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.group import STREAM, Group
from tests.processor.letters import FIELDS, KEY, bury, evidence, failed, letters, raw, restrict

RIGHTS = ["+xadd", "+xack", "+xpending", "+eval"]


@pytest.fixture
async def dead_letters(any_group: Group) -> DeadLetters:
    """On each server, with the rights that are required."""
    await any_group.create()
    await restrict(any_group, *RIGHTS)
    return letters(any_group)


async def test_the_letter_is_written_and_the_entry_acknowledged(any_group: Group, dead_letters: DeadLetters) -> None:
    message_id = await failed(any_group)
    assert await bury(dead_letters, message_id, fields(FIELDS, evidence(message_id)))
    assert await any_group.pending() == 0
    [(dead_letter_id, found)] = await raw(any_group, KEY)
    letter = parse(dead_letter_id, found)
    assert letter
    assert (letter.fields, letter.evidence) == ([*FIELDS], evidence(message_id))


async def test_what_another_consumer_has_is_not_buried(any_group: Group, dead_letters: DeadLetters) -> None:
    message_id = await failed(any_group)
    await any_group.take([message_id], "pod-b")
    assert not await bury(dead_letters, message_id, fields(FIELDS, evidence(message_id)))
    assert [each.consumer for each in await any_group.entries()] == ["pod-b"]
    assert await raw(any_group, KEY) == []


async def test_what_is_buried_is_not_buried_again(any_group: Group, dead_letters: DeadLetters) -> None:
    message_id = await failed(any_group)
    assert await bury(dead_letters, message_id, fields(FIELDS, evidence(message_id)))
    assert not await bury(dead_letters, message_id, fields(FIELDS, evidence(message_id)))
    assert len(await raw(any_group, KEY)) == 1


async def test_a_key_of_another_type_leaves_the_entry_pending(any_group: Group, dead_letters: DeadLetters) -> None:
    await any_group.client.set(KEY, "mine")
    message_id = await failed(any_group)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await bury(dead_letters, message_id, fields(FIELDS, evidence(message_id)))
    assert await any_group.pending() == 1
    await any_group.client.delete(KEY)
    assert await bury(dead_letters, message_id, fields(FIELDS, evidence(message_id)))
    assert await any_group.pending() == 0


async def test_a_server_without_memory_leaves_the_entry_pending(any_group: Group, dead_letters: DeadLetters) -> None:
    message_id = await failed(any_group)
    await any_group.client.config_set("maxmemory", "1")
    with pytest.raises(RedisError, match="maxmemory"):
        await bury(dead_letters, message_id, fields(FIELDS, evidence(message_id)))
    await any_group.client.config_set("maxmemory", "0")
    assert await any_group.pending() == 1
    assert await raw(any_group, KEY) == []


async def test_a_key_that_the_user_may_not_write_leaves_the_entry_pending(any_group: Group) -> None:
    await any_group.create()
    await restrict(any_group, *RIGHTS, keys=[f"~{STREAM}"])
    message_id = await failed(any_group)
    with pytest.raises(NoPermissionError):
        await bury(letters(any_group), message_id, fields(FIELDS, evidence(message_id)))
    assert await any_group.pending() == 1


async def test_a_group_that_is_gone_is_the_callers_affair(any_group: Group) -> None:
    with pytest.raises(ResponseError, match="NOGROUP"):
        await bury(letters(any_group), "1-0", fields(FIELDS, evidence("1-0")))
    assert await raw(any_group, KEY) == []


@pytest.mark.parametrize("count", [3499, 3500, 3501, 20_000, 100_000])
async def test_a_dead_letter_holds_all_fields_of_an_original_of_any_width(any_group: Group, count: int) -> None:
    await any_group.create()
    original = [part for number in range(count) for part in (b"\xff%d" % number, b"")]
    message_id = await failed(any_group, original)
    assert await bury(letters(any_group), message_id, fields(original, evidence(message_id)))
    assert await any_group.pending() == 0
    [(dead_letter_id, found)] = await raw(any_group, KEY)
    letter = parse(dead_letter_id, found)
    assert letter
    assert letter.fields == original
    assert letter.evidence == evidence(message_id)
    assert (len(found) < 100) == (count > 3500)


@ON_ONE_SERVER
async def test_about_so_many_letters_are_kept_and_the_oldest_go(any_group: Group) -> None:
    await any_group.create()
    dead_letters = letters(any_group, max_length=100)
    for _ in range(500):
        message_id = await failed(any_group, [b"n", b"1"])
        assert await bury(dead_letters, message_id, fields([b"n", b"1"], evidence(message_id)))
    kept = await raw(any_group, KEY)
    assert 100 <= len(kept) <= 250
    last = parse(*kept[-1])
    assert last
    assert last.evidence.message_id == message_id
