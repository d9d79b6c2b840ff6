"""Dead-record writes on real servers: the dead letter and the acknowledgement, both or neither."""

import pytest
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from streamconsumer.processor.dead_letters.record import from_fields, to_fields
from streamconsumer.processor.dead_letters.writer import DeadLetterWriter
from streamconsumer.redis_client.outcome import Outcome
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.dead_letters.dead_letter_factory import (
    FIELDS,
    KEY,
    add_pending_message,
    dead_letter_writer,
    failure_details,
    raw,
    restrict,
    write_dead_letter,
)
from tests.processor.group import STREAM, Group

RIGHTS = ["+xadd", "+xack", "+xpending", "+eval", "+evalsha", "+zadd", "+zscore", "+zremrangebyrank", "+hget", "+time"]


@pytest.fixture
async def dead_letters(any_group: Group) -> DeadLetterWriter:
    """Return a writer on each kind of server, with the required permissions."""
    await any_group.create_group()
    await restrict(any_group, *RIGHTS)
    return dead_letter_writer(any_group)


async def test_dead_letter_is_written_and_its_entry_acknowledged(
    any_group: Group, dead_letters: DeadLetterWriter
) -> None:
    message_id = await add_pending_message(any_group)
    assert (
        await write_dead_letter(dead_letters, message_id, to_fields(FIELDS, failure_details(message_id)))
        is Outcome.DONE
    )
    assert await any_group.pending() == 0
    [(dead_letter_id, fields)] = await raw(any_group, KEY)
    record = from_fields(dead_letter_id, fields)
    assert record
    assert (record.fields, record.failure) == ([*FIELDS], failure_details(message_id))


async def test_entry_of_another_consumer_is_not_dead_lettered(any_group: Group, dead_letters: DeadLetterWriter) -> None:
    message_id = await add_pending_message(any_group)
    await any_group.claim([message_id], "pod-b")
    assert (
        await write_dead_letter(dead_letters, message_id, to_fields(FIELDS, failure_details(message_id)))
        is Outcome.LOST
    )
    assert [each.consumer for each in await any_group.entries()] == ["pod-b"]
    assert await raw(any_group, KEY) == []


async def test_entry_is_dead_lettered_only_once(any_group: Group, dead_letters: DeadLetterWriter) -> None:
    message_id = await add_pending_message(any_group)
    record = to_fields(FIELDS, failure_details(message_id))
    for _ in range(2):
        assert await write_dead_letter(dead_letters, message_id, record) is Outcome.DONE
    assert len(await raw(any_group, KEY)) == 1


async def test_a_key_of_another_type_leaves_the_entry_pending(any_group: Group, dead_letters: DeadLetterWriter) -> None:
    await any_group.client.set(KEY, "mine")
    message_id = await add_pending_message(any_group)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await write_dead_letter(dead_letters, message_id, to_fields(FIELDS, failure_details(message_id)))
    assert await any_group.pending() == 1
    await any_group.client.delete(KEY)
    assert (
        await write_dead_letter(dead_letters, message_id, to_fields(FIELDS, failure_details(message_id)))
        is Outcome.DONE
    )
    assert await any_group.pending() == 0


async def test_a_server_without_memory_leaves_the_entry_pending(
    any_group: Group, dead_letters: DeadLetterWriter
) -> None:
    message_id = await add_pending_message(any_group)
    await any_group.client.config_set("maxmemory", "1")
    with pytest.raises(RedisError, match="maxmemory"):
        await write_dead_letter(dead_letters, message_id, to_fields(FIELDS, failure_details(message_id)))
    await any_group.client.config_set("maxmemory", "0")
    assert await any_group.pending() == 1
    assert await raw(any_group, KEY) == []


async def test_a_key_that_the_user_may_not_write_leaves_the_entry_pending(any_group: Group) -> None:
    await any_group.create_group()
    await restrict(any_group, *RIGHTS, keys=[f"~{STREAM}"])
    message_id = await add_pending_message(any_group)
    with pytest.raises(NoPermissionError):
        await write_dead_letter(
            dead_letter_writer(any_group), message_id, to_fields(FIELDS, failure_details(message_id))
        )
    assert await any_group.pending() == 1


async def test_missing_group_is_returned_as_an_error(any_group: Group) -> None:
    with pytest.raises(ResponseError, match="NOGROUP"):
        await write_dead_letter(dead_letter_writer(any_group), "1-0", to_fields(FIELDS, failure_details("1-0")))
    assert await raw(any_group, KEY) == []


@pytest.mark.parametrize("count", [3499, 3500, 3501, 20_000, 100_000])
async def test_dead_letter_contains_all_fields_of_an_original_of_any_width(any_group: Group, count: int) -> None:
    await any_group.create_group()
    original = [part for number in range(count) for part in (b"\xff%d" % number, b"")]
    message_id = await add_pending_message(any_group, original)
    assert (
        await write_dead_letter(
            dead_letter_writer(any_group), message_id, to_fields(original, failure_details(message_id))
        )
        is Outcome.DONE
    )
    assert await any_group.pending() == 0
    [(dead_letter_id, fields)] = await raw(any_group, KEY)
    record = from_fields(dead_letter_id, fields)
    assert record
    assert record.fields == original
    assert record.failure == failure_details(message_id)
    assert (len(fields) < 100) == (count > 3500)


@ON_ONE_SERVER
async def test_oldest_dead_letters_are_trimmed_above_the_maximum_length(any_group: Group) -> None:
    await any_group.create_group()
    dead_letters = dead_letter_writer(any_group, max_length=100)
    for _ in range(500):
        message_id = await add_pending_message(any_group, [b"n", b"1"])
        assert (
            await write_dead_letter(dead_letters, message_id, to_fields([b"n", b"1"], failure_details(message_id)))
            is Outcome.DONE
        )
    kept = await raw(any_group, KEY)
    assert 100 <= len(kept) <= 250
    last = from_fields(*kept[-1])
    assert last
    assert last.failure.message_id == message_id
