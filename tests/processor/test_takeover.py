"""Who is dead is known within seconds; who is alive is left alone. And a message that kills its process ends as a dead
letter, without taking others with it."""

import asyncio
import signal
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.processor import Reject, Retry
from streamconsumer.processor.stream import watch
from streamconsumer.processor.stream.watch import ABSENT, FORGOTTEN, PROOF, SILENCE, TURN, Consumer
from streamconsumer.server.keys import POSTPONED, companion
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.pod import NewPod
from tests.processor.proxy import Proxy
from tests.processor.recorder import Recorder

DEAD_LETTERS = companion(STREAM, GROUP, "dead-letters")


@pytest.mark.parametrize("handler", ["slow", "slow_thread"])
async def test_the_messages_of_a_killed_pod_run_elsewhere_long_before_min_idle(
    group: Group,
    new_pod: NewPod,
    handler: str,
) -> None:
    """At the defaults: `minIdle` is for strangers."""
    ids = await group.add(100, {"seconds": "60"})
    pod = new_pod(f"pod_handlers:{handler}", batch_count="100", concurrency="100").start()
    await pod.says("begun", times=100)
    peer = Recorder()
    await group.start(peer, "pod-b", concurrency=10)
    await group.is_reading()
    await asyncio.sleep(1)
    pod.signal(signal.SIGKILL)
    killed = time.monotonic()
    await peer.has_finished(100)
    print(f"\nkill -9 to the last of 100 taken over: {time.monotonic() - killed:.2f} s")
    assert sorted(peer.ids) == sorted(ids)
    await group.settled()


async def test_a_handler_that_blocks_the_event_loop_keeps_its_message(group: Group, new_pod: NewPod) -> None:
    """Signs of life come from a thread."""
    await group.add(1, {"seconds": "6"})
    pod = new_pod("pod_handlers:blocking").start()
    await pod.says("begun")
    peer = Recorder()
    await group.start(peer, "pod-b")
    await pod.says("handled")
    assert not peer.seen
    await group.settled()


async def test_after_an_outage_nobody_is_taken_for_dead_who_lives(group: Group) -> None:
    """All were silent. Whoever lives says so before the second look."""
    handler, peer = Recorder(gate=False), Recorder()
    await group.add(3)
    await group.start(handler, concurrency=4)
    await handler.has_seen(3)
    await group.start(peer, "pod-b")
    await group.is_reading()
    group.server.pause()
    await asyncio.sleep(4)
    group.server.resume()
    await asyncio.sleep(4)
    assert not peer.seen
    assert not handler.cancelled
    handler.gate.set()
    await group.settled()


@ON_ONE_SERVER
async def test_a_server_out_of_memory_does_not_keep_the_messages_of_a_dead_pod(any_group: Group) -> None:
    """It refuses to be told who is there."""
    await any_group.create()
    ids = await any_group.add(3)
    await any_group.read_as("pod-a")
    await any_group.client.hset(companion(STREAM, GROUP, "consumers"), "pod-a", "1")
    await any_group.client.config_set("maxmemory", "1")
    peer = Recorder()
    await any_group.start(peer, "pod-b", min_idle=60)
    await peer.has_finished(3)
    assert peer.ids == ids


async def test_a_message_that_kills_its_process_is_a_dead_letter_and_the_others_are_handled(
    group: Group,
    new_pod: NewPod,
) -> None:
    ids = await group.add(20, {"seconds": "0.05"})
    [killer] = await group.add(1, {"kills": "yes"})
    ids += await group.add(20, {"seconds": "0.05"})
    pod = new_pod("pod_handlers:mortal", batch_count="100", concurrency="10", delivery_max_deliveries="4")

    async def over() -> bool:
        if pod.process is None or pod.process.poll() is not None:
            pod.start()  # as a kubelet does
        return bool(await group.client.xlen(DEAD_LETTERS)) and await group.pending() == 0

    await eventually(over, within=60)
    letters: Any = await group.client.xrange(DEAD_LETTERS)
    assert [fields["streamconsumer.message-id"] for _, fields in letters] == [killer]
    assert letters[0][1]["streamconsumer.reason"] == "Crashed"
    handled = {line["message_id"] for line in pod.said("handled")}
    assert handled == set(ids)
    pod.signal(signal.SIGTERM)
    assert await pod.ended() == 0


@ON_ONE_SERVER
async def test_a_strangers_entries_are_left_alone_for_min_idle(any_group: Group) -> None:
    """Another program in the group shows no signs of life: nobody knows that it is dead."""
    await any_group.create()
    await any_group.add(1)
    await any_group.read_as("stranger")
    handler = Recorder()
    await any_group.start(handler, min_idle=4)
    await asyncio.sleep(3.3)
    assert not handler.seen
    await handler.has_finished(1)


@pytest.mark.slow
async def test_however_many_pods_a_group_has_it_is_looked_at_once_a_second(group: Group) -> None:
    for number in range(4):
        await group.start(Recorder(), f"pod-{number}", poll=30)
    await group.is_reading()
    await asyncio.sleep(3)  # until all have seen each other
    await group.forget_commands()
    await asyncio.sleep(8)
    commands = await group.commands()
    assert set(commands) <= {"xinfo", "hgetall", "hset"}, "and nothing else is asked while nothing happens"
    assert 4 <= commands["xinfo"] + commands.get("hgetall", 0) <= 8 + 1


@ON_ONE_SERVER
@pytest.mark.parametrize(
    ("error", "left"), [(Reject("no"), {}), (Retry("later", after=timedelta(minutes=5)), {POSTPONED: 10})]
)
async def test_a_sign_of_life_does_not_put_back_what_is_being_settled(
    any_group: Group, error: Exception, left: dict[str, int]
) -> None:
    """On a slow way an entry is settled in Redis long before its consumer hears so."""

    async def handle(_data: dict[str, Any]) -> None:
        await asyncio.sleep(0.6)
        raise error

    await any_group.add(10)
    async with Proxy(any_group.server).running() as proxy:
        proxy.delay_seconds = 0.2
        manager = any_group.manager(proxy.url, min_idle=1)
        processor = await any_group.start(handle, concurrency=10, manager=manager)
        await eventually(lambda: processor.metrics.failed == 10)
        await eventually(lambda: not processor._in_flight.ids())
        assert processor.metrics.lost_ownership == 0
        assert Counter(each.consumer for each in await any_group.entries()) == left
        await processor.stop_listening()
        await manager.aclose()


# -- the decisions ---------------------------------------------------------------------------------------------------


def _consumer(name: str, pending: int, idle: Any) -> Consumer:
    return Consumer(name, pending, idle)


def test_only_who_holds_entries_and_is_silent_may_be_dead() -> None:
    consumers = [
        _consumer("me", 1, SILENCE * 2),
        _consumer("busy", 1, SILENCE / 2),
        _consumer("idle", 0, SILENCE * 2),
        _consumer("gone", 1, SILENCE * 2),
        _consumer(POSTPONED, 9, SILENCE * 2),
    ]
    assert watch.silent(consumers, "me") == {"gone": SILENCE * 2}


def test_a_sign_of_life_between_two_looks_proves_that_nobody_is_dead() -> None:
    before = {"dead": SILENCE, "alive": SILENCE * 2}
    now = {"dead": SILENCE + PROOF, "alive": SILENCE * 1.1, "new": SILENCE * 2}
    assert watch.proven(before, now) == ["dead"]


def test_consumers_look_in_turns() -> None:
    now = 1000.0 * TURN.total_seconds() * 3
    members = {"a": now, "b": now, "c": now, "absent": now - ABSENT.total_seconds() * 2, "dead": now}
    order = watch.there(members, ["dead"], "c", now)
    assert order == ["a", "b", "c"]
    turns = {name: watch.seconds_to_turn(now + 0.25, order, name) for name in order}
    turn = TURN.total_seconds()
    assert turns == pytest.approx({"a": 3 * turn - 0.25, "b": turn - 0.25, "c": 2 * turn - 0.25})
    assert watch.seconds_to_turn(now + turn - 0.05, order, "b") == pytest.approx(3 * turn + 0.05), "its turn has begun"


def test_a_name_goes_when_it_has_been_away_for_long_and_holds_nothing() -> None:
    names = ("me", "old", "holding", "reading", "stranger")
    consumers = [_consumer(name, int(name == "holding"), SILENCE) for name in names]
    members = {"me": 0.0, "old": 0.0, "holding": 0.0, "reading": 900.0}
    assert watch.gone(consumers, members, "me", FORGOTTEN.total_seconds() + 1) == ["old"]
