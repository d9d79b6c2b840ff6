"""Dead consumers are detected within seconds, and live ones are left alone.

A message that crashes its process becomes a dead letter without the other messages of its batch.
"""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from redis.exceptions import ResponseError

from streamconsumer.model.processor_settings import Retention
from streamconsumer.processor import BatchFailed, RedisStreamProcessor, Reject, Retry
from streamconsumer.processor.consumer import claimer, liveness
from streamconsumer.processor.consumer.claimer import ClaimPage, PendingClaimer
from streamconsumer.processor.consumer.dedicated_connection import DedicatedConnection
from streamconsumer.processor.consumer.heartbeat import HeartbeatHooks, HeartbeatThread
from streamconsumer.processor.consumer.leases import Leases
from streamconsumer.processor.consumer.observer import Check
from streamconsumer.processor.consumer.pending_entries import Dead, PendingEntry
from streamconsumer.processor.consumer.redis_consumer import RedisConsumer
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.runtime import DEFAULT_RUNTIME, Runtime
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, group_key
from streamconsumer.redis_client.scripts import MAX_CONSUMERS
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.pod import NewPod
from tests.processor.proxy import Proxy
from tests.processor.recorder import Recorder

DEAD_LETTERS, CONSUMERS = group_key(STREAM, GROUP, "dead-letters"), group_key(STREAM, GROUP, "consumers")


def claimer_of(processor: RedisStreamProcessor) -> PendingClaimer:
    consumer = processor._pipeline.consumer
    assert isinstance(consumer, RedisConsumer)
    assert consumer.claimer is not None
    return consumer.claimer


async def wait_until_seen(observer: RedisStreamProcessor, name: str) -> None:
    """Wait until a processor can prove the death of a consumer by its connections."""
    await eventually(partial(claimer_of(observer)._observer.has_seen, name))


class Heart:
    """Heartbeat of a processor, whose beats a test runs in the event loop of the processor."""

    def __init__(self, consumer: RedisConsumer, in_flight_ids: Callable[[], list[str]] = list) -> None:
        self.lost: list[str] = []
        hooks = HeartbeatHooks(
            in_flight_ids=in_flight_ids,
            is_alive=lambda: True,
            is_receiving=lambda: False,
            on_lost=self.lost.extend,
            on_name_lost=lambda: None,
            on_leases_valid=lambda _until: None,
            on_problem=lambda _problem: None,
        )
        self.connection = DedicatedConnection(consumer.manager, 10**6)
        self.leases = Leases(self.connection.execute, *consumer.consumer_id)
        self.thread = HeartbeatThread(
            consumer.manager,
            consumer.registration,
            consumer.ack_buffer,
            hooks,
            metrics=Metrics(),
            runtime=DEFAULT_RUNTIME,
        )


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
    processor = await group.start(peer, "pod-b", concurrency=10)
    await wait_until_seen(processor, "pod-a")
    pod.signal(signal.SIGKILL)
    killed = time.monotonic()
    await peer.wait_until_finished(100)
    print(f"\nkill -9 to the last of 100 taken over: {time.monotonic() - killed:.2f} s")
    assert sorted(peer.ids) == sorted(ids)
    await group.wait_settled()


async def test_pod_without_a_free_slot_wakes_another_pod_for_the_messages_of_a_killed_pod(
    group: Group, new_pod: NewPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn of the other pod never comes. With many full pods, its turn would come after seconds.

    The full pod does not share connections that have ended, which it lists only now and then."""

    async def share_nothing() -> None:
        pass

    await group.add(3, {"seconds": "60"})
    pod = new_pod("pod_handlers:slow", concurrency="3").start()
    await pod.wait_for_log("started", times=3)
    full = Recorder(gate=False)
    full_pod = await group.start(full, "pod-b")
    await group.add(1)
    await full.wait_until_received(1)
    peer = Recorder()
    idle_pod = await group.start(peer, "pod-c", poll=30)
    for processor in (full_pod, idle_pod):
        await wait_until_seen(processor, "pod-a")
    monkeypatch.setattr(claimer_of(full_pod), "_share_missing", share_nothing)
    monkeypatch.setattr(claimer_of(idle_pod), "seconds_until_turn", lambda: 3600.0)
    claimer_of(idle_pod).wakeup.set()
    await eventually(lambda: not claimer_of(idle_pod).wakeup.is_set())
    pod.signal(signal.SIGKILL)
    await peer.wait_until_finished(3)


async def test_50_000_names_of_another_program_neither_delay_nor_burden_the_checks(
    group: Group, new_pod: NewPod
) -> None:
    await group.create_group()
    pipeline = group.client.pipeline(transaction=False)
    for number in range(50_000):
        pipeline.xgroup_createconsumer(STREAM, GROUP, f"leaked-{number}")
    await pipeline.execute()
    ids = await group.add(3, {"seconds": "60"})
    pod = new_pod("pod_handlers:slow", concurrency="3").start()
    await pod.wait_for_log("started", times=3)
    peer = Recorder()
    processor = await group.start(peer, "pod-b")
    await wait_until_seen(processor, "pod-a")
    await group.client.config_resetstat()
    pod.signal(signal.SIGKILL)
    await peer.wait_until_finished(3)
    assert sorted(peer.ids) == sorted(ids)
    statistics = await group.client.info("commandstats")
    assert statistics["cmdstat_evalsha"]["usec_per_call"] < 10_000


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
    """Every consumer was silent, and each observer has lost its connection or waits for its reply."""
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
    await any_group.start(peer, "pod-b", min_idle=2)
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
    await asyncio.sleep(20)  # until each pod has read the announcements of all pods
    await group.reset_command_counts()
    await asyncio.sleep(8)
    commands = await group.command_counts()
    assert set(commands) <= {"evalsha", "xinfo", "hget", "xack", "hscan", "hset", "time"}, "only the checks are sent"
    assert 4 <= commands["xinfo"] <= 8 + 1


async def test_consumer_announces_itself_by_the_clock_of_the_server_after_a_suspension(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the event loop stops while a virtual machine is suspended."""
    monkeypatch.setattr(liveness, "ANNOUNCE_INTERVAL", timedelta(seconds=0.5))
    processor = await group.start(Recorder())
    consumer = processor._pipeline.consumer
    assert isinstance(consumer, RedisConsumer)
    assert consumer.claimer
    await group.wait_until_reading()
    observer = consumer.claimer._observer
    observer._clock_offset_seconds -= 3600
    await group.client.delete(CONSUMERS)

    async def is_announced() -> bool:
        announced_at = await group.client.hget(CONSUMERS, "pod-a")
        return announced_at is not None and abs(int(announced_at) - (await group.client.time())[0]) <= 2

    await eventually(is_announced)
    assert abs(observer.now_seconds - (await group.client.time())[0]) <= 2


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
    heart = Heart(intake)
    target = intake._dead_letter_writer if script == "write_many" else intake.leases
    run = getattr(target, script)

    async def run_and_renew(*arguments: Any) -> Any:
        reply = await run(*arguments)
        with intake.ack_buffer.acked_during() as acked_ids:
            await heart.thread._renew(heart.leases, heart.connection, [message_id], acked_ids)
        return reply

    setattr(target, script, run_and_renew)
    [message_id] = await group.add(1)
    await eventually(lambda: processor.metrics.failed == 1 and not processor._pipeline.in_flight.ids())
    await processor.stop_listening()
    assert Counter(each.consumer for each in await group.entries()) == left
    assert not heart.lost
    await heart.connection.close()
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
    heart = Heart(consumer, in_flight.ids)
    write_many = consumer._dead_letter_writer.write_many

    async def beat_and_write(*arguments: Any) -> Any:
        for _ in range(2):  # a heartbeat renews only entries that were in flight at the last beat
            await heart.thread._beat(heart.connection, heart.leases)
        return await write_many(*arguments)

    monkeypatch.setattr(consumer._dead_letter_writer, "write_many", beat_and_write)
    await group.add(5)
    await eventually(lambda: processor.metrics.failed == 5 and not in_flight.ids())
    await processor.stop_listening()
    assert Counter(entry.consumer for entry in await group.entries()) == {POSTPONED_CONSUMER: len(sizes)}
    assert not heart.lost
    await heart.connection.close()
    assert not consumer.ack_buffer.ids_in_scripts


async def test_frozen_pod_keeps_its_messages(group: Group, new_pod: NewPod) -> None:
    """Its connections exist, so that only `minIdle` proves its death. The CPU limit of a container also freezes it."""
    await group.add(3, {"seconds": "6"})
    pod = new_pod("pod_handlers:slow", concurrency="3").start()
    await pod.wait_for_log("started", times=3)
    peer = Recorder()
    processor = await group.start(peer, "pod-b")
    await wait_until_seen(processor, "pod-a")
    pod.signal(signal.SIGSTOP)
    await asyncio.sleep(5)
    pod.signal(signal.SIGCONT)
    await group.wait_settled()
    assert not peer.received
    assert len(pod.find_log("started")) == 3


async def test_messages_of_a_dead_pod_are_claimed_after_min_idle_without_permission_to_list_connections(
    group: Group, new_pod: NewPod, caplog: pytest.LogCaptureFixture
) -> None:
    user = ("ACL", "SETUSER", "shop", "on", ">pw", "~*", "+@all", "-client|list", "-info")
    await group.client.execute_command(*user)  # type: ignore[no-untyped-call] # ships no types
    await group.add(1, {"seconds": "60"})
    pod = new_pod("pod_handlers:slow").start()
    await pod.wait_for_log("started")
    group.url = f"redis://shop:pw@{group.server.host}:{group.server.port}/0"
    peer = Recorder()
    await group.start(peer, "pod-b", min_idle=4)
    await group.wait_until_reading()
    pod.signal(signal.SIGKILL)
    killed = time.monotonic()
    await peer.wait_until_finished(1)
    assert time.monotonic() - killed > 3
    problems = [
        record for record in caplog.records if "connections of other consumers cannot be listed" in record.message
    ]
    assert len(problems) == 1


async def test_child_of_a_dead_pod_does_not_make_the_pod_look_alive(group: Group, new_pod: NewPod) -> None:
    """The child inherits the sockets of the pod."""
    await group.add(1, {"seconds": "60"})
    pod = new_pod("pod_handlers:fork_and_sleep").start()
    [line] = await pod.wait_for_log("forked")
    peer = Recorder()
    processor = await group.start(peer, "pod-b")
    try:
        await wait_until_seen(processor, "pod-a")
        pod.signal(signal.SIGKILL)
        await peer.wait_until_finished(1)
        os.kill(int(line["child"]), 0)  # the child still runs
    finally:
        os.kill(int(line["child"]), signal.SIGKILL)


@ON_ONE_SERVER
async def test_live_entry_behind_many_trimmed_ones_is_claimed(any_group: Group) -> None:
    await any_group.create_group()
    trimmed = await any_group.add(2000)
    [live] = await any_group.add()
    await any_group.read_as("stranger", 2001)
    await any_group.client.xdel(STREAM, *trimmed)
    peer = Recorder()
    processor = await any_group.start(peer, min_idle=1)
    await peer.wait_until_finished(1)
    assert peer.ids == [live]
    assert processor.metrics.lost_to_trimming == 2000


@ON_ONE_SERVER
async def test_consumer_whose_name_is_not_utf_8_stops_nothing(any_group: Group) -> None:
    await any_group.create_group()
    ids = await any_group.add(3)
    await any_group.client.xreadgroup(GROUP, b"worker-\xff\xfe", {STREAM: ">"}, 10)  # type: ignore[arg-type]
    peer = Recorder()
    await any_group.start(peer, min_idle=1)
    await peer.wait_until_finished(3)
    assert sorted(peer.ids) == sorted(ids)


@ON_ONE_SERVER
async def test_new_owner_keeps_the_entries_of_a_dead_consumer(any_group: Group) -> None:
    """The evidence is about one consumer. An entry that a third consumer has claimed meanwhile is not claimed."""
    await any_group.create_group()
    [message_id] = await any_group.add()
    await any_group.read_as("pod-a")
    await any_group.claim([message_id], "pod-c", idle_ms=5000)
    processor = await any_group.start(Recorder())
    consumer = processor._pipeline.consumer
    assert isinstance(consumer, RedisConsumer)
    pending = [PendingEntry(message_id, 1)]
    claimed = await consumer.pending_entries.claim(pending, Dead("pod-a", timedelta(seconds=1)))
    assert not claimed.entries
    claimed = await consumer.pending_entries.claim(pending, Dead("pod-c", timedelta(seconds=1)))
    assert [entry.message_id for entry in claimed.entries] == [message_id]


@ON_ONE_SERVER
@pytest.mark.parametrize(("registration", "run_id"), [("changed", ""), ("", "other run")])
async def test_claim_needs_the_judged_registration_on_the_same_server(
    any_group: Group, registration: str, run_id: str
) -> None:
    await any_group.create_group()
    [message_id] = await any_group.add()
    await any_group.read_as("pod-a")
    await any_group.claim([message_id], "pod-a", idle_ms=5000)
    await any_group.client.hset(group_key(STREAM, GROUP, "registrations"), "pod-a", "judged")
    processor = await any_group.start(Recorder(), "pod-b")
    consumer = processor._pipeline.consumer
    assert isinstance(consumer, RedisConsumer)
    server_run_id = str((await any_group.client.info("server"))["run_id"])
    dead = Dead("pod-a", timedelta(seconds=1), registration or "judged", run_id or server_run_id)
    assert not (await consumer.pending_entries.claim([PendingEntry(message_id, 1)], dead)).entries
    dead = Dead("pod-a", timedelta(seconds=1), "judged", server_run_id)
    assert (await consumer.pending_entries.claim([PendingEntry(message_id, 1)], dead)).entries


# -- single steps ------------------------------------------------------------------------------------------------------


class FoundByTest:
    """Observer that has found what a test sets."""

    def __init__(self) -> None:
        self.now_seconds = 1_000_000.0
        self.is_busy = self.has_postponed = self.has_searched = self.is_over_limit = False
        self.suspected: set[str] = set()
        self.last = Check()
        self.members: dict[str, float] = {}
        self.missing: frozenset[str] = frozenset()
        self.dead: list[Dead] = []
        self.consumer_count = 1
        self.error: Exception | None = None
        self.delay_seconds = 0.0
        self.is_closed = False

    async def check(self) -> None:
        await asyncio.sleep(self.delay_seconds)
        if self.error:
            raise self.error

    async def close(self) -> None:
        self.is_closed = True


class Claims:
    """Claimer of a consumer that is not started, on a real server."""

    def __init__(self, group: Group) -> None:
        self.in_flight: list[str] = []
        self.metrics = Metrics()
        manager = group.manager(retention=Retention(acknowledged=True))
        self.consumer = RedisConsumer(
            manager,
            STREAM,
            GROUP,
            "pod-a",
            block=timedelta(seconds=1),
            metrics=self.metrics,
            in_flight_ids=lambda: self.in_flight,
        )
        self.claimer = PendingClaimer(self.consumer, self.metrics)
        self.found = FoundByTest()
        self.claimer._observer = self.found  # type: ignore[assignment]
        self.calls: list[str] = []
        reads = self.consumer.blocking_reads
        for name in ("on_no_reply", "end", "end_long"):
            setattr(reads, name, partial(self.calls.append, name))

    async def pages(self) -> list[tuple[str, str]]:
        """Return kind and name of each page that a check finds."""
        pages = await self.claimer.find_claimable()
        return [(page.kind, getattr(page.claim, "func", page.claim).__name__) for page in pages]

    def record_wakeups(self) -> list[Collection[str]]:
        """Return the list in which each further call of `wake_peer` records the absent consumers."""
        calls: list[Collection[str]] = []

        async def wake_peer(_execute: Any, _random: Any, absent: Collection[str] = ()) -> None:
            calls.append(absent)

        self.consumer.registration.wake_peer = wake_peer  # type: ignore[assignment,method-assign]
        return calls

    async def is_replayed(self, page: ClaimPage) -> bool:
        """Claim a page that fails. Returns True if the consumer reads its own pending entries again."""
        self.consumer.replay._after = None
        with pytest.raises(ResponseError):
            await page.claim(10)
        return self.consumer.replay.is_pending


@pytest.fixture
async def claims(group: Group) -> AsyncIterator[Claims]:
    await group.create_group()
    claims = Claims(group)
    yield claims
    await claims.consumer.bounded_reads.close()


async def test_heartbeat_gets_the_state_of_the_consumer(claims: Claims) -> None:
    lost: list[str] = []
    problems: list[str] = []
    consumer = claims.consumer
    runtime = Runtime(clock=lambda: 7.0)
    claimer_ = PendingClaimer(consumer, claims.metrics, runtime)
    thread = claimer_.heartbeat(
        in_flight_ids=lambda: ["1-0"], on_lost=lost.extend, is_alive=lambda: False, on_problem=problems.append
    )
    hooks = thread._hooks
    assert (hooks.in_flight_ids(), hooks.is_alive(), hooks.is_receiving()) == (["1-0"], False, False)
    hooks.on_lost(["1-0"])
    hooks.on_problem("refused")
    hooks.on_leases_valid(5.0)
    assert (lost, problems, consumer.leases_valid_until) == (["1-0"], ["refused"], 5.0)
    assert hooks.on_name_lost == consumer.on_name_lost
    assert (thread._ack_buffer, thread._metrics) == (consumer.ack_buffer, claims.metrics)
    assert (thread._registration, thread._clock()) == (consumer.registration, 7.0)


async def test_claimer_shows_the_state_of_the_group(claims: Claims, group: Group) -> None:
    assert claims.claimer.wakeup is claims.consumer.wakeup
    assert not claims.claimer.is_watching
    claims.found.is_busy = True
    assert claims.claimer.is_watching
    assert await claims.claimer.save_snapshot()
    assert not await claims.claimer.save_snapshot(), "the snapshot was saved just now"
    await claims.claimer.close()
    assert claims.found.is_closed


async def test_check_observes_the_group_on_behalf_of_the_consumer(claims: Claims, group: Group) -> None:
    claimer_ = PendingClaimer(claims.consumer, claims.metrics)
    [page] = await claimer_.find_claimable()
    assert page.kind == "upkeep"
    assert await group.client.hkeys(CONSUMERS) == ["pod-a"]
    await claimer_.close()


@pytest.mark.parametrize(
    ("state", "members", "interval"),
    [
        ({}, "", 1.2),
        ({"is_busy": True}, "", 0.6),
        ({"in_flight": ["1-0"]}, "", 0.6),
        ({}, "b", 2.4),
        ({"missing": frozenset("b")}, "b", 1.2),
        ({"last": Check({"b": timedelta(seconds=1)})}, "b", 1.2),
        ({}, "bcdefghijklmn", 16.8),
        ({"last": Check({"other": timedelta(seconds=25)})}, "bcdefghijklmn", 5.0),  # until minIdle has passed
        ({"suspected": {"other"}}, "bcdefghijklmn", 0.9),
    ],
)
async def test_next_check_follows_the_turns(
    claims: Claims, state: dict[str, Any], members: str, interval: float
) -> None:
    found = claims.found
    for name, value in state.items():
        setattr(claims if name == "in_flight" else found, name, value)
    found.now_seconds = 16_800 + 1.2 * len(set(members) - {*found.missing, *found.last.silent})  # the turn of pod-a
    found.members = dict.fromkeys(["pod-a", *members], found.now_seconds)
    assert claims.claimer.seconds_until_turn() == pytest.approx(interval, abs=0.01)


async def test_check_of_a_lost_group_ends_the_read(claims: Claims) -> None:
    claims.found.error = ResponseError("NOGROUP No such key")
    assert await claims.pages() == []
    assert claims.calls == ["end"]
    claims.found.error = ResponseError("LOADING Redis is loading")
    with pytest.raises(ResponseError, match="LOADING"):
        await claims.pages()
    assert claims.calls == ["end"]


async def test_check_without_a_reply_ends_the_read(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claimer, "READ_TIMEOUT_MARGIN", timedelta(seconds=0.02))
    claims.found.delay_seconds = 0.08
    await claims.pages()
    assert claims.calls == ["on_no_reply"]
    claims.found.delay_seconds = 0.0
    await claims.pages()
    await asyncio.sleep(0.05)
    assert claims.calls == ["on_no_reply"], "the reply has arrived"


@pytest.mark.parametrize(
    ("silent", "in_flight", "is_lost"), [("pod-a", [], True), ("pod-a", ["1-0"], False), ("pod-b", [], False)]
)
async def test_own_entries_that_are_not_in_flight_show_a_lost_reply(
    claims: Claims, silent: str, in_flight: list[str], is_lost: bool
) -> None:
    claims.consumer.replay._after = None
    claims.in_flight = in_flight
    claims.found.last = Check({silent: timedelta(seconds=2)})
    await claims.pages()
    assert claims.calls == (["end_long"] if is_lost else [])
    assert claims.consumer.replay.is_pending is is_lost


async def test_check_finds_work_in_the_order_of_its_urgency(claims: Claims) -> None:
    found = claims.found
    upkeep = ("upkeep", "_maintain")
    assert await claims.pages() == [upkeep]
    found.dead = [Dead("pod-b", timedelta(0)), Dead("pod-c", timedelta(0))]
    assert await claims.pages() == [("dead", "_claim_from_dead")] * 2 + [upkeep]
    found.dead, found.has_searched = [], True
    assert await claims.pages() == [upkeep]
    found.has_postponed = True
    repair = ("upkeep", "_repair_schedule")
    assert await claims.pages() == [("due", "claim_due"), repair, upkeep]
    found.has_postponed = found.has_searched = False
    assert await claims.pages() == [repair, upkeep], "the repair has not ended yet"


async def test_schedule_is_repaired_over_several_checks(claims: Claims, group: Group) -> None:
    ids = await group.add(310)
    await group.read_as(POSTPONED_CONSUMER, 310)
    await group.claim(ids, POSTPONED_CONSUMER, idle_ms=60_000)
    claims.found.has_postponed = claims.found.has_searched = True
    is_left = []
    for _ in range(2):
        _, repair, _ = await claims.claimer.find_claimable()
        page = await repair.claim(10)
        assert not page.entries
        is_left.append(page.has_more)
    assert is_left == [True, False]
    assert await group.client.zcard(group_key(STREAM, GROUP, "postponed")) == 310
    claims.found.has_searched = False
    assert len(await claims.pages()) == 2, "no repair is in progress"


async def test_expired_consumers_are_deleted_and_the_stream_is_trimmed(
    claims: Claims, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claimer, "MAX_DELETED", 2)
    await group.add(5)
    for message_id in await group.read_as("pod-b"):
        await group.client.xack(STREAM, GROUP, message_id)
    found = claims.found
    found.members = {"pod-a": 0.0, "pod-b": 0.0, "pod-c": 0.0, "pod-d": 0.0, "new": found.now_seconds}
    await claims.claimer.find_claimable()

    async def maintain() -> int:
        [upkeep] = await claims.claimer.find_claimable()
        assert await upkeep.claim(10) == claimer.NOTHING_LEFT
        return int(await group.client.xlen(STREAM))

    assert await maintain() == 5, "the first consumer of the group trims"
    assert [*found.members] == ["pod-a", "pod-d", "new"]
    assert not await group.consumers()
    del found.members["new"]
    assert [await maintain() for _ in range(2)] == [5, 5], "trimmed only after two consecutive checks"
    claims.claimer._trim_at_seconds -= claimer.TRIM_INTERVAL.total_seconds()
    assert await maintain() == 0
    assert [*found.members] == ["pod-a"]
    assert claims.metrics.trimmed == 5


async def test_other_consumers_trim_and_failures_are_logged(
    claims: Claims, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    claims.found.members = {"a": claims.found.now_seconds, "pod-a": claims.found.now_seconds}
    await claims.claimer._trim(claims.found.now_seconds)
    assert claims.claimer._trim_at_seconds == 0.0
    await group.client.set(STREAM, "text")
    claims.found.members.clear()
    await claims.claimer._trim(claims.found.now_seconds)
    assert "failed to trim the stream; retrying" in caplog.text
    disabled = PendingClaimer(
        RedisConsumer(group.manager(), STREAM, GROUP, "pod-a", block=timedelta(seconds=1), metrics=Metrics()), Metrics()
    )
    await disabled._trim(0.0)
    assert disabled._trim_at_seconds == 0.0


async def test_peer_is_woken_once_if_further_consumers_have_ended(claims: Claims) -> None:
    absent, found = claims.record_wakeups(), claims.found
    for is_busy, missing in [(False, "b"), (True, "b"), (True, "bc"), (True, "bc"), (True, "b"), (True, "")]:
        found.is_busy, found.missing = is_busy, frozenset(missing)
        await claims.pages()
    assert absent == [{"b", "c"}]


async def test_peer_is_woken_once_for_each_dead_consumer(claims: Claims) -> None:
    absent, found = claims.record_wakeups(), claims.found
    for names in ("b", "bc", "c", "c", "", "c"):
        found.dead = [Dead(name, timedelta(seconds=1)) for name in names]
        await claims.pages()
        if names:
            await claims.claimer.share_dead()
    assert absent == [{"b"}, {"b", "c"}, {"c"}]


async def test_too_many_consumers_are_reported_once(claims: Claims, caplog: pytest.LogCaptureFixture) -> None:
    found = claims.found
    for is_over_limit in (True, True, False, False, True):
        found.is_over_limit, found.consumer_count = is_over_limit, MAX_CONSUMERS + 1
        await claims.pages()
    assert [vars(record)["error"] for record in caplog.records] == [f"found {MAX_CONSUMERS + 1} consumers"] * 2


async def test_entries_of_a_dead_consumer_are_claimed_unless_they_are_in_flight_or_acknowledged(
    claims: Claims, group: Group
) -> None:
    await group.add(6)
    ids = await group.read_as("pod-b")
    await group.claim(ids, "pod-b", idle_ms=60_000)
    in_flight, acknowledged, settled_meanwhile, *left = ids
    claims.in_flight = [in_flight]
    buffer, claim = claims.consumer.ack_buffer, claims.consumer.claim
    buffer.add(acknowledged)
    buffer.take_batch()

    async def claim_and_settle(*arguments: Any) -> Any:
        claimed = await claim(*arguments)
        buffer.record_acked(settled_meanwhile)
        return claimed

    claims.consumer.claim = claim_and_settle  # type: ignore[assignment,method-assign]
    claims.found.dead = [Dead("pod-b", timedelta(seconds=30))]
    page, _ = await claims.claimer.find_claimable()
    claims.consumer.replay._after = None
    first = await page.claim(3)
    assert [entry.message_id for entry in first.entries] == left[:2]
    assert {(entry.origin.value, entry.claimed_from) for entry in first.entries} == {("claimed", "pod-b")}
    assert first.has_more
    claims.consumer.read_size.max_count = 1
    second = await page.claim(3)
    assert [entry.message_id for entry in second.entries] == left[2:]
    assert await page.claim(3) == claimer.NOTHING_LEFT
    assert claims.metrics.claimed == 3
    assert not claims.consumer.replay.is_pending


async def test_page_of_trimmed_entries_is_not_the_last(claims: Claims, group: Group) -> None:
    await group.add(1)
    ids = await group.read_as("pod-b")
    await group.claim(ids, "pod-b", idle_ms=60_000)
    await group.client.xdel(STREAM, *ids)
    claims.found.dead = [Dead("pod-b", timedelta(seconds=30))]
    page, _ = await claims.claimer.find_claimable()
    assert await page.claim(3) == claimer.ClaimedPage([], has_more=True)
    assert await page.claim(3) == claimer.NOTHING_LEFT
    assert claims.metrics.lost_to_trimming == 1


async def test_due_entries_are_claimed_up_to_the_room(claims: Claims, group: Group) -> None:
    ids = await group.add(5)
    await group.read_as(POSTPONED_CONSUMER)
    await group.client.xdel(STREAM, ids[4])
    await group.client.zadd(group_key(STREAM, GROUP, "postponed"), dict.fromkeys(ids, 1))
    claims.consumer.replay._after = None
    first = await claims.claimer.claim_due(3)
    assert ([entry.message_id for entry in first.entries], first.has_more) == (ids[:3], True)
    claims.consumer.read_size.max_count = 1
    assert [entry.message_id for entry in (await claims.claimer.claim_due(3)).entries] == ids[3:4]
    assert await claims.claimer.claim_due(3) == claimer.ClaimedPage([], has_more=True)
    assert await claims.claimer.claim_due(3) == claimer.NOTHING_LEFT
    assert (claims.metrics.claimed, claims.metrics.lost_to_trimming) == (4, 1)
    assert not claims.consumer.replay.is_pending


async def test_failed_claim_causes_a_replay(claims: Claims, group: Group) -> None:
    """Redis may have executed the claim although its reply was lost."""
    await group.client.delete(STREAM)
    await group.client.set(STREAM, "text")
    claims.found.dead, claims.found.has_postponed = [Dead("pod-b", timedelta(0))], True
    await group.client.zadd(group_key(STREAM, GROUP, "postponed"), {"1-0": 1})
    dead, due, _ = await claims.claimer.find_claimable()
    assert await claims.is_replayed(dead)
    assert await claims.is_replayed(due)
