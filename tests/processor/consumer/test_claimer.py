"""Dead consumers are detected within seconds, and live ones are left alone.

A message that crashes its process becomes a dead letter without the other messages of its batch.
"""

import asyncio
import signal
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.processor import BatchFailed, Reject, Retry
from streamconsumer.processor.consumer import liveness
from streamconsumer.processor.consumer.heartbeat import HeartbeatThread
from streamconsumer.processor.consumer.liveness import (
    ABSENT_AFTER,
    CHECK_INTERVAL,
    CONFIRMATION_DELAY,
    EXPIRE_AFTER,
    SILENCE_THRESHOLD,
    ConsumerInfo,
)
from streamconsumer.processor.consumer.redis_consumer import RedisConsumer
from streamconsumer.processor.runtime import start_thread
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, group_key
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.pod import NewPod
from tests.processor.proxy import Proxy
from tests.processor.recorder import Recorder

DEAD_LETTERS = group_key(STREAM, GROUP, "dead-letters")


@pytest.mark.parametrize("handler", ["slow", "slow_thread"])
async def test_messages_of_a_killed_pod_run_elsewhere_long_before_min_idle(
    group: Group,
    new_pod: NewPod,
    handler: str,
) -> None:
    """With the default settings: `minIdle` applies to consumers of other programs."""
    ids = await group.add(100, {"seconds": "60"})
    pod = new_pod(f"pod_handlers:{handler}", batch_count="100", concurrency="100").start()
    await pod.wait_for_log("started", times=100)
    peer = Recorder()
    await group.start(peer, "pod-b", concurrency=10)
    await group.wait_until_reading()
    await asyncio.sleep(1)
    pod.signal(signal.SIGKILL)
    killed = time.monotonic()
    await peer.wait_until_finished(100)
    print(f"\nkill -9 to the last of 100 taken over: {time.monotonic() - killed:.2f} s")
    assert sorted(peer.ids) == sorted(ids)
    await group.wait_settled()


async def test_handler_keeps_its_message_when_it_blocks_the_event_loop(group: Group, new_pod: NewPod) -> None:
    """A separate thread sends the heartbeats."""
    await group.add(1, {"seconds": "6"})
    pod = new_pod("pod_handlers:blocking").start()
    await pod.wait_for_log("started")
    peer = Recorder()
    await group.start(peer, "pod-b")
    await pod.wait_for_log("handled")
    assert not peer.received
    await group.wait_settled()


async def test_live_consumers_keep_their_entries_after_an_outage(group: Group) -> None:
    """Every consumer was silent. Live ones send a heartbeat before the second check."""
    handler, peer = Recorder(gate=False), Recorder()
    await group.add(3)
    await group.start(handler, concurrency=4)
    await handler.wait_until_received(3)
    await group.start(peer, "pod-b")
    await group.wait_until_reading()
    group.server.pause()
    await asyncio.sleep(4)
    group.server.resume()
    await asyncio.sleep(4)
    assert not peer.received
    assert not handler.cancelled
    handler.gate.set()
    await group.wait_settled()


@ON_ONE_SERVER
async def test_messages_of_a_dead_pod_are_claimed_when_the_server_is_out_of_memory(any_group: Group) -> None:
    """The server rejects the announcements of the consumers."""
    await any_group.create_group()
    ids = await any_group.add(3)
    await any_group.read_as("pod-a")
    await any_group.client.hset(group_key(STREAM, GROUP, "consumers"), "pod-a", "1")
    await any_group.client.config_set("maxmemory", "1")
    peer = Recorder()
    await any_group.start(peer, "pod-b", min_idle=60)
    await peer.wait_until_finished(3)
    assert peer.ids == ids


async def test_message_that_crashes_its_process_is_dead_lettered_and_the_others_are_handled(
    group: Group,
    new_pod: NewPod,
) -> None:
    ids = await group.add(20, {"seconds": "0.05"})
    [killer] = await group.add(1, {"kills": "yes"})
    ids += await group.add(20, {"seconds": "0.05"})
    pod = new_pod("pod_handlers:crash_or_sleep", batch_count="100", concurrency="10", delivery_max_deliveries="4")

    async def over() -> bool:
        if pod.process is None or pod.process.poll() is not None:
            pod.start()  # as a kubelet does
        return bool(await group.client.xlen(DEAD_LETTERS)) and await group.pending() == 0

    await eventually(over, within=60)
    dead_letters: Any = await group.client.xrange(DEAD_LETTERS)
    assert [fields["streamconsumer.message-id"] for _, fields in dead_letters] == [killer]
    assert dead_letters[0][1]["streamconsumer.reason"] == "Crashed"
    handled = {line["message_id"] for line in pod.find_log("handled")}
    assert handled == set(ids)
    pod.signal(signal.SIGTERM)
    assert await pod.wait_for_exit() == 0


@ON_ONE_SERVER
async def test_entries_of_another_program_are_claimed_after_min_idle(any_group: Group) -> None:
    """Another program in the group sends no heartbeats, so its death cannot be detected."""
    await any_group.create_group()
    await any_group.add(1)
    await any_group.read_as("stranger")
    handler = Recorder()
    await any_group.start(handler, min_idle=4)
    await asyncio.sleep(3.3)
    assert not handler.received
    await handler.wait_until_finished(1)


@pytest.mark.slow
async def test_group_is_checked_once_a_second_for_any_number_of_pods(group: Group) -> None:
    for number in range(4):
        await group.start(Recorder(), f"pod-{number}", poll=30)
    await group.wait_until_reading()
    await asyncio.sleep(3)  # until each pod has read the members
    await group.reset_command_counts()
    await asyncio.sleep(8)
    commands = await group.command_counts()
    assert set(commands) <= {"xinfo", "hscan", "hset"}, "no other command is sent while the group is idle"
    assert 4 <= commands["xinfo"] + commands.get("hscan", 0) <= 8 + 1


@ON_ONE_SERVER
@pytest.mark.parametrize(
    ("error", "left"), [(Reject("no"), {}), (Retry("later", after=timedelta(minutes=5)), {POSTPONED_CONSUMER: 10})]
)
async def test_renewal_does_not_restore_an_entry_while_a_script_settles_it(
    any_group: Group, error: Exception, left: dict[str, int]
) -> None:
    """With a slow network, Redis settles an entry long before the consumer receives the reply."""

    async def handle(_data: dict[str, Any]) -> None:
        await asyncio.sleep(0.6)
        raise error

    await any_group.add(10)
    async with Proxy(any_group.server).running() as proxy:
        proxy.delay_seconds = 0.2
        manager = any_group.manager(proxy.url, min_idle=1)
        processor = await any_group.start(handle, concurrency=10, manager=manager)
        await eventually(lambda: processor.metrics.failed == 10)
        await eventually(lambda: not processor._pipeline.in_flight.ids())
        assert processor.metrics.lost_ownership == 0
        assert Counter(each.consumer for each in await any_group.entries()) == left
        await processor.stop_listening()
        await manager.aclose()


@pytest.mark.parametrize(
    ("error", "left", "script"),
    [
        (Reject("no"), {}, "write_many"),
        (Retry("later", after=timedelta(minutes=5)), {POSTPONED_CONSUMER: 1}, "postpone"),
    ],
)
async def test_entry_stays_settled_when_a_renewal_overtakes_the_reply_of_the_script(
    group: Group, error: Exception, left: dict[str, int], script: str
) -> None:
    """Redis runs the script, then the renewal; the reply of the renewal arrives first."""

    async def handle(_data: dict[str, Any]) -> None:
        raise error

    manager = group.manager()
    processor = await group.start(handle, manager=manager)
    intake = processor._pipeline.consumer
    assert isinstance(intake, RedisConsumer)
    lost: list[str] = []
    heart = HeartbeatThread(
        manager,
        intake.consumer_id,
        intake.ack_buffer,
        in_flight_ids=list,
        on_lost=lost.extend,
        is_alive=lambda: True,
        is_receiving=lambda: False,
        start_thread=start_thread,
    )
    target = intake._dead_letter_writer if script == "write_many" else intake.leases
    run = getattr(target, script)

    async def run_and_renew(*arguments: Any) -> Any:
        reply = await run(*arguments)
        with intake.ack_buffer.acked_during() as acked_ids:
            await heart._renew(manager, intake.leases, [message_id], acked_ids)
        return reply

    setattr(target, script, run_and_renew)
    [message_id] = await group.add(1)
    await eventually(lambda: processor.metrics.failed == 1 and not processor._pipeline.in_flight.ids())
    await processor.stop_listening()
    assert Counter(each.consumer for each in await group.entries()) == left
    assert not lost
    assert processor.metrics.lost_ownership == 0


async def test_settled_entry_is_not_renewed_while_the_rest_of_its_batch_is_settled(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entries of a batch stay in the in-flight table until all of them are settled: postponed ones first, then the
    dead letters in several round trips."""
    monkeypatch.setattr("streamconsumer.processor.dead_letters.writer.MAX_CHUNK_BYTES", 1)

    sizes: list[int] = []

    async def handle(batch: list[dict[str, Any]]) -> None:
        sizes.append(len(batch))
        retry = Retry("later", after=timedelta(minutes=5))
        raise BatchFailed({index: Reject("no") if index else retry for index in range(len(batch))})

    manager = group.manager()
    processor = await group.start(handle, manager=manager, settings={"batch": True})
    consumer, in_flight = processor._pipeline.consumer, processor._pipeline.in_flight
    assert isinstance(consumer, RedisConsumer)
    lost: list[str] = []
    heart = HeartbeatThread(
        manager,
        consumer.consumer_id,
        consumer.ack_buffer,
        in_flight_ids=in_flight.ids,
        on_lost=lost.extend,
        is_alive=lambda: True,
        is_receiving=lambda: False,
        start_thread=start_thread,
    )
    write_many = consumer._dead_letter_writer.write_many

    async def beat_and_write(*arguments: Any) -> Any:
        for _ in range(2):  # a heartbeat renews only entries that were in flight at the last beat
            await heart._beat(manager, consumer.leases)
        return await write_many(*arguments)

    monkeypatch.setattr(consumer._dead_letter_writer, "write_many", beat_and_write)
    await group.add(5)
    await eventually(lambda: processor.metrics.failed == 5 and not in_flight.ids())
    await processor.stop_listening()
    assert Counter(entry.consumer for entry in await group.entries()) == {POSTPONED_CONSUMER: len(sizes)}
    assert not lost
    assert not consumer.ack_buffer.ids_in_scripts


# -- the decisions ---------------------------------------------------------------------------------------------------


def _consumer(name: str, pending: int, idle: Any) -> ConsumerInfo:
    return ConsumerInfo(name, pending, idle)


def test_only_silent_consumers_with_pending_entries_may_be_dead() -> None:
    consumers = [
        _consumer("me", 1, SILENCE_THRESHOLD * 2),
        _consumer("busy", 1, SILENCE_THRESHOLD / 2),
        _consumer("idle", 0, SILENCE_THRESHOLD * 2),
        _consumer("gone", 1, SILENCE_THRESHOLD * 2),
        _consumer(POSTPONED_CONSUMER, 9, SILENCE_THRESHOLD * 2),
    ]
    assert liveness.silent_consumers(consumers, "me") == {"gone": SILENCE_THRESHOLD * 2}


def test_heartbeat_between_two_checks_proves_that_a_consumer_is_alive() -> None:
    before = {"dead": SILENCE_THRESHOLD, "alive": SILENCE_THRESHOLD * 2}
    now = {
        "dead": SILENCE_THRESHOLD + CONFIRMATION_DELAY,
        "alive": SILENCE_THRESHOLD * 1.1,
        "new": SILENCE_THRESHOLD * 2,
    }
    assert liveness.confirmed_dead(before, now) == ["dead"]


def test_consumers_check_in_turns() -> None:
    now = 1000.0 * CHECK_INTERVAL.total_seconds() * 3
    members = {"a": now, "b": now, "c": now, "absent": now - ABSENT_AFTER.total_seconds() * 2, "dead": now}
    order = liveness.active_members(members, ["dead"], "c", now)
    assert order == ["a", "b", "c"]
    turns = {name: liveness.seconds_until_turn(now + 0.25, order, name) for name in order}
    turn = CHECK_INTERVAL.total_seconds()
    assert turns == pytest.approx({"a": 3 * turn - 0.25, "b": turn - 0.25, "c": 2 * turn - 0.25})
    assert liveness.seconds_until_turn(now + turn - 0.05, order, "b") == pytest.approx(3 * turn + 0.05), (
        "its turn has started"
    )


def test_members_expire_when_they_are_absent_and_own_no_entries() -> None:
    names = ("me", "old", "holding", "reading", "stranger")
    consumers = [_consumer(name, int(name == "holding"), SILENCE_THRESHOLD) for name in names]
    members = {"me": 0.0, "old": 0.0, "holding": 0.0, "reading": 900.0}
    assert liveness.expired_members(consumers, members, "me", EXPIRE_AFTER.total_seconds() + 1) == ["old"]
