"""Store of dead letters on real servers: finds them, replays each once, drops them."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from redis.exceptions import NoPermissionError, RedisError

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.dead_letters.record import (
    DeadLetter,
    DeadLetterReason,
    is_replay_for_other_group,
    strip_replay_marks,
    to_fields,
)
from streamconsumer.processor.dead_letters.store import DeadLetterStore, rate_limited
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.dead_letters.dead_letter_factory import (
    FIELDS,
    KEY,
    add_pending_message,
    command,
    dead_letter_store,
    dead_letter_writer,
    failure_details,
    raw,
    read_as,
    restrict,
    write_dead_letter,
    write_dead_letters,
)
from tests.processor.eventually import TIMEOUT_SECONDS
from tests.processor.group import STREAM, Group
from tests.processor.recorder import Recorder

RIGHTS = ["+xadd", "+xdel", "+xrange", "+xrevrange", "+time", "+type", "+eval", "+evalsha", "+zrem"]


async def test_dead_letters_are_found_by_reason_and_age(any_group: Group) -> None:
    for number, reason in enumerate(DeadLetterReason, 1):
        written = to_fields([b"n", b"1"], failure_details(f"{number}-0", reason))
        await command(any_group, "XADD", KEY, f"{number * 1000}-0", *written)
    seconds, _ = await any_group.client.time()
    await command(any_group, "XADD", KEY, f"{seconds - 30}000-0", *to_fields([b"n", b"1"], failure_details("70-0")))
    await command(any_group, "XADD", KEY, "*", *to_fields([b"n", b"1"], failure_details("80-0")))
    at = dead_letter_store(any_group)

    async def find_ids(reasons: frozenset[str] = frozenset(), **older_than: timedelta) -> list[str]:
        return [dead_letter.origin_id async for dead_letter in at.find(reasons, **older_than)]

    ids = {reason: f"{number}-0" for number, reason in enumerate(DeadLetterReason, 1)}
    by_reason = [*ids.values()]
    rejected, crashed = ids[DeadLetterReason.REJECTED], ids[DeadLetterReason.CRASHED]
    assert await find_ids() == [*by_reason, "70-0", "80-0"]
    assert await find_ids(frozenset({"Rejected", "Crashed"})) == [rejected, crashed]
    assert await find_ids(older_than=timedelta(seconds=10)) == [*by_reason, "70-0"]
    assert await find_ids(older_than=timedelta(hours=1)) == by_reason
    assert await find_ids(frozenset({"Rejected"}), older_than=timedelta(hours=1)) == [rejected]
    assert await find_ids(older_than=timedelta(days=50_000)) == []


@ON_ONE_SERVER
async def test_ten_thousand_dead_letters_are_read_in_pages(any_group: Group) -> None:
    written = await write_dead_letters(any_group, 10_000)
    await any_group.reset_command_counts()
    assert [dead_letter.dead_letter_id async for dead_letter in dead_letter_store(any_group).find()] == written
    assert 10 <= (await any_group.command_counts())["xrange"] <= 20


async def test_large_dead_letters_are_read_in_small_pages(group: Group) -> None:
    for number in range(20):
        original = [b"blob", bytes(2_000_000)]
        await command(group, "XADD", KEY, "*", *to_fields(original, failure_details(f"{number + 1}-0")))
    await group.reset_command_counts()
    assert len([dead_letter async for dead_letter in dead_letter_store(group).find()]) == 20
    assert (await group.command_counts())["xrange"] >= 5


async def test_dead_letters_added_during_a_search_are_not_found(any_group: Group) -> None:
    await write_dead_letters(any_group, 20)
    dead_letters = []
    async for dead_letter in dead_letter_store(any_group).find():
        dead_letters.append(dead_letter)
        await write_dead_letters(any_group, 1)
    assert len(dead_letters) == 20


async def test_dead_letters_with_ids_in_the_future_are_found(any_group: Group) -> None:
    """The server's clock was set back, or a failover led to a server with a slow clock:

    ids continue from the largest.
    """
    future = 2**45
    await command(any_group, "XADD", KEY, f"{future}-0", *to_fields([b"n", b"1"], failure_details("1-0")))
    assert len(await write_dead_letters(any_group, 3)) == 3
    assert len([dead_letter async for dead_letter in dead_letter_store(any_group).find()]) == 4


async def test_replay_adds_the_unchanged_original_and_deletes_the_dead_letter(any_group: Group) -> None:
    await any_group.create_group()
    message_id = await add_pending_message(any_group)
    await write_dead_letter(dead_letter_writer(any_group), message_id, to_fields(FIELDS, failure_details(message_id)))
    at = dead_letter_store(any_group)
    [dead_letter] = [dead_letter async for dead_letter in at.find()]
    new = await at.replay(dead_letter)
    assert await raw(any_group, KEY) == []
    assert [each for each, _ in await raw(any_group, STREAM)] == [message_id, new]
    [_, (_, entry)] = await raw(any_group, STREAM)
    assert strip_replay_marks(entry) == [*FIELDS]
    assert is_replay_for_other_group(entry, b"shipping")


async def test_origin_is_kept_when_replays_fail_again(any_group: Group) -> None:
    await any_group.create_group()
    origin = message_id = await add_pending_message(any_group)
    at = dead_letter_store(any_group)
    for replays in range(4):
        [*_, (_, entry)] = await raw(any_group, STREAM)
        assert await write_dead_letter(
            dead_letter_writer(any_group), message_id, to_fields(entry, failure_details(message_id))
        )
        [dead_letter] = [dead_letter async for dead_letter in at.find()]
        assert dead_letter.origin_id == origin
        assert (dead_letter.replays, dead_letter.fields, dead_letter.failure.message_id) == (
            replays,
            [*FIELDS],
            message_id,
        )
        message_id = str(await at.replay(dead_letter))
        assert await read_as(any_group, "pod-a") == [message_id]


async def test_concurrent_replays_replay_each_dead_letter_once(any_group: Group) -> None:
    await write_dead_letters(any_group, 500)

    async def replay_all() -> list[str | None]:
        at = dead_letter_store(any_group)
        return [await at.replay(dead_letter) async for dead_letter in at.find()]

    outcomes = [new for each in await asyncio.gather(*(replay_all() for _ in range(4))) for new in each]
    assert len([new for new in outcomes if new]) == 500
    added = await raw(any_group, STREAM)
    assert sorted(int(entry[1]) for _, entry in added) == list(range(500))
    assert await raw(any_group, KEY) == []


async def test_dead_letter_is_kept_when_the_stream_rejects_the_replay(any_group: Group) -> None:
    await write_dead_letters(any_group, 1)
    await any_group.client.set(STREAM, "mine")
    await restrict(any_group, *RIGHTS)
    at = dead_letter_store(any_group)
    [dead_letter] = await everything(at)
    with pytest.raises(RedisError, match="WRONGTYPE"):
        await at.replay(dead_letter)
    assert await everything(at) == [dead_letter]


async def test_dead_letter_is_kept_when_eval_is_not_permitted(any_group: Group) -> None:
    await write_dead_letters(any_group, 1)
    [dead_letter] = await everything(dead_letter_store(any_group))
    await restrict(any_group, *[right for right in RIGHTS if right != "+eval"])
    with pytest.raises(NoPermissionError, match="'eval"):
        await dead_letter_store(any_group).replay(dead_letter)
    await restrict(any_group, *RIGHTS)
    assert await everything(dead_letter_store(any_group)) == [dead_letter]


@ON_ONE_SERVER
@pytest.mark.parametrize("count", [3499, 3500, 3501, 20_000, 100_000])
async def test_replayed_message_of_any_width_has_its_original_fields(any_group: Group, count: int) -> None:
    await any_group.create_group()
    original = [part for number in range(count) for part in (str(number).encode(), b"\xff")]
    message_id = await add_pending_message(any_group, original)
    at = dead_letter_store(any_group)
    for _ in range(2):
        [*_, (_, entry)] = await raw(any_group, STREAM)
        assert strip_replay_marks(entry) == original
        assert await write_dead_letter(
            dead_letter_writer(any_group), message_id, to_fields(entry, failure_details(message_id))
        )
        [dead_letter] = await everything(at)
        message_id = str(await at.replay(dead_letter))
        assert await read_as(any_group, "pod-a") == [message_id]
        assert await raw(any_group, KEY) == []


async def test_processor_receives_the_original_fields_of_a_wide_replay(group: Group) -> None:
    original = [part for number in range(5000) for part in (b"f%d" % number, b"v")]
    await group.create_group()
    message_id = await add_pending_message(group, original)
    await write_dead_letter(dead_letter_writer(group), message_id, to_fields(original, failure_details(message_id)))
    [dead_letter] = await everything(dead_letter_store(group))
    await dead_letter_store(group).replay(dead_letter)
    handler = Recorder()
    await group.start(handler, "pod-b", settings={"ordering_key": "f4999"})
    await handler.wait_until_finished(1)
    assert handler.received[0].data == {f"f{number}": "v" for number in range(5000)}
    await group.wait_settled()


async def test_dead_letters_are_dropped_and_counted(any_group: Group) -> None:
    ids = await write_dead_letters(any_group, 1200)
    at = dead_letter_store(any_group)
    assert await at.drop(ids[:1100]) == 1100
    assert await at.drop(ids) == 100
    assert await everything(at) == []


async def test_only_own_dead_letters_are_found_under_a_shared_key(any_group: Group) -> None:
    [own_id, other_id] = [
        (await write_dead_letters(any_group, 2, consumer_group=name))[0] for name in ("billing", "shipping")
    ]
    other = await command(any_group, "XADD", KEY, "*", "n", "1")
    at = dead_letter_store(any_group)
    assert [dead_letter.failure.consumer_group for dead_letter in await everything(at)] == ["billing"] * 2
    assert at.skipped == 3
    assert await at.get(own_id)
    for foreign in (other_id, other):
        with pytest.raises(InvalidSettings, match=f"entry {foreign} of .* is not a dead letter of group 'billing'"):
            await at.get(foreign)
    assert await at.get("1-1") is None


async def test_check_raises_for_misspelt_names_and_not_for_an_empty_store(any_group: Group) -> None:
    at = dead_letter_store(any_group)
    with pytest.raises(InvalidSettings, match="stream 'orders' not found"):
        await at.check()
    await any_group.client.set(STREAM, "mine")
    with pytest.raises(InvalidSettings, match="key 'orders' is not a stream"):
        await at.check()
    await any_group.client.delete(STREAM)
    await any_group.add()
    with pytest.raises(InvalidSettings, match="has no group 'billing'; it has no groups"):
        await at.check()
    await any_group.client.xgroup_create(STREAM, "biling")
    with pytest.raises(InvalidSettings, match="has no group 'billing'; its groups are 'biling'"):
        await at.check()
    await any_group.create_group()
    await at.check()
    assert await everything(at) == []
    await any_group.client.rpush(KEY, "mine")
    with pytest.raises(InvalidSettings, match="is a list, not a dead-letter stream"):
        await at.check()


async def test_rate_limit_is_kept() -> None:
    async def plenty() -> AsyncIterator[Any]:
        while True:
            yield object()

    started_at = time.monotonic()
    count = 0
    async for _ in rate_limited(plenty(), 200):
        count += 1
        if count == 101:
            break
    assert 0.5 <= time.monotonic() - started_at < TIMEOUT_SECONDS


async def everything(at: DeadLetterStore) -> list[DeadLetter]:
    return [dead_letter async for dead_letter in at.find()]
