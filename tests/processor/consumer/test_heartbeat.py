"""Each lease is renewed in time, and the heartbeat reports what it can no longer guarantee."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from streamconsumer.processor.consumer import heartbeat
from streamconsumer.processor.consumer.ack_buffer import AckBuffer
from streamconsumer.processor.consumer.heartbeat import (
    DISCONNECTED_VALID_SECONDS,
    MAX_FAILING_SECONDS,
    MAX_QUICK_RETRIES,
    VALID_SECONDS,
    HeartbeatHooks,
    HeartbeatThread,
)
from streamconsumer.processor.consumer.leases import RENEWAL_PAGE_SIZE
from streamconsumer.processor.consumer.manager import StreamManager
from streamconsumer.processor.message import ConsumerId
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.runtime import Runtime
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group

MIN_IDLE = timedelta(seconds=30)


class FakeRegistration:
    """Registration whose state a test sets."""

    consumer_id = ConsumerId(STREAM, GROUP, "pod-a")

    def __init__(self) -> None:
        self.has_name = self.is_stored = True
        self.is_taken = False
        self.stored = 0
        self.loses_name_when_stored = False

    async def store(self, _execute: Any) -> None:
        self.stored += 1
        if self.loses_name_when_stored:
            self.has_name = False


class FakeConnection:
    """Connection and leases: records what is sent, and fails if a test asks for it."""

    def __init__(self) -> None:
        self.is_connected = True
        self.error: Exception | None = None
        self.renewed: list[list[str]] = []
        self.lost: list[str] = []
        self.commands: list[tuple[Any, ...]] = []
        self.activity = 0
        self.on_renew: Callable[[], object] = lambda: None

    async def connect(self) -> None:
        if self.error:
            raise self.error

    async def execute(self, *command: Any) -> None:
        self.commands.append(command)

    async def renew(self, ids: list[str]) -> list[str]:
        self.renewed.append(ids)
        self.on_renew()
        if self.error:
            raise self.error
        return [each for each in ids if each in self.lost]

    async def show_activity(self) -> None:
        self.activity += 1


class Heart:
    """Heartbeat whose clock a test sets, and the calls that it made."""

    def __init__(self, min_idle: timedelta = MIN_IDLE, clock: Callable[[], float] | None = None) -> None:
        self.now = 100.0
        self.in_flight: list[str] = []
        self.is_alive, self.is_receiving = True, False
        self.alive_answers: list[bool] = []
        self.lost: list[list[str]] = []
        self.names_lost = 0
        self.valid: list[float] = []
        self.problems: list[str] = []
        self.started: list[asyncio.Task[None]] = []
        self.start_error: Exception | None = None
        self.registration, self.connection, self.metrics = FakeRegistration(), FakeConnection(), Metrics()
        self.buffer = AckBuffer(self._send, self.metrics)
        hooks = HeartbeatHooks(
            in_flight_ids=lambda: [*self.in_flight],
            is_alive=self._ask_alive,
            is_receiving=lambda: self.is_receiving,
            on_lost=self.lost.append,
            on_name_lost=self._lose_name,
            on_leases_valid=self.valid.append,
            on_problem=self.problems.append,
        )
        manager: Any = SimpleNamespace(min_idle=min_idle)
        registration: Any = self.registration
        runtime = Runtime(clock=clock or (lambda: self.now), start_thread=self._start)
        self.thread = HeartbeatThread(manager, registration, self.buffer, hooks, metrics=self.metrics, runtime=runtime)

    async def _send(self, ids: Any) -> int:
        return len(ids)

    def _ask_alive(self) -> bool:
        self.alive_answers.append(self.is_alive)
        return self.is_alive

    def _lose_name(self) -> None:
        self.names_lost += 1

    def _start(self, _name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self.start_error:
            raise self.start_error
        self.started.append(asyncio.create_task(main()))

    async def beat(self, ids: list[str] | None = None) -> None:
        """Run one heartbeat, and the calls that it schedules."""
        if ids is not None:
            self.in_flight = ids
        connection: Any = self.connection
        await self.thread._beat(connection, connection)
        await asyncio.sleep(0)


@pytest.fixture
async def heart() -> Heart:
    return Heart()


def ids(count: int) -> list[str]:
    return [f"{number}-0" for number in range(count)]


# -- renewals --------------------------------------------------------------------------------------------------------


async def test_lease_is_renewed_from_the_second_heartbeat_of_its_entry(heart: Heart) -> None:
    await heart.beat(["1-0"])
    await heart.beat(["1-0", "2-0"])
    await heart.beat(["2-0"])
    assert heart.connection.renewed == [["1-0"], ["2-0"]]


async def test_lease_of_an_entry_that_a_script_settles_is_not_renewed(heart: Heart) -> None:
    await heart.beat(["1-0", "2-0"])
    with heart.buffer.settled_by_script(["1-0"]):
        await heart.beat()
    assert heart.connection.renewed == [["2-0"]]


async def test_lost_lease_is_reported_unless_the_entry_is_being_settled(heart: Heart) -> None:
    await heart.beat(["1-0", "2-0", "3-0"])
    heart.connection.lost = ["1-0", "2-0"]
    heart.connection.on_renew = lambda: heart.buffer.ids_in_scripts.add("2-0")
    await heart.beat()
    assert heart.lost == [["1-0"]]
    assert heart.buffer._renewed_ids == {"2-0"}
    assert not heart.connection.commands


async def test_many_leases_are_renewed_in_pages_and_in_turns() -> None:
    heart = Heart(timedelta(seconds=8))  # 20 heartbeats, so that each renews a fifth
    many = ids(1500)
    await heart.beat(many)
    for _ in range(6):
        await heart.beat()
    assert {*map(len, heart.connection.renewed)} == {RENEWAL_PAGE_SIZE, 300 - RENEWAL_PAGE_SIZE}, (
        "300 leases in two pages"
    )
    renewed = [each for page in heart.connection.renewed for each in page]
    assert renewed == [*many, *many[:300]]


@pytest.mark.parametrize(
    ("count", "min_idle", "first", "second"),
    [
        (0, 30, 0, 0),
        (RENEWAL_PAGE_SIZE, 30, 0, 0),  # all of them fit into one page
        (RENEWAL_PAGE_SIZE + 10, 30, 0, RENEWAL_PAGE_SIZE),
        (1000, 1, 0, 0),  # each heartbeat renews all
        (10_000, 8, 0, 2000),
    ],
)
async def test_number_of_renewed_leases(count: int, min_idle: int, first: int, second: int) -> None:
    """`first` and `second` are the numbers of the first ids that the first two heartbeats renew."""
    heart = Heart(timedelta(seconds=min_idle))
    many = ids(count)
    for begin in (first, second):
        selected = heart.thread._select_ids(many)
        size = second or count
        assert selected == [many[(begin + number) % count] for number in range(size)]


@pytest.mark.parametrize(("min_idle", "interval"), [(30, 0.4), (1, 0.25)])
async def test_each_lease_is_renewed_four_times_within_min_idle(min_idle: int, interval: float) -> None:
    assert Heart(timedelta(seconds=min_idle)).thread._interval.total_seconds() == interval


# -- acknowledgements at the same time -------------------------------------------------------------------------------


async def test_renewed_entry_is_acknowledged_again_if_it_was_acknowledged_meanwhile(heart: Heart) -> None:
    """1-0 is sent before, 2-0 waits to be sent, and another consumer owns 3-0."""
    await heart.beat(["1-0", "2-0", "3-0", "4-0"])

    def acknowledge() -> None:
        heart.buffer.add_many(["1-0", "3-0"])
        heart.buffer.take_batch()
        heart.buffer.add("2-0")

    heart.connection.on_renew = acknowledge
    heart.connection.lost = ["3-0"]
    await heart.beat()
    assert heart.connection.commands == [("XACK", STREAM, GROUP, "1-0")]


async def test_acknowledgements_are_repeated_if_the_reply_to_the_renewal_is_lost(heart: Heart) -> None:
    await heart.beat(["1-0", "2-0"])

    def acknowledge_and_fail() -> None:
        heart.buffer.add("1-0")
        heart.buffer.take_batch()
        heart.connection.error = RedisConnectionError("lost")

    heart.connection.on_renew = acknowledge_and_fail
    await heart.beat()
    assert [heart.buffer.is_buffered(each) for each in ("1-0", "2-0")] == [True, False]
    assert heart.metrics.lease_renewals_failed == 1
    assert not heart.connection.commands


async def test_idle_time_is_reset_while_a_large_reply_is_received(heart: Heart) -> None:
    await heart.beat()
    assert heart.connection.activity == 0
    heart.is_receiving = True
    await heart.beat()
    assert heart.connection.activity == 1


# -- the consumer name -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("has_name", "is_stored", "was_interrupted", "stored"),
    [(True, True, False, 0), (True, False, False, 1), (True, True, True, 1), (False, False, True, 0)],
)
async def test_registration_is_stored_if_it_may_be_missing(
    heart: Heart, has_name: bool, is_stored: bool, was_interrupted: bool, stored: int
) -> None:
    heart.registration.has_name, heart.registration.is_stored = has_name, is_stored
    if was_interrupted:
        heart.now += VALID_SECONDS * 2
    await heart.beat()
    assert heart.registration.stored == stored
    await heart.beat()
    assert heart.registration.stored == (2 if has_name and not is_stored else stored)


async def test_process_without_a_name_renews_no_lease(heart: Heart) -> None:
    heart.registration.has_name = False
    await heart.beat(["1-0"])
    await heart.beat()
    assert not heart.connection.renewed
    assert (heart.names_lost, heart.lost, heart.valid) == (0, [], []), "the process never had the name"


async def test_loss_of_the_name_is_reported_once(heart: Heart) -> None:
    heart.registration.is_taken = True
    await heart.beat(["1-0"])
    heart.registration.is_stored, heart.registration.loses_name_when_stored = False, True
    await heart.beat()
    await heart.beat()
    assert (heart.names_lost, heart.lost, heart.valid) == (1, [["1-0"]], [0.0])
    assert not heart.connection.renewed
    assert heart.thread._failing_since is None
    heart.registration.has_name = heart.registration.is_stored = heart.registration.is_taken = True
    await heart.beat()
    heart.registration.has_name = False
    await heart.beat()
    assert heart.names_lost == 2


# -- validity of the leases ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds_since_success", "is_connected", "expected"),
    [
        (0.0, True, VALID_SECONDS),
        (0.4, True, 0.4 + VALID_SECONDS),
        (0.4, False, DISCONNECTED_VALID_SECONDS),
        (16.0, True, DISCONNECTED_VALID_SECONDS),  # longer than half of minIdle
    ],
)
async def test_leases_stay_valid_while_the_heartbeat_runs(
    heart: Heart, seconds_since_success: float, is_connected: bool, expected: float
) -> None:
    steps = int(seconds_since_success / 0.4)
    for _ in range(steps):
        heart.now += 0.4
        heart.thread._tick(is_connected=is_connected)
    heart.thread._tick(is_connected=is_connected)
    assert heart.valid[-1] == pytest.approx(100 + expected)


async def test_interruption_ends_the_validity_until_the_next_renewal(heart: Heart) -> None:
    """Another consumer may have claimed the entries while the process was stopped."""
    heart.now += VALID_SECONDS - 0.1
    heart.thread._tick(is_connected=True)
    assert len(heart.valid) == 1
    heart.now += VALID_SECONDS + 0.1
    heart.thread._tick(is_connected=True)
    heart.thread._tick(is_connected=True)
    assert len(heart.valid) == 1
    await heart.beat()
    heart.thread._tick(is_connected=True)
    assert heart.valid[1:] == [heart.now + VALID_SECONDS]


async def test_interruption_between_two_ticks_is_noticed_by_a_heartbeat(heart: Heart) -> None:
    heart.now += VALID_SECONDS + 0.1
    heart.connection.error = RedisConnectionError("lost")
    await heart.beat()
    heart.thread._tick(is_connected=True)
    assert not heart.valid
    assert heart.metrics.lease_renewals_failed == 1


# -- failures --------------------------------------------------------------------------------------------------------


async def test_failing_renewals_are_reported_once_and_so_is_their_end(
    heart: Heart, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, heartbeat.__name__)
    heart.connection.error = RedisConnectionError("no connection")
    for seconds in (0.0, MAX_FAILING_SECONDS - 0.1, 0.1, 1.0):
        heart.now += seconds
        await heart.beat()
        heart.thread._detect_stop()
    assert heart.problems == [
        "failed to renew the leases of messages in flight; other consumers may claim these messages"
    ]
    assert heart.metrics.lease_renewals_failed == 4
    [warning] = caplog.records
    assert (vars(warning)["error"], vars(warning)["seconds"]) == ("no connection", MAX_FAILING_SECONDS)
    heart.connection.error = None
    await heart.beat()
    await heart.beat()
    assert heart.problems[1:] == [""]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    heart.connection.error = RedisConnectionError("no connection")
    await heart.beat()
    assert len(heart.problems) == 2, "the time of the failures starts again"


async def test_error_of_the_program_ends_the_heartbeat(heart: Heart) -> None:
    heart.connection.error = ValueError("mistake")
    with pytest.raises(ValueError, match="mistake"):
        await heart.beat()
    assert heart.metrics.lease_renewals_failed == 0


async def test_lost_connection_causes_an_immediate_heartbeat_until_heartbeats_fail_again_and_again(
    heart: Heart,
) -> None:
    heart.connection.error = RedisConnectionError("refused")
    is_immediate = []
    for _ in range(MAX_QUICK_RETRIES + 1):
        wakeup = asyncio.Event()
        heart.thread._on_connection_lost(wakeup)
        is_immediate.append(wakeup.is_set())
        await heart.beat()
    assert is_immediate == [True, True, False]
    heart.connection.error = None
    await heart.beat()
    heart.thread._on_connection_lost(wakeup)
    assert wakeup.is_set()


# -- the thread ------------------------------------------------------------------------------------------------------


async def test_thread_that_ends_with_an_error_is_reported(heart: Heart) -> None:
    async def fail() -> None:
        raise ValueError("mistake")

    heart.thread._heartbeat_loop = fail  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="mistake"):
        await heart.thread.run()
    assert heart.problems == ["the heartbeat thread has ended"]
    assert heart.valid == [100 + VALID_SECONDS]

    gate = asyncio.Event()

    async def end() -> None:
        await gate.wait()

    heart.thread._heartbeat_loop = end  # type: ignore[method-assign]
    running = asyncio.create_task(heart.thread.run())
    await eventually(lambda: len(heart.started) == 2)
    assert not running.done(), "the end of the first thread is not that of the second"
    gate.set()
    await running


async def test_thread_that_cannot_start_is_reported(heart: Heart) -> None:
    heart.start_error = RuntimeError("can't start new thread")
    with pytest.raises(RuntimeError):
        await heart.thread.run()
    assert heart.problems == ["the heartbeat thread cannot start"]


async def test_stopped_heartbeat_does_not_start(heart: Heart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "STOP_TIMEOUT_SECONDS", 0.01)
    await heart.thread.stop()
    await heart.thread.run()
    assert not heart.started
    assert not heart.valid


async def test_error_after_the_stop_is_not_reported(heart: Heart) -> None:
    async def fail_after_stop() -> None:
        await eventually(lambda: heart.thread._is_stopping)
        raise ValueError("mistake")

    heart.thread._heartbeat_loop = fail_after_stop  # type: ignore[method-assign]
    running = asyncio.create_task(heart.thread.run())
    await eventually(lambda: heart.started)
    await heart.thread.stop()
    await running
    assert not heart.problems


async def test_renewal_that_does_not_end_is_cancelled(heart: Heart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "STOP_TIMEOUT_SECONDS", 0.01)
    calls: list[str] = []
    heart.thread._request_stop = lambda: calls.append("stop")
    heart.thread._abort = lambda: calls.append("abort")
    await heart.thread.stop()
    assert calls == ["stop", "abort"]
    calls.clear()
    heart.thread._ended.set()
    await heart.thread.stop()
    assert calls == ["stop"]


async def test_calls_into_a_closed_event_loop_are_ignored(heart: Heart) -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    heart.thread._loop = loop
    heart.registration.has_name = True
    await heart.beat()
    heart.registration.has_name = False
    await heart.beat()


class Beating:
    """Heartbeat that runs in the event loop of the test, and whose connection goes to a real server."""

    def __init__(self, group: Group) -> None:
        self.heart = Heart(timedelta(seconds=0.2), asyncio.get_running_loop().time)
        self.manager = group.manager(min_idle=0.2)
        self.heart.thread._manager = self.manager
        self.manager.clone = self._clone  # type: ignore[method-assign]
        self.clones = 0
        """Number of copies of the manager that are open."""
        self.beats = 0
        self.connection: Any = None
        self.identities: list[str] = []
        registration: Any = self.heart.registration
        registration.token = "token"
        registration.set_identity = lambda purpose, _identity: self.identities.append(purpose)
        self.heart.thread._beat = self._beat  # type: ignore[method-assign]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        running = asyncio.create_task(self.heart.thread.run())
        yield
        await self.heart.thread.stop()
        await running

    def _clone(self) -> StreamManager:
        copy = StreamManager.clone(self.manager)

        async def close() -> None:
            self.clones -= 1
            await StreamManager.aclose(copy)

        copy.aclose = close  # type: ignore[method-assign]
        self.clones += 1
        return copy

    async def _beat(self, connection: Any, leases: Any) -> None:
        self.connection = connection
        began = asyncio.get_running_loop().time()
        await connection.connect()
        await leases.show_activity()
        self.heart.thread._record_success(began)
        self.beats += 1


@pytest.fixture
async def beating(group: Group) -> AsyncIterator[Beating]:
    await group.create_group()
    beating = Beating(group)
    async with beating.running():
        yield beating


async def test_heartbeats_follow_each_other_until_the_stop(beating: Beating, group: Group) -> None:
    await eventually(lambda: beating.beats >= 3)
    assert beating.clones == 1
    assert beating.identities == ["heartbeat"]
    assert {"pod-a"} <= await group.consumers()
    await beating.heart.thread.stop()
    assert beating.heart.thread._ended.is_set()
    assert not beating.connection.is_connected
    assert beating.clones == 0, "the copy of the manager is closed"
    beats = beating.beats
    await asyncio.sleep(0.12)
    assert beating.beats == beats
    assert len(beating.heart.valid) > 2, "the validity is published between the heartbeats"
    count = len(beating.heart.valid)
    await asyncio.sleep(0.12)
    assert len(beating.heart.valid) == count


async def test_process_that_is_not_alive_sends_no_heartbeat(beating: Beating) -> None:
    heart = beating.heart
    await eventually(lambda: beating.beats)
    heart.is_alive = False
    await eventually(lambda: False in heart.alive_answers)
    beats = beating.beats
    await eventually(lambda: heart.alive_answers.count(False) >= 3)
    assert beating.beats == beats
    heart.is_alive = True
    await eventually(lambda: beating.beats > beats)


async def test_heartbeat_follows_the_loss_of_its_connection_immediately(group: Group) -> None:
    await group.create_group()
    beating = Beating(group)
    beating.heart.thread._interval = timedelta(seconds=60)
    async with beating.running():
        await eventually(lambda: beating.beats == 1)
        beating.connection.abort()
        await eventually(lambda: beating.beats == 2)
        await asyncio.sleep(0.06)
        assert beating.beats == 2, "one loss causes one heartbeat"


async def test_stop_ends_the_wait_for_the_next_heartbeat(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """The heartbeat runs in a thread of its own, and is stopped twice."""
    monkeypatch.setattr(heartbeat, "STOP_TIMEOUT_SECONDS", 60)
    await group.create_group()
    beating = Beating(group)
    beating.heart.thread._interval = timedelta(seconds=60)
    beating.heart.thread._runtime = Runtime()
    running = asyncio.create_task(beating.heart.thread.run())
    await eventually(lambda: beating.beats)
    await asyncio.wait_for(beating.heart.thread.stop(), 10)
    await running
    for thread in threading.enumerate():
        if thread.name == "heartbeat":
            await asyncio.to_thread(thread.join)
    await beating.heart.thread.stop()


async def test_error_of_the_ticks_ends_the_thread(group: Group) -> None:
    beating = Beating(group)
    await group.create_group()

    def fail(*, is_connected: bool) -> None:
        raise ValueError(is_connected)

    beating.heart.thread._tick = fail  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"True|False"):
        await beating.heart.thread.run()


async def test_running_renewal_is_cancelled_at_the_stop(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "STOP_TIMEOUT_SECONDS", 0.05)
    beating = Beating(group)

    async def wait(connection: Any, leases: Any) -> None:
        beating.beats += 1
        await asyncio.Event().wait()

    beating.heart.thread._beat = wait  # type: ignore[method-assign]
    running = asyncio.create_task(beating.heart.thread.run())
    await eventually(lambda: beating.beats)
    await beating.heart.thread.stop()
    await running
    [task] = beating.heart.started
    await asyncio.wait([task])
    assert task.cancelled()
