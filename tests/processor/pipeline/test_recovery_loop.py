"""Claims: kinds of entries take turns, checks continue while entries are claimed, and each kind has its own room."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from streamconsumer.processor import Defer, current_message
from streamconsumer.processor.consumer.claimer import ClaimedPage, ClaimPage
from streamconsumer.processor.health import Health
from streamconsumer.processor.message import Entry, Origin
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline import recovery_loop
from streamconsumer.processor.pipeline.in_flight import InFlightTable
from streamconsumer.processor.pipeline.recovery_loop import RecoveryLoop
from tests.processor.eventually import eventually
from tests.processor.group import Group


class EndlessClaimer:
    """Claimer that always finds entries of dead consumers and due entries."""

    is_watching = True

    def __init__(self, dead_consumers: int = 1, *, is_trimmed: bool = False) -> None:
        self.claims: list[str] = []
        self.checks = 0
        self.wakeup = asyncio.Event()
        self._names = [*(f"dead {number}" for number in range(dead_consumers)), "due"]
        self._is_trimmed = is_trimmed

    async def claim(self, name: str, count: int) -> ClaimedPage:
        await asyncio.sleep(0.001)
        self.claims.append(name)
        if self._is_trimmed:
            return ClaimedPage([], has_more=True)
        entries = [Entry.redelivered(f"{len(self.claims)}-{number}", (), 1) for number in range(count)]
        for entry in entries:
            entry.origin = Origin.DUE if name == "due" else Origin.CLAIMED
        return ClaimedPage(entries, has_more=True)

    async def find_claimable(self) -> list[ClaimPage]:
        self.checks += 1
        return [ClaimPage(partial(self.claim, name), "due" if name == "due" else "dead") for name in self._names]

    async def share_dead(self) -> None:
        pass

    def seconds_until_turn(self) -> float:
        return 0.1


def table(run: Any, concurrency: int = 1) -> InFlightTable:
    return InFlightTable(run, concurrency=concurrency, metrics=Metrics())


@asynccontextmanager
async def claiming(in_flight: InFlightTable, claimer: Any) -> AsyncIterator[None]:
    """Run the claims."""
    consumer: Any = SimpleNamespace(claimer=claimer)
    options: dict[str, Any] = {"log_context": "", "metrics": Metrics()}
    recovery = RecoveryLoop(consumer, in_flight, may_claim=lambda: True, batch_count=5, **options)
    task = asyncio.create_task(recovery._claim_loop(claimer))
    yield
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("is_trimmed", [False, True], ids=["entries", "trimmed entries"])
async def test_checks_continue_while_claims_return_entries(is_trimmed: bool) -> None:
    async def run(_entry: Entry) -> None:
        await asyncio.sleep(0)

    claimer = EndlessClaimer(is_trimmed=is_trimmed)
    async with claiming(table(run), claimer):
        await eventually(lambda: claimer.checks >= 3)
    assert len(claimer.claims) > 2 * claimer.checks, "several pages are claimed between two checks"


async def test_many_dead_consumers_do_not_delay_the_checks_of_a_busy_pod() -> None:
    async def run(_entry: Entry) -> None:
        await asyncio.Event().wait()

    claimer, in_flight = EndlessClaimer(dead_consumers=60), table(run, concurrency=2)
    async with claiming(in_flight, claimer):
        await eventually(lambda: claimer.checks >= 5, within=5)
    in_flight.close()


async def test_next_free_slot_starts_an_entry_of_a_dead_consumer() -> None:
    """While all slots are busy, other pods can claim the entries. New entries wait although they are in memory."""
    running: dict[str, asyncio.Event] = {}

    async def run(entry: Entry) -> None:
        running[entry.message_id] = asyncio.Event()
        await running[entry.message_id].wait()

    in_flight, claimer = table(run, concurrency=2), EndlessClaimer()
    in_flight.admit([Entry(f"0-{number}", ()) for number in range(4)])
    await eventually(lambda: len(running) == 2)
    async with claiming(in_flight, claimer):
        await eventually(lambda: claimer.checks >= 3)
        assert claimer.claims == []
        running["0-0"].set()
        await eventually(lambda: len(running) == 3)
        assert claimer.claims == ["dead 0"]
        assert [*running] == ["0-0", "0-1", "1-0"]
    in_flight.close()
    for event in running.values():
        event.set()
    await eventually(lambda: not in_flight.running)


async def test_due_and_new_entries_get_free_slots_in_turns() -> None:
    started: list[Origin] = []

    async def run(entry: Entry) -> None:
        started.append(entry.origin)
        await asyncio.sleep(0.02)

    in_flight, claimer = table(run), EndlessClaimer(dead_consumers=0)
    in_flight.admit([Entry(f"0-{number}", ()) for number in range(10)])
    async with claiming(in_flight, claimer):
        await eventually(lambda: len(started) >= 20)
    in_flight.close()
    await eventually(lambda: not in_flight.running)
    assert 8 <= started[2:20].count(Origin.NEW) <= 10


async def test_new_entry_may_wait_for_busy_slots_while_due_entries_take_them() -> None:
    """A pod whose handlers run for long leaves new entries to other pods."""
    now, started, release = 0.0, [], asyncio.Event()

    async def run(entry: Entry) -> None:
        started.append(entry.message_id)
        await release.wait()

    in_flight = InFlightTable(run, concurrency=1, metrics=Metrics(), clock=lambda: now)
    in_flight.admit([Entry("0-0", ())])
    await eventually(lambda: started)
    assert not in_flight.read_count(5)
    in_flight.reserve(frozenset({"due"}))
    assert in_flight.read_count(5) == 1
    now = 2.0
    assert not in_flight.read_count(5)
    in_flight.close()
    release.set()
    await eventually(lambda: not in_flight.running)


def suspect(number: int) -> Entry:
    entry = Entry.redelivered(f"9-{number}", (), 2)
    entry.origin, entry.is_suspect = Origin.CLAIMED, True
    return entry


async def test_waiting_suspect_stops_neither_reads_nor_claims() -> None:
    """Only one suspect runs at a time. The other slots handle other entries meanwhile."""
    started: list[str] = []

    async def run(entry: Entry) -> None:
        started.append(entry.message_id)
        await asyncio.Event().wait()

    in_flight = table(run, concurrency=4)
    in_flight.admit([suspect(number) for number in range(3)])
    await eventually(lambda: started)
    assert in_flight.has_capacity.is_set()
    assert in_flight.read_count(5) == in_flight.claim_count(5, is_due=True) == in_flight.claim_count(5, is_due=False)
    in_flight.admit([Entry(f"1-{number}", ()) for number in range(3)])
    await eventually(lambda: len(started) == 4)
    in_flight.close()


async def test_suspect_starts_although_entries_are_left_to_read() -> None:
    """The pod lets its other entries run out, and reads again as soon as the suspect is running."""
    release, started = asyncio.Event(), []

    async def run(entry: Entry) -> None:
        started.append(entry.message_id)
        await release.wait()

    in_flight = table(run, concurrency=1)
    in_flight.prefetch_limit = 5
    in_flight.admit([Entry("1-0", ())])
    in_flight.admit([suspect(0)])
    await eventually(lambda: started == ["1-0"])
    assert not in_flight.has_capacity.is_set()
    assert not in_flight.claim_count(5, is_due=True)
    assert in_flight.claim_count(5, is_due=False)
    release.set()
    await eventually(lambda: started == ["1-0", "9-0"])
    await eventually(in_flight.has_capacity.is_set)
    in_flight.close()


async def test_new_entries_start_in_turns_with_a_backlog_of_due_ones(group: Group) -> None:
    """Due entries always wait, and the handlers are too slow for the pod to buffer entries."""
    starts: list[str] = []
    deferred: set[str] = set()

    async def handle(data: dict[str, str]) -> None:
        if data["n"] == "due" and current_message().message_id not in deferred:
            deferred.add(current_message().message_id)
            await asyncio.sleep(0.02)
            raise Defer(timedelta(seconds=3))
        starts.append(data["n"])
        await asyncio.sleep(0.7)

    await group.start(handle, concurrency=2, batch=2)
    await group.add(40, {"n": "due"})
    await eventually(lambda: len(starts) > 4)
    await group.add(40, {"n": "new"})
    await eventually(lambda: "new" in starts)
    first = starts.index("new")
    await eventually(lambda: len(starts) >= first + 20)
    assert 9 <= starts[first : first + 20].count("new") <= 11


async def test_claimed_entry_starts_before_the_backlog(group: Group) -> None:
    """The only slot is always busy, so the reader and the claims compete for it."""
    handled: list[str] = []

    async def handle(data: dict[str, str]) -> None:
        await asyncio.sleep(0.3)
        handled.append(data["n"])

    await group.create_group()
    await group.add(1, {"n": "of a dead pod"})
    [dead] = await group.read_as("pod-z", 1)
    await group.add(60)
    await group.start(handle, batch=1, min_idle=1)
    await eventually(lambda: handled)
    await group.claim([dead], "pod-z", idle_ms=3_600_000)
    await eventually(lambda: "of a dead pod" in handled)
    assert handled.index("of a dead pod") < 20


# -- single steps ------------------------------------------------------------------------------------------------------


class ScriptedClaimer:
    """Claimer that finds the pages that a test sets."""

    def __init__(self) -> None:
        self.wakeup = asyncio.Event()
        self.pages: list[ClaimPage] = []
        self.checks = self.snapshots = 0
        self.seconds = 60.0
        self.is_watching = False
        self.is_saved = True
        self.error: Exception | None = None
        self.hooks: dict[str, Callable[..., Any]] = {}
        self.events: list[str] = []

    async def find_claimable(self) -> list[ClaimPage]:
        self.checks += 1
        if self.error:
            raise self.error
        return self.pages

    def seconds_until_turn(self) -> float:
        return self.seconds

    async def save_snapshot(self) -> bool:
        self.snapshots += 1
        if self.error:
            raise self.error
        return self.is_saved

    def heartbeat(self, **hooks: Callable[..., Any]) -> Any:
        self.hooks = hooks

        async def run() -> None:
            self.events.append("heartbeat")
            await asyncio.Event().wait()

        async def stop() -> None:
            self.events.append("stop")

        return SimpleNamespace(run=run, stop=stop)

    async def share_dead(self) -> None:
        self.events.append("share")

    async def close(self) -> None:
        self.events.append("close")


class Table:
    """In-flight table whose room a test sets."""

    def __init__(self) -> None:
        self.on_busy: Callable[[], object] = lambda: None
        self.capacity_changed = asyncio.Event()
        self.room = {True: 0, False: 0}
        self.queued = self.running = 0
        self.admitted: list[Entry] = []
        self.reserved: list[frozenset[str]] = []
        self.dropped: list[str] = []

    def ids(self) -> list[str]:
        return ["1-0"]

    def claim_count(self, batch_count: int, *, is_due: bool) -> int:
        return min(batch_count, self.room[is_due])

    def admit(self, entries: list[Entry]) -> None:
        self.admitted += entries

    def reserve(self, kinds: frozenset[str]) -> None:
        self.reserved.append(kinds)

    def drop_claimed(self, message_id: str) -> bool:
        self.dropped.append(message_id)
        return message_id != "2-0"


class Recovery:
    """Recovery loop of a consumer with a scripted claimer."""

    def __init__(self, **options: Any) -> None:
        self.claimer, self.table, self.metrics, self.health = ScriptedClaimer(), Table(), Metrics(), Health()
        self.may_claim = True
        consumer: Any = SimpleNamespace(claimer=self.claimer)
        in_flight: Any = self.table
        settings: dict[str, Any] = {"log_context": "orders", "batch_count": 5, **options}
        may_claim: dict[str, Any] = {"may_claim": lambda: self.may_claim}
        self.loop = RecoveryLoop(consumer, in_flight, metrics=self.metrics, **may_claim, **settings)

    @asynccontextmanager
    async def running(self, main: Callable[..., Any]) -> AsyncIterator[None]:
        claimer: Any = self.claimer
        task = asyncio.create_task(main(claimer))
        try:
            yield
        finally:
            self.loop.is_stopped = True
            task.cancel()
            await asyncio.wait([task])


@pytest.fixture
async def recovery(monkeypatch: pytest.MonkeyPatch) -> Recovery:
    monkeypatch.setattr(recovery_loop, "FIRST_CHECK_SECONDS", 0.01)
    return Recovery()


def page(
    kind: Any = "dead", entries: list[Entry] | None = None, *, has_more: bool = False
) -> tuple[ClaimPage, list[int]]:
    """Return a page, and the list of the counts with which it is claimed."""
    counts: list[int] = []

    async def claim(count: int) -> ClaimedPage:
        await asyncio.sleep(0)
        counts.append(count)
        return ClaimedPage(entries or [], has_more=has_more)

    return ClaimPage(claim, kind), counts


async def test_checks_follow_the_turns_and_the_wakeups(recovery: Recovery) -> None:
    async with recovery.running(recovery.loop._claim_loop):
        await eventually(lambda: recovery.claimer.checks == 1)
        await asyncio.sleep(0.02)
        assert recovery.claimer.checks == 1
        recovery.claimer.seconds = 0.02
        recovery.claimer.wakeup.set()
        await eventually(lambda: recovery.claimer.checks >= 4)
    assert not recovery.claimer.wakeup.is_set()


async def test_claims_end_with_the_loop(recovery: Recovery) -> None:
    recovery.loop.is_stopped = True
    claimer: Any = recovery.claimer
    await asyncio.wait_for(recovery.loop._claim_loop(claimer), 5)
    await asyncio.wait_for(recovery.loop._snapshot_loop(claimer), 5)
    assert (recovery.claimer.checks, recovery.claimer.snapshots) == (0, 0)


@pytest.mark.parametrize(
    ("kind", "seconds", "is_repeated"),
    [("dead", 0.03, True), ("dead", 60.0, False), ("due", 0.03, False), ("upkeep", 0.03, False)],
)
async def test_proofs_of_death_are_renewed_while_entries_of_dead_consumers_are_left(
    recovery: Recovery, monkeypatch: pytest.MonkeyPatch, kind: str, seconds: float, is_repeated: bool
) -> None:
    monkeypatch.setattr(recovery_loop, "MAX_CLAIM_SECONDS", seconds)
    found, counts = page(kind, has_more=True)
    recovery.claimer.pages = [found]
    recovery.table.room = {True: 2, False: 2}
    async with recovery.running(recovery.loop._claim_loop):
        await eventually(lambda: counts)
        if is_repeated:
            await eventually(lambda: recovery.claimer.checks >= 3)
        else:
            await asyncio.sleep(0.06)
            assert recovery.claimer.checks == 1
    assert recovery.table.reserved[-1] == (frozenset() if kind == "upkeep" else {kind})


async def test_pages_wait_for_room(recovery: Recovery) -> None:
    found, counts = page("due", has_more=False)
    recovery.claimer.pages = [found]
    async with recovery.running(recovery.loop._claim_loop):
        await eventually(lambda: recovery.table.reserved)
        recovery.table.capacity_changed.set()
        await asyncio.sleep(0.01)
        assert not counts
        recovery.table.room[True] = 3
        recovery.table.capacity_changed.set()
        await eventually(lambda: recovery.table.reserved[-1] == frozenset())
    assert counts == [3]


@pytest.mark.parametrize(("kind", "room", "is_shared"), [("dead", 0, True), ("dead", 1, False), ("due", 0, False)])
async def test_other_pods_learn_of_dead_consumers_if_there_is_no_room(
    recovery: Recovery, kind: str, room: int, is_shared: bool
) -> None:
    recovery.claimer.pages = [page(kind, has_more=True)[0]]
    recovery.table.room = {True: room, False: room}
    async with recovery.running(recovery.loop._claim_loop):
        await eventually(lambda: recovery.claimer.checks and recovery.table.reserved[-1:] == [{kind}])
    assert ("share" in recovery.claimer.events) is is_shared


@pytest.mark.parametrize(
    ("is_watching", "seconds", "is_woken"), [(False, 60.0, True), (True, 60.0, False), (False, 1.0, False)]
)
async def test_pod_that_gets_entries_in_an_idle_group_checks_soon(
    recovery: Recovery, is_watching: bool, seconds: float, is_woken: bool
) -> None:
    recovery.claimer.is_watching = is_watching
    recovery.loop._next_check = asyncio.get_running_loop().time() + seconds
    recovery.table.on_busy()
    assert recovery.claimer.wakeup.is_set() is is_woken


async def test_custom_manager_claims_nothing(recovery: Recovery, caplog: pytest.LogCaptureFixture) -> None:
    consumer: Any = SimpleNamespace(claimer=None)
    recovery.loop._consumer = consumer
    recovery.table.on_busy()
    await recovery.loop.run(recovery.health)
    assert "does not support claiming" in caplog.text


@pytest.mark.parametrize(
    ("may_claim", "error", "checks", "seconds"),
    [(False, None, 0, 1.0), (True, ConnectionError("lost"), 1, 60.0), (True, None, 1, 60.0)],
)
async def test_check_fails_without_consequences(
    recovery: Recovery, may_claim: bool, error: Exception | None, checks: int, seconds: float
) -> None:
    found, _ = page()
    recovery.claimer.pages = [found]
    recovery.may_claim, recovery.claimer.error = may_claim, error
    claimer: Any = recovery.claimer
    pages = [found] if may_claim and not error else []
    assert await recovery.loop._check(claimer) == (pages, seconds)
    assert recovery.claimer.checks == checks


@pytest.mark.parametrize(
    ("kind", "room", "has_more", "counts"),
    [
        ("dead", 3, True, [3]),
        ("dead", 9, False, [5]),
        ("dead", 0, True, []),
        ("dead after the start of the drain", 3, False, []),
        ("upkeep", 0, False, [5]),
    ],
)
async def test_page_is_claimed_if_there_is_room(
    recovery: Recovery, kind: str, room: int, has_more: bool, counts: list[int]
) -> None:
    entries = [Entry("1-0", ())]
    found, claimed = page(kind.partition(" ")[0], entries, has_more=has_more and bool(counts))
    recovery.may_claim, recovery.table.room = "drain" not in kind, {True: 99, False: room}
    assert await recovery.loop._claim_pages([found]) == ([found] if has_more else [])
    assert claimed == counts
    assert recovery.table.admitted == entries * len(counts)


async def test_failed_claim_drops_the_pages_of_its_check(recovery: Recovery, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_count: int) -> ClaimedPage:
        raise ConnectionError("lost")

    recovery.table.room = {True: 1, False: 1}
    assert await recovery.loop._claim_pages([page(has_more=True)[0], ClaimPage(fail, "due")]) == []
    assert "failed to claim pending entries; retrying" in caplog.text


async def test_drain_waits_for_the_claim_in_progress(recovery: Recovery) -> None:
    release = asyncio.Event()

    async def claim(_count: int) -> ClaimedPage:
        await release.wait()
        return ClaimedPage([Entry("1-0", ())], has_more=False)

    recovery.table.room[False] = 1
    claiming_ = asyncio.create_task(recovery.loop._claim_pages([ClaimPage(claim, "dead")]))
    await asyncio.sleep(0)
    finishing = asyncio.create_task(recovery.loop.finish_claim())
    await asyncio.sleep(0.01)
    assert not finishing.done()
    release.set()
    await finishing
    assert recovery.table.admitted
    await claiming_


async def test_claimed_entries_are_traced_with_their_previous_consumer(caplog: pytest.LogCaptureFixture) -> None:
    received: list[Entry] = []
    claimed: list[tuple[list[Entry], int]] = []
    telemetry = SimpleNamespace(on_received=received.extend, on_claimed=lambda each, ns: claimed.append((each, ns)))
    recovery = Recovery(telemetry=telemetry)
    recovery.table.room = {True: 1, False: 1}
    of_dead, due = Entry("1-0", ()), Entry("2-0", ())
    of_dead.claimed_from = "pod-z"
    await recovery.loop._claim_pages([page(entries=[of_dead])[0], page("due", entries=[due])[0], page("due")[0]])
    assert not caplog.records
    assert received == [of_dead, due]
    [(entries, start_ns)] = claimed
    assert (entries, start_ns > 10**18) == ([of_dead], True)


async def test_lost_messages_are_counted_and_logged(recovery: Recovery, caplog: pytest.LogCaptureFixture) -> None:
    recovery.loop._on_lost(["1-0", "2-0", "3-0"])
    assert recovery.table.dropped == ["1-0", "2-0", "3-0"]
    assert recovery.metrics.lost_ownership == 2
    assert [vars(record)["message_id"] for record in caplog.records] == ["1-0", "3-0"]


async def test_background_tasks_run_until_the_cancellation(recovery: Recovery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery_loop, "SNAPSHOT_INTERVAL_SECONDS", 0.01)
    recovery.table.queued = 1
    health, claimer = recovery.health, recovery.claimer
    running = asyncio.create_task(recovery.loop.run(health))
    await eventually(lambda: claimer.events == ["heartbeat"] and claimer.checks and claimer.snapshots)
    hooks = claimer.hooks
    assert hooks["in_flight_ids"]() == ["1-0"]
    assert hooks["is_alive"]()
    hooks["on_lost"](["1-0"])
    assert recovery.table.dropped == ["1-0"]
    health.mark_ready()
    hooks["on_problem"]("failed to renew")
    assert "failed to renew" in health.readiness()[1]
    running.cancel()
    await asyncio.wait([running])
    assert claimer.events == ["heartbeat", "stop", "close"]
    assert "failed to renew" not in health.readiness()[1]


@pytest.mark.parametrize("source", ["queued", "running", "delivered"])
async def test_snapshot_is_saved_while_and_after_entries_are_in_flight(
    recovery: Recovery, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr(recovery_loop, "SNAPSHOT_INTERVAL_SECONDS", 0.01)
    claimer = recovery.claimer
    async with recovery.running(recovery.loop._snapshot_loop):
        await asyncio.sleep(0.05)
        assert claimer.snapshots == 0
        if source == "delivered":
            recovery.metrics.delivered += 1
            await eventually(lambda: claimer.snapshots == 1)
        else:
            setattr(recovery.table, source, 1)
            await eventually(lambda: claimer.snapshots >= 3)
            setattr(recovery.table, source, 0)
        await asyncio.sleep(0.03)
        count = claimer.snapshots
        await asyncio.sleep(0.05)
        assert claimer.snapshots == count


async def test_snapshot_is_repeated_until_it_is_saved(
    recovery: Recovery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recovery_loop, "SNAPSHOT_INTERVAL_SECONDS", 0.01)
    claimer, recovery.may_claim = recovery.claimer, False
    recovery.metrics.delivered = 1
    async with recovery.running(recovery.loop._snapshot_loop):
        await asyncio.sleep(0.04)
        assert claimer.snapshots == 0
        recovery.may_claim, claimer.is_saved = True, False
        await eventually(lambda: claimer.snapshots >= 2)
        claimer.error = ConnectionError("lost")
        await eventually(lambda: "failed to save the group snapshot" in caplog.text)
        claimer.error, claimer.is_saved = None, True
        await asyncio.sleep(0.03)
        count = claimer.snapshots
        await asyncio.sleep(0.05)
        assert claimer.snapshots == count


async def test_first_snapshot_does_not_wait_for_a_second_interval(
    recovery: Recovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry is in flight at the end of only one interval: the snapshot is saved then, and once more."""
    monkeypatch.setattr(recovery_loop, "SNAPSHOT_INTERVAL_SECONDS", 0.01)
    queued = [0, 1, 0, 0, 0, 0]

    class Changing(Table):
        @property
        def queued(self) -> int:
            return queued.pop(0) if queued else 0

        @queued.setter
        def queued(self, _value: int) -> None:
            pass

    changing: Any = Changing()
    recovery.loop._in_flight = changing
    async with recovery.running(recovery.loop._snapshot_loop):
        await eventually(lambda: not queued)
    assert recovery.claimer.snapshots == 2


async def test_last_entry_in_flight_is_in_one_more_snapshot(
    recovery: Recovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery_loop, "SNAPSHOT_INTERVAL_SECONDS", 0.01)
    claimer, recovery.table.queued = recovery.claimer, 1

    async def save() -> bool:
        claimer.snapshots += 1
        recovery.table.queued = 0
        return True

    claimer.save_snapshot = save  # type: ignore[method-assign]
    async with recovery.running(recovery.loop._snapshot_loop):
        await eventually(lambda: claimer.snapshots >= 1)
        await asyncio.sleep(0.08)
    assert claimer.snapshots == 2
