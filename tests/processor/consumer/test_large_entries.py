"""Entries that are too large to be read become dead letters without their values, and do not delay other entries."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor import Retry
from streamconsumer.processor.consumer import large_entries, memory_limit, raw_connection
from streamconsumer.processor.message import Message
from streamconsumer.redis_client.keys import group_key
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.dead_letters.dead_letter_factory import dead_letter_store
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.proxy import Proxy
from tests.processor.recorder import Recorder

MEGABYTE = 1_000_000
MEMORY = 48 * MEGABYTE
"""Memory limit in these tests: one reply has at most 4 MB, and one read requests at most 3 MB."""

OUTPUT_LIMIT = "normal 1000000 1000000 0"
"""Output buffer limit of the server: Redis cuts a connection with a reply of more than 1 MB."""

WITHIN = 60.0


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limit, "available_memory", lambda: MEMORY)


@pytest.fixture
async def proxy(any_group: Group) -> AsyncIterator[Proxy]:
    async with Proxy(any_group.server).running() as running:
        yield running


async def unreadable(group: Group, count: int = 1) -> list[dict[str, str]]:
    """Wait for `count` dead letters and until no entry is pending. All dead letters must be unreadable."""

    async def is_complete() -> bool:
        return len(await group.dead_letters()) >= count

    await eventually(is_complete, WITHIN)
    await group.wait_settled(WITHIN)
    dead_letters = await group.dead_letters()
    assert [each["streamconsumer.reason"] for each in dead_letters] == ["Unreadable"] * count
    return dead_letters


# -- larger than the memory --------------------------------------------------------------------------------------------


async def test_entry_above_the_budget_becomes_a_dead_letter_without_values(
    any_group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Recorder()
    await any_group.add(3)
    [large] = await any_group.add(1, {"customer": "7", "picture": "x" * (10 * MEGABYTE)})
    await any_group.add(3)
    processor = await any_group.start(handler)
    [dead_letter] = await unreadable(any_group)
    assert dead_letter["customer"] == "1"
    assert dead_letter["picture"] == str(10 * MEGABYTE)
    assert dead_letter["streamconsumer.message-id"] == large
    assert dead_letter["streamconsumer.error-message"].startswith("10000016 bytes in 2 fields; ")
    assert len(handler.finished) == 6
    assert processor.metrics.redis_errors == 0
    [event] = [each for each in caplog.records if each.message == "Redis reply is too large; reading fewer entries"]
    assert (event.__dict__["requested"], event.__dict__["next_requested"]) == (10, 5)


async def test_entries_whose_sum_is_above_the_budget_are_handled(any_group: Group) -> None:
    handler = Recorder()
    await any_group.add(10, {"picture": "x" * MEGABYTE})
    processor = await any_group.start(handler)
    await handler.wait_until_finished(10, WITHIN)
    await unreadable(any_group, 0)
    assert all(message.deliveries == 1 for message in handler.received), "a lost reply is no attempt"
    assert processor.metrics.redis_errors == 0


async def test_entry_of_a_refused_reply_keeps_its_only_attempt(group: Group) -> None:
    group.delivery = Delivery(max_deliveries=1)
    handler = Recorder()
    await group.add(9, {"picture": "x" * MEGABYTE})
    await group.start(handler)
    await handler.wait_until_finished(9, WITHIN)
    await unreadable(group, 0)


@ON_ONE_SERVER
async def test_many_small_values_count_as_objects(any_group: Group) -> None:
    """A million values of one byte have 8 MB on the wire, and 100 MB as objects."""
    handler = Recorder()
    await any_group.client.xadd(STREAM, {f"{number:x}": "v" for number in range(250_000)})
    await any_group.add()
    await any_group.start(handler)
    [dead_letter] = await unreadable(any_group)
    assert len(handler.finished) == 1
    packed = dead_letter["streamconsumer.packed"]
    assert packed.startswith("1:0,1:1,1:1,1:1,")
    assert len(packed) < 200_000


async def test_long_field_names_are_cut(any_group: Group) -> None:
    await any_group.client.xadd(STREAM, {f"{number:03}" + "n" * 100_000: "v" for number in range(100)})
    await any_group.start(Recorder())
    [dead_letter] = await unreadable(any_group)
    names = [name for name in dead_letter if not name.startswith("streamconsumer.")]
    assert {len(name) for name in names} == {1000}
    assert 60 <= len(names) < 64


async def test_line_ends_in_a_value_do_not_make_an_entry_unreadable(any_group: Group) -> None:
    handler = Recorder()
    await any_group.add(1, {"text": "\r" * (3 * MEGABYTE)})
    await any_group.start(handler)
    await handler.wait_until_finished(1)
    await unreadable(any_group, 0)


async def test_binary_and_emoji_values_below_the_budget_are_handled(any_group: Group) -> None:
    handler = Recorder()
    await any_group.add(3, {"text": "x" * (3 * MEGABYTE) + "🦊"})
    await any_group.start(handler)
    await handler.wait_until_finished(3)
    await unreadable(any_group, 0)


# -- redelivered entries -----------------------------------------------------------------------------------------------


@ON_ONE_SERVER
@pytest.mark.parametrize("owner", ["pod-a", "dead"])
async def test_large_entries_of_an_ended_process_are_settled(any_group: Group, owner: str) -> None:
    """The entries are this consumer's own, or those of a consumer that another consumer finds dead."""
    handler = Recorder()
    await any_group.create_group()
    processor = await any_group.start(Recorder(), owner)
    await processor.stop_listening()
    await any_group.add(3)
    await any_group.add(2, {"picture": "x" * (10 * MEGABYTE)})
    await any_group.add(10, {"picture": "x" * MEGABYTE})
    await any_group.client.xgroup_createconsumer(STREAM, GROUP, owner)
    await any_group.client.hset(group_key(STREAM, GROUP, "consumers"), owner, "1")
    await any_group.client.execute_command(  # type: ignore[no-untyped-call] # ships no types for it
        "EVAL", READ_ALL, 1, STREAM, GROUP, owner
    )
    await any_group.start(handler, "pod-a", concurrency=2)
    await handler.wait_until_finished(13, WITHIN)
    await unreadable(any_group, 2)


READ_ALL = "return #redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'STREAMS', KEYS[1], '>')"


async def test_postponed_entries_that_are_too_large_together_are_handled(any_group: Group) -> None:
    def fail(message: Message) -> BaseException | None:
        return Retry(after=timedelta(seconds=2.1)) if message.deliveries == 1 else None

    handler = Recorder(fail)
    await any_group.add(8, {"picture": "x" * MEGABYTE})
    await any_group.start(handler)
    await handler.wait_until_finished(8, WITHIN)
    await unreadable(any_group, 0)


async def test_postponed_entry_above_the_budget_of_another_pod_becomes_a_dead_letter(
    any_group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_limit, "available_memory", lambda: 10 * MEMORY)
    handler = Recorder(lambda _: Retry(after=timedelta(seconds=2.1)))
    await any_group.add(1, {"picture": "x" * (10 * MEGABYTE)})
    large_pod = await any_group.start(handler, "pod-b")
    await handler.wait_until_received(1, WITHIN)
    await eventually(lambda: large_pod.metrics.retried == 1)
    await large_pod.stop_listening()
    monkeypatch.setattr(memory_limit, "available_memory", lambda: MEMORY)
    await any_group.start(handler)
    await unreadable(any_group)


async def test_replayed_unreadable_entry_is_handled_after_the_memory_was_raised(
    any_group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    [large] = await any_group.add(1, {"picture": "x" * (10 * MEGABYTE)})
    processor = await any_group.start(Recorder())
    await unreadable(any_group)
    await processor.stop_listening()
    store = dead_letter_store(any_group)
    [dead_letter] = [each async for each in store.find()]
    assert await store.replay(dead_letter) == large
    assert await store.replay(dead_letter) is None
    monkeypatch.setattr(memory_limit, "available_memory", lambda: 10 * MEMORY)
    handler = Recorder()
    await any_group.start(handler)
    await handler.wait_until_finished(1)
    await unreadable(any_group, 0)
    assert [(message.message_id, message.deliveries) for message in handler.received] == [(large, 1)]


async def test_unreadable_entry_is_not_replayed_after_its_entry_was_trimmed(any_group: Group) -> None:
    [large] = await any_group.add(1, {"picture": "x" * (10 * MEGABYTE)})
    await any_group.start(Recorder())
    await unreadable(any_group)
    await any_group.client.xdel(STREAM, large)
    store = dead_letter_store(any_group)
    [dead_letter] = [each async for each in store.find()]
    with pytest.raises(InvalidSettings, match="cannot be replayed: it contains no values"):
        await store.replay(dead_letter)
    await unreadable(any_group)


async def test_unreadable_replay_for_another_group_is_acknowledged(any_group: Group) -> None:
    marks = {"streamconsumer.origin-id": "5-0", "streamconsumer.replays": "3", "streamconsumer.replayed-for": "other"}
    await any_group.add(1, {"picture": "x" * (10 * MEGABYTE), **marks})
    await any_group.add(1, {"picture": "x" * (10 * MEGABYTE), **marks, "streamconsumer.replayed-for": GROUP})
    await any_group.start(Recorder())
    [dead_letter] = await unreadable(any_group)
    assert dead_letter["streamconsumer.origin-id"] == "5-0"
    assert dead_letter["streamconsumer.replays"] == "3"


# -- larger than a limit of the server or the network ------------------------------------------------------------------


async def test_entries_are_handled_although_the_server_cuts_large_replies(any_group: Group) -> None:
    handler = Recorder()
    await any_group.add(20, {"picture": "x" * 300_000})
    await any_group.client.config_set("client-output-buffer-limit", OUTPUT_LIMIT)
    await any_group.start(handler)
    await handler.wait_until_finished(20, WITHIN)
    await unreadable(any_group, 0)


async def test_entry_that_the_server_never_sends_becomes_a_dead_letter(any_group: Group) -> None:
    handler = Recorder()
    await any_group.add(3)
    await any_group.add(1, {"picture": "x" * (2 * MEGABYTE)})
    await any_group.add(3)
    await any_group.client.config_set("client-output-buffer-limit", OUTPUT_LIMIT)
    await any_group.start(handler)
    [dead_letter] = await unreadable(any_group)
    assert "the connection was cut 3 times" in dead_letter["streamconsumer.error-message"]
    assert len(handler.finished) == 6


async def test_small_entries_stay_readable_while_connections_are_cut(any_group: Group, proxy: Proxy) -> None:
    """An outage looks like a limit of the server. Only an entry that a limit can concern is given up."""
    proxy.cut_replies(lambda data: len(data) // 2 if b"picture" in data else None)
    handler = Recorder()
    await any_group.add(3, {"picture": "x" * 1000})
    await any_group.start(handler, manager=any_group.manager(proxy.url))
    await eventually(lambda: proxy.cuts >= 20, WITHIN)
    proxy.cut_replies(lambda _: None)
    await handler.wait_until_finished(3, WITHIN)
    await unreadable(any_group, 0)


@ON_ONE_SERVER
async def test_reply_that_arrives_slowly_is_awaited(any_group: Group, proxy: Proxy) -> None:
    """The reply takes longer than the read timeout, but it grows all the time."""
    proxy.delay_seconds = 0.25  # for 64 kB: 12 s for the entry
    handler = Recorder()
    await any_group.add(1, {"picture": "x" * (3 * MEGABYTE)})
    processor = await any_group.start(handler, manager=any_group.manager(proxy.url), poll=0.5)
    await handler.wait_until_finished(1, WITHIN)
    await unreadable(any_group, 0)
    assert processor.metrics.redis_errors == 0


@ON_ONE_SERVER
async def test_entry_that_arrives_too_slowly_becomes_a_dead_letter(
    any_group: Group, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_connection, "MAX_RECEIVE_SECONDS", 1.0)
    monkeypatch.setattr(raw_connection, "PROGRESS_SECONDS", 0.5)
    monkeypatch.setattr(large_entries, "REPLY_TIMEOUT_SECONDS", 1.0)
    proxy.delay_seconds = 0.2
    handler = Recorder()
    await any_group.add(1, {"picture": "x" * (3 * MEGABYTE)})
    await any_group.add(1)
    await any_group.start(handler, manager=any_group.manager(proxy.url), poll=0.5)
    [dead_letter] = await unreadable(any_group)
    assert re.search(r"found \d+ bytes of a reply after 1 s", dead_letter["streamconsumer.error-message"])
    assert len(handler.finished) == 1


@ON_ONE_SERVER
async def test_peer_does_not_claim_an_entry_that_arrives_slowly(any_group: Group, proxy: Proxy) -> None:
    proxy.delay_seconds = 0.15
    handler = Recorder()
    slow_pod = await any_group.start(handler, manager=any_group.manager(proxy.url))
    await any_group.wait_until_reading()
    [large] = await any_group.add(1, {"picture": "x" * (3 * MEGABYTE)})
    await any_group.start(handler, "pod-b")
    await handler.wait_until_finished(1, WITHIN)
    await unreadable(any_group, 0)
    assert handler.ids == [large]
    assert slow_pod.metrics.lost_ownership == 0
    assert handler.received[0].consumer == "pod-a"


# -- cost --------------------------------------------------------------------------------------------------------------


async def test_reading_ordinary_entries_sends_no_further_command(group: Group) -> None:
    handler = Recorder()
    await group.start(handler)
    await group.wait_until_reading()
    await group.reset_command_counts()
    await group.add(1)
    await handler.wait_until_finished(1)
    await group.wait_settled()
    counts = await group.command_counts()
    assert "eval" not in counts or counts["eval"] <= 3, "heartbeats and snapshots"
    assert "xrange" not in counts
