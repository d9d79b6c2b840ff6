"""Heartbeat: renews the leases of the entries in flight from a separate thread, and registers the consumer.

The heartbeat thread keeps the leases of the entries in flight alive while a handler blocks the event loop. The thread
opens its connection at the start and keeps it open, because a server that has reached `maxclients` accepts no new
connection.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice

from redis.exceptions import RedisError

from streamconsumer.processor.consumer.ack_buffer import AckBuffer
from streamconsumer.processor.consumer.dedicated_connection import DedicatedConnection
from streamconsumer.processor.consumer.leases import RENEWAL_PAGE_SIZE, Leases
from streamconsumer.processor.consumer.liveness import HEARTBEAT_INTERVAL
from streamconsumer.processor.consumer.manager import MAX_REPLY_BYTES, StreamManager
from streamconsumer.processor.consumer.raw_connection import RawConnection
from streamconsumer.processor.consumer.registration import OwnRegistration, identify
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.runtime import Runtime

log = logging.getLogger(__name__)

STOP_TIMEOUT_SECONDS = 0.5
"""Time for which `stop` waits for a running renewal."""

RENEWALS_PER_MIN_IDLE = 4
"""Minimum number of renewals of each lease within `min_idle`. A lease that is not renewed for `min_idle` expires."""

VALID_SECONDS = 1.2
"""Time after each tick of the heartbeat in which the leases are valid, while the connection is open."""

DISCONNECTED_VALID_SECONDS = 1.0
"""Time after the last successful renewal in which the leases are valid, while the connection is lost."""

MAX_QUICK_RETRIES = 2
"""Number of consecutive failures after which a lost connection no longer causes an immediate heartbeat. A replica that
rejects each renewal would otherwise receive hundreds of connections per second, because each rejection closes the
connection."""

MAX_FAILING_SECONDS = 2.0
"""Time for which renewals may fail before the heartbeat reports a problem."""


@dataclass(frozen=True)
class HeartbeatHooks:
    """Functions of the rest of the process that the heartbeat calls."""

    in_flight_ids: Callable[[], list[str]]
    is_alive: Callable[[], bool]
    """Function that returns True while leases may be renewed. If the function returns False, the heartbeat renews no
    lease."""
    is_receiving: Callable[[], bool]
    """Function that returns True while a large reply is being received. During this time, the heartbeat also resets the
    idle time of the consumer. The heartbeat cannot renew leases on the entries in the reply, because their ids are
    still unknown."""
    on_lost: Callable[[list[str]], None]
    """Function that is called in the event loop of the processor, with the ids of entries that another consumer has
    claimed."""
    on_name_lost: Callable[[], None]
    """Function that is called in the event loop of the processor, after another process has taken over the consumer
    name."""
    on_leases_valid: Callable[[float], None]
    """Function that is called with the time until which the leases are valid, in seconds of the clock."""
    on_problem: Callable[[str], None]
    """Function that is called with the reason why the leases cannot be renewed, or with an empty string after the
    problem has ended."""


class HeartbeatThread:
    """Thread that renews the leases of the entries in flight."""

    def __init__(
        self,
        manager: StreamManager,
        registration: OwnRegistration,
        ack_buffer: AckBuffer,
        hooks: HeartbeatHooks,
        *,
        metrics: Metrics,
        runtime: Runtime,
    ) -> None:
        """Prepare the thread, which `run` starts."""
        self._manager, self._registration, self._ack_buffer = manager, registration, ack_buffer
        self._consumer_id = registration.consumer_id
        self._hooks, self._metrics, self._runtime, self._clock = hooks, metrics, runtime, runtime.clock
        self._interval = min(HEARTBEAT_INTERVAL, manager.min_idle / RENEWALS_PER_MIN_IDLE)
        self._loop = asyncio.get_running_loop()
        self._is_stopping = False
        self._ended = asyncio.Event()
        self._request_stop: Callable[[], object] = lambda: None
        self._abort: Callable[[], object] = lambda: None
        self._error: Exception | None
        self._next_index = 0
        self._ids_at_last_beat: set[str] = set()
        self._last_tick = self._last_success = self._clock()
        self._failures = 0
        """Number of failures since the last successful heartbeat."""
        self._failing_since: float | None = None
        """Time of the first failure since the last successful heartbeat. None if the last heartbeat succeeded."""
        self._is_reported = False
        self._resumed_at = self._last_success
        """End of the last interruption, that is, of a period in which the thread did not run. Before the first
        interruption, the time at which this object was created."""

    async def run(self) -> None:
        """Run the thread until `stop` is called. Raises the error with which the thread ended."""
        if self._is_stopping:
            return
        self._ended.clear()
        self._error = None
        self._hooks.on_leases_valid(self._clock() + VALID_SECONDS)
        try:
            self._runtime.start_thread("heartbeat", self._run)
        except RuntimeError:
            self._report_problem("the heartbeat thread cannot start")
            raise
        await self._ended.wait()
        if self._error is not None and not self._is_stopping:
            self._report_problem("the heartbeat thread has ended")
            raise self._error

    async def stop(self) -> None:
        """Stop the renewal of leases. Waits for a running renewal, because the thread must acknowledge entries again if
        the renewal has made acknowledged entries pending again. If the server does not reply within
        `STOP_TIMEOUT_SECONDS`, the renewal is cancelled.
        """
        self._is_stopping = True
        self._request_stop()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                await self._ended.wait()
        except TimeoutError:
            self._abort()

    async def _run(self) -> None:
        try:
            await self._heartbeat_loop()
        except Exception as error:  # noqa: BLE001 - raised again by `run`
            self._error = error
        finally:
            _call_in(self._loop, self._ended.set)

    async def _heartbeat_loop(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task
        wakeup = asyncio.Event()
        self._request_stop, self._abort = partial(_call_in, loop, wakeup.set), partial(_call_in, loop, task.cancel)
        manager = self._manager.clone()
        connection = DedicatedConnection(manager, MAX_REPLY_BYTES)
        connection.on_connected = self._identify
        connection.on_lost = partial(self._on_connection_lost, wakeup)
        leases = Leases(connection.execute, *self._consumer_id)
        ticker = asyncio.create_task(self._tick_loop(connection))
        try:
            while not self._is_stopping:
                wakeup.clear()
                if self._hooks.is_alive():
                    await self._beat(connection, leases)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval.total_seconds()):
                        await wakeup.wait()
                if ticker.done():
                    ticker.result()
        finally:
            ticker.cancel()
            await connection.close()
            await manager.aclose()

    def _on_connection_lost(self, wakeup: asyncio.Event) -> None:
        if self._failures < MAX_QUICK_RETRIES:
            wakeup.set()

    async def _identify(self, connection: RawConnection) -> None:
        self._registration.set_identity("heartbeat", await identify(connection, self._registration.token))

    # -- the validity of the leases ------------------------------------------------------------------------------------

    async def _tick_loop(self, connection: DedicatedConnection) -> None:
        """Publish how long the leases are valid, even while the server delays a renewal."""
        while True:
            self._tick(is_connected=connection.is_connected)
            await asyncio.sleep(self._interval.total_seconds())

    def _tick(self, *, is_connected: bool) -> None:
        self._detect_stop()
        now = self._last_tick
        if self._last_success >= self._resumed_at:  # otherwise the connection may have ended unnoticed
            valid_until = self._last_success + DISCONNECTED_VALID_SECONDS
            if is_connected and now - self._last_success < self._manager.min_idle.total_seconds() / 2:
                valid_until = now + VALID_SECONDS
            self._hooks.on_leases_valid(valid_until)

    def _detect_stop(self) -> None:
        """Detect that this thread did not run for a while: the process was stopped, or another thread held the
        interpreter lock."""
        now = self._clock()
        if now - self._last_tick > VALID_SECONDS:
            self._resumed_at = now
        self._last_tick = now

    def _record_success(self, began: float) -> None:
        self._last_success, self._failing_since, self._failures = began, None, 0
        if self._is_reported:
            self._is_reported = False
            log.info("renewing the leases of messages in flight again")
            self._hooks.on_problem("")

    def _record_failure(self, error: Exception) -> None:
        self._metrics.lease_renewals_failed += 1
        self._failures += 1
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since >= MAX_FAILING_SECONDS and not self._is_reported:
            problem = "failed to renew the leases of messages in flight; other consumers may claim these messages"
            log.warning(problem, extra={"error": str(error), "seconds": round(now - self._last_success, 1)})
            self._report_problem(problem)

    def _report_problem(self, problem: str) -> None:
        self._is_reported = True
        self._hooks.on_problem(problem)

    # -- one heartbeat -------------------------------------------------------------------------------------------------

    async def _beat(self, connection: DedicatedConnection, leases: Leases) -> None:
        self._detect_stop()
        began = self._last_tick
        must_verify = self._last_success < self._resumed_at
        try:
            await connection.connect()
            if self._registration.has_name and (must_verify or not self._registration.is_stored):
                await self._registration.store(connection.execute)
            if not self._check_name():
                return
            # `acked_during` starts before the ids are read: an entry acknowledged earlier is no longer in flight.
            with self._ack_buffer.acked_during() as acked_ids:
                if ids := self._select_ids(self._in_flight_since_last_beat(self._hooks.in_flight_ids())):
                    await self._renew(leases, connection, ids, acked_ids)
            if self._hooks.is_receiving():
                await leases.show_activity()
        except (RedisError, OSError) as error:
            self._record_failure(error)
        else:
            self._record_success(began)

    def _check_name(self) -> bool:
        """Return True if this process still has its consumer name. Reports once if another process has taken over the
        name."""
        has_name = self._registration.has_name
        if self._registration.is_taken and not has_name:
            self._registration.is_taken = False
            self._hooks.on_leases_valid(0.0)
            _call_in(self._loop, self._hooks.on_lost, self._hooks.in_flight_ids())
            _call_in(self._loop, self._hooks.on_name_lost)
        return has_name

    async def _renew(
        self, leases: Leases, connection: DedicatedConnection, ids: list[str], acked_ids: set[str]
    ) -> None:
        lost: list[str] = []
        try:
            for begin in range(0, len(ids), RENEWAL_PAGE_SIZE):
                lost += await leases.renew(ids[begin : begin + RENEWAL_PAGE_SIZE])
        except BaseException:  # Redis may have run the renewal, and may have made acknowledged entries pending again
            _call_in(self._loop, self._ack_buffer.add_many, [id_ for id_ in ids if id_ in acked_ids])
            raise
        finally:
            unanswered = self._ack_buffer.record_renewed(ids)
            if claimed := [id_ for id_ in lost if id_ not in unanswered]:  # postponed entries may be in `unanswered`
                _call_in(self._loop, self._hooks.on_lost, claimed)
        await self._ack_again(connection, [id_ for id_ in ids if id_ in acked_ids and id_ not in lost])

    async def _ack_again(self, connection: DedicatedConnection, message_ids: list[str]) -> None:
        """Acknowledge entries again, because a renewal made them pending again after Redis had acknowledged them."""
        if sent := [id_ for id_ in message_ids if not self._ack_buffer.is_buffered(id_)]:
            await connection.execute("XACK", self._consumer_id.stream, self._consumer_id.group, *sent)

    def _in_flight_since_last_beat(self, ids: list[str]) -> list[str]:
        """Return the ids that were already in flight at the last heartbeat, except ids that a script is settling.

        An entry that is in flight only between two heartbeats needs no renewal.
        """
        in_scripts = self._ack_buffer.ids_in_scripts
        remaining = [id_ for id_ in ids if id_ in self._ids_at_last_beat and id_ not in in_scripts]
        self._ids_at_last_beat = set(ids)
        return remaining

    def _select_ids(self, ids: list[str]) -> list[str]:
        """Return the ids of the leases to renew now.

        If there are many ids, each heartbeat renews only a part of the leases. Each lease is still renewed several
        times within `min_idle`.
        """
        share = max(
            RENEWAL_PAGE_SIZE, round(len(ids) * RENEWALS_PER_MIN_IDLE * (self._interval / self._manager.min_idle))
        )
        if len(ids) <= share:
            return ids
        begin = self._next_index % len(ids)
        self._next_index = begin + share
        return list(islice(cycle(ids), begin, begin + share))


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: object) -> None:
    """Call a function in the event loop of another thread. Does nothing if the event loop is closed."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *arguments)
