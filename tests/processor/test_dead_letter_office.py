"""Looking after dead letters on real servers: found, replayed once, dropped."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from redis.exceptions import NoPermissionError, RedisError

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.dead_letters import DeadLetter, DeadLetterReason, fields, is_for_another, strip
from streamconsumer.processor.stream.dead_letter_office import DeadLetterOffice, paced
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import PATIENCE_SECONDS
from tests.processor.group import STREAM, Group
from tests.processor.letters import (
    FIELDS,
    KEY,
    buried,
    bury,
    command,
    evidence,
    failed,
    letters,
    office,
    raw,
    read_as,
    restrict,
)
from tests.processor.recorder import Recorder

RIGHTS = ["+xadd", "+xdel", "+xrange", "+xrevrange", "+time", "+type", "+eval"]


async def test_letters_are_found_by_reason_and_age(any_group: Group) -> None:
    for number, reason in enumerate(DeadLetterReason, 1):
        written = fields([b"n", b"1"], evidence(f"{number}-0", reason))
        await command(any_group, "XADD", KEY, f"{number * 1000}-0", *written)
    seconds, _ = await any_group.client.time()
    await command(any_group, "XADD", KEY, f"{seconds - 30}000-0", *fields([b"n", b"1"], evidence("70-0")))
    await command(any_group, "XADD", KEY, "*", *fields([b"n", b"1"], evidence("80-0")))
    at = office(any_group)

    async def found(reasons: frozenset[str] = frozenset(), **older_than: timedelta) -> list[str]:
        return [letter.origin_id async for letter in at.find(reasons, **older_than)]

    assert await found() == ["1-0", "2-0", "3-0", "4-0", "5-0", "6-0", "70-0", "80-0"]
    assert await found(frozenset({"Rejected", "Crashed"})) == ["2-0", "6-0"]
    assert await found(older_than=timedelta(seconds=10)) == ["1-0", "2-0", "3-0", "4-0", "5-0", "6-0", "70-0"]
    assert await found(older_than=timedelta(hours=1)) == ["1-0", "2-0", "3-0", "4-0", "5-0", "6-0"]
    assert await found(frozenset({"Rejected"}), older_than=timedelta(hours=1)) == ["2-0"]
    assert await found(older_than=timedelta(days=50_000)) == []


@ON_ONE_SERVER
async def test_ten_thousand_letters_are_read_in_pages(any_group: Group) -> None:
    written = await buried(any_group, 10_000)
    await any_group.forget_commands()
    assert [letter.dead_letter_id async for letter in office(any_group).find()] == written
    assert 10 <= (await any_group.commands())["xrange"] <= 20


async def test_large_letters_are_read_in_small_pages(group: Group) -> None:
    for number in range(20):
        original = [b"blob", bytes(2_000_000)]
        await command(group, "XADD", KEY, "*", *fields(original, evidence(f"{number + 1}-0")))
    await group.forget_commands()
    assert len([letter async for letter in office(group).find()]) == 20
    assert (await group.commands())["xrange"] >= 5


async def test_letters_that_come_in_meanwhile_are_not_among_those_found(any_group: Group) -> None:
    await buried(any_group, 20)
    found = []
    async for letter in office(any_group).find():
        found.append(letter)
        await buried(any_group, 1)
    assert len(found) == 20


async def test_letters_of_the_future_are_found(any_group: Group) -> None:
    """The server's clock was set back, or a failover led to one that is behind: ids go on from the largest."""
    future = 2**45
    await command(any_group, "XADD", KEY, f"{future}-0", *fields([b"n", b"1"], evidence("1-0")))
    assert len(await buried(any_group, 3)) == 3
    assert len([letter async for letter in office(any_group).find()]) == 4


async def test_a_replay_adds_the_original_as_it_was_and_deletes_the_letter(any_group: Group) -> None:
    await any_group.create()
    message_id = await failed(any_group)
    await bury(letters(any_group), message_id, fields(FIELDS, evidence(message_id)))
    at = office(any_group)
    [letter] = [letter async for letter in at.find()]
    new = await at.replay(letter)
    assert await raw(any_group, KEY) == []
    assert [each for each, _ in await raw(any_group, STREAM)] == [message_id, new]
    [_, (_, entry)] = await raw(any_group, STREAM)
    assert strip(entry) == [*FIELDS]
    assert is_for_another(entry, b"shipping")


async def test_the_origin_is_kept_through_replays_that_fail_again(any_group: Group) -> None:
    await any_group.create()
    origin = message_id = await failed(any_group)
    at = office(any_group)
    for replays in range(4):
        [*_, (_, entry)] = await raw(any_group, STREAM)
        assert await bury(letters(any_group), message_id, fields(entry, evidence(message_id)))
        [letter] = [letter async for letter in at.find()]
        assert letter.origin_id == origin
        assert (letter.replays, letter.fields, letter.evidence.message_id) == (replays, [*FIELDS], message_id)
        message_id = str(await at.replay(letter))
        assert await read_as(any_group, "pod-a") == [message_id]


async def test_a_replay_at_the_same_time_replays_each_once(any_group: Group) -> None:
    await buried(any_group, 500)

    async def replay_all() -> list[str | None]:
        at = office(any_group)
        return [await at.replay(letter) async for letter in at.find()]

    outcomes = [new for each in await asyncio.gather(*(replay_all() for _ in range(4))) for new in each]
    assert len([new for new in outcomes if new]) == 500
    added = await raw(any_group, STREAM)
    assert sorted(int(entry[1]) for _, entry in added) == list(range(500))
    assert await raw(any_group, KEY) == []


async def test_a_stream_that_cannot_be_added_to_keeps_the_letter(any_group: Group) -> None:
    await buried(any_group, 1)
    await any_group.client.set(STREAM, "mine")
    await restrict(any_group, *RIGHTS)
    at = office(any_group)
    [letter] = await everything(at)
    with pytest.raises(RedisError, match="WRONGTYPE"):
        await at.replay(letter)
    assert await everything(at) == [letter]


async def test_a_replay_without_eval_is_refused_and_keeps_the_letter(any_group: Group) -> None:
    await buried(any_group, 1)
    await restrict(any_group, *[right for right in RIGHTS if right != "+eval"])
    at = office(any_group)
    [letter] = await everything(at)
    with pytest.raises(NoPermissionError, match="'eval'"):
        await at.replay(letter)
    assert await everything(at) == [letter]


@ON_ONE_SERVER
@pytest.mark.parametrize("count", [3499, 3500, 3501, 20_000, 100_000])
async def test_a_replayed_message_of_any_width_has_its_original_fields(any_group: Group, count: int) -> None:
    await any_group.create()
    original = [part for number in range(count) for part in (str(number).encode(), b"\xff")]
    message_id = await failed(any_group, original)
    at = office(any_group)
    for _ in range(2):
        [*_, (_, entry)] = await raw(any_group, STREAM)
        assert strip(entry) == original
        assert await bury(letters(any_group), message_id, fields(entry, evidence(message_id)))
        [letter] = await everything(at)
        message_id = str(await at.replay(letter))
        assert await read_as(any_group, "pod-a") == [message_id]
        assert await raw(any_group, KEY) == []


async def test_a_processor_handles_a_replay_of_very_many_fields_with_its_original_fields(group: Group) -> None:
    original = [part for number in range(5000) for part in (b"f%d" % number, b"v")]
    await group.create()
    message_id = await failed(group, original)
    await bury(letters(group), message_id, fields(original, evidence(message_id)))
    [letter] = await everything(office(group))
    await office(group).replay(letter)
    handler = Recorder()
    await group.start(handler, "pod-b", settings={"ordering_key": "f4999"})
    await handler.has_finished(1)
    assert handler.seen[0].data == {f"f{number}": "v" for number in range(5000)}
    await group.settled()


async def test_letters_are_dropped_and_counted(any_group: Group) -> None:
    ids = await buried(any_group, 1200)
    at = office(any_group)
    assert await at.drop(ids[:1100]) == 1100
    assert await at.drop(ids) == 100
    assert await everything(at) == []


async def test_only_the_groups_own_letters_are_found_under_a_key_that_several_share(any_group: Group) -> None:
    [ours, theirs] = [(await buried(any_group, 2, consumer_group=name))[0] for name in ("billing", "shipping")]
    other = await command(any_group, "XADD", KEY, "*", "n", "1")
    at = office(any_group)
    assert [letter.evidence.consumer_group for letter in await everything(at)] == ["billing"] * 2
    assert at.passed_over == 3
    assert await at.get(ours)
    for foreign in (theirs, other):
        with pytest.raises(InvalidSettings, match=f"entry {foreign} of .* is no dead letter of group 'billing'"):
            await at.get(foreign)
    assert await at.get("1-1") is None


async def test_what_is_misspelt_is_told_and_what_is_empty_is_not(any_group: Group) -> None:
    at = office(any_group)
    with pytest.raises(InvalidSettings, match="there is no stream 'orders'"):
        await at.check()
    await any_group.client.set(STREAM, "mine")
    with pytest.raises(InvalidSettings, match="key 'orders' is not a stream"):
        await at.check()
    await any_group.client.delete(STREAM)
    await any_group.add()
    with pytest.raises(InvalidSettings, match="has no group 'billing'; it has none"):
        await at.check()
    await any_group.client.xgroup_create(STREAM, "biling")
    with pytest.raises(InvalidSettings, match="has no group 'billing'; it has 'biling'"):
        await at.check()
    await any_group.create()
    await at.check()
    assert await everything(at) == []
    await any_group.client.rpush(KEY, "mine")
    with pytest.raises(InvalidSettings, match="is a list, not a stream of dead letters"):
        await at.check()


async def test_a_pace_is_kept() -> None:
    async def plenty() -> AsyncIterator[Any]:
        while True:
            yield object()

    begun = time.monotonic()
    count = 0
    async for _ in paced(plenty(), 200):
        count += 1
        if count == 101:
            break
    assert 0.5 <= time.monotonic() - begun < PATIENCE_SECONDS


async def everything(at: DeadLetterOffice) -> list[DeadLetter]:
    return [letter async for letter in at.find()]
