"""Trimming, on real servers: what any group still needs stays, unless loss is allowed, and then it is counted."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from redis import Redis
from redis.exceptions import ResponseError

from streamconsumer.model.settings import Retention as Wanted
from streamconsumer.processor.stream import retention
from streamconsumer.processor.stream.retention import NOTHING, Retention, Trimmed, after, cut, safe_minimum
from tests.cluster.redis_servers import RedisServer
from tests.processor.group import GROUP, STREAM, Group

NOTHING_WENT = Trimmed()


# -- deciding --------------------------------------------------------------------------------------------------------


def test_safe_is_what_lies_before_the_first_entry_that_any_group_still_needs() -> None:
    positions = {b"a": (9, 0), b"b": (7, 3), b"c": (8, 0)}
    assert safe_minimum(positions, {}) == (7, 4)
    assert safe_minimum(positions, {b"a": (2, 1), b"c": (5, 0)}) == (2, 1)
    assert safe_minimum(positions, {b"a": (9, 0)}) == (7, 4)


def test_nothing_is_safe_in_a_stream_without_groups() -> None:
    assert safe_minimum({}, {}) == NOTHING


def test_the_next_id_after_the_last_of_a_millisecond_is_in_the_next() -> None:
    assert after((5, 2**64 - 1)) == (6, 0)


def test_age_and_length_stop_at_what_is_safe() -> None:
    wanted = Wanted(max_length=10, max_age=timedelta(hours=1))
    assert cut(wanted, (5, 0), by_age=(3, 0), by_length=(4, 0)) == (4, 0)
    assert cut(wanted, (5, 0), by_age=(9, 0), by_length=None) == (5, 0)


def test_age_and_length_go_beyond_what_is_safe_where_loss_is_allowed() -> None:
    wanted = Wanted(max_length=10, acknowledged=True, allow_loss=True)
    assert cut(wanted, (5, 0), by_age=None, by_length=(9, 0)) == (9, 0)
    assert cut(wanted, (5, 0), by_age=None, by_length=None) == (5, 0)


# -- on a server -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def stream(any_group: Group) -> Group:
    await any_group.create()
    return any_group


def retained(group: Group, **wanted: Any) -> Retention:
    return Retention(group.manager().ask, STREAM, GROUP, Wanted(**wanted))


async def enforced(group: Group, **wanted: Any) -> Trimmed:
    """What goes at the second look: the first one trims nothing that a group might need."""
    kept = retained(group, **wanted)
    first = await kept.enforce()
    return first + await kept.enforce()


async def there(group: Group) -> list[str]:
    found: Any = await group.client.xrange(STREAM)
    return [message_id for message_id, _ in found]


async def acknowledge(group: Group, ids: list[str], name: str = GROUP) -> None:
    await group.client.xack(STREAM, name, *ids)


async def test_what_every_group_has_acknowledged_goes(stream: Group) -> None:
    await stream.client.xgroup_create(STREAM, "audit", "0")
    ids = await stream.add(10)
    await acknowledge(stream, await stream.read_as("a", 8))
    await stream.client.xreadgroup("audit", "x", {STREAM: ">"}, 9)
    await acknowledge(stream, [*ids[:3], *ids[4:9]], "audit")
    assert await enforced(stream, acknowledged=True) == Trimmed(3)
    assert await there(stream) == ids[3:]
    await acknowledge(stream, [ids[3]], "audit")
    assert await enforced(stream, acknowledged=True) == Trimmed(5)
    assert await there(stream) == ids[8:]


async def test_a_pod_that_looks_for_the_first_time_trims_nothing(stream: Group) -> None:
    await stream.add(3)
    await acknowledge(stream, await stream.read_as("a"))
    kept = retained(stream, acknowledged=True, max_length=1, max_age=timedelta(seconds=1))
    assert await kept.enforce() == NOTHING_WENT
    assert await kept.enforce() == Trimmed(3)


async def test_without_a_wish_nothing_is_asked(stream: Group) -> None:
    kept = retained(stream)
    await stream.forget_commands()
    assert await kept.enforce() == NOTHING_WENT
    assert await stream.commands() == {}


async def test_entries_that_are_too_old_by_the_servers_clock_go(stream: Group) -> None:
    seconds, _ = await stream.client.time()
    ids = [f"{(int(seconds) - age) * 1000}-0" for age in (7200, 3700, 3500, 10)]
    for message_id in ids:
        await stream.client.xadd(STREAM, {"n": "0"}, message_id)
    assert await enforced(stream, max_age=timedelta(hours=1)) == NOTHING_WENT
    await acknowledge(stream, await stream.read_as("a"))
    assert await enforced(stream, max_age=timedelta(hours=1)) == Trimmed(2)
    assert await there(stream) == ids[2:]


@pytest.mark.parametrize(("added", "kept"), [(50, 40), (500, 40), (500, 480), (500, 500), (30, 1)])
async def test_the_oldest_go_until_so_many_are_left(stream: Group, added: int, kept: int) -> None:
    ids = await stream.add(added)
    await acknowledge(stream, await stream.read_as("a", added))
    assert await enforced(stream, max_length=kept) == Trimmed(added - kept)
    assert await there(stream) == ids[-kept:]


@pytest.mark.parametrize("kept", [2, 400])
async def test_a_length_stops_at_what_is_not_acknowledged(stream: Group, kept: int) -> None:
    ids = await stream.add(500)
    read = await stream.read_as("a", 450)
    await acknowledge(stream, [*read[:60], *read[61:]])
    assert await enforced(stream, max_length=kept) == Trimmed(60)
    assert await there(stream) == ids[60:]


async def test_a_long_way_to_the_length_is_gone_in_several_rounds(
    stream: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "WALK", 70)
    ids = await stream.add(500)
    await acknowledge(stream, await stream.read_as("a", 500))
    assert await enforced(stream, max_length=100) == Trimmed(400)
    assert await there(stream) == ids[-100:]


async def test_large_entries_are_counted_a_few_at_a_time(stream: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    await stream.add(30, {"body": "x" * 300_000})
    await acknowledge(stream, await stream.read_as("a", 30))
    manager = stream.manager()
    pages: list[int] = []

    async def ask(*command: Any) -> Any:
        if command[0] == "XRANGE":
            pages.append(int(command[-1]))
        return await manager.ask(*command)

    kept = Retention(ask, STREAM, GROUP, Wanted(max_length=18))
    assert await kept.enforce() + await kept.enforce() == Trimmed(12)
    assert max(pages) == 3


async def test_what_loss_takes_from_a_group_is_counted(stream: Group) -> None:
    """Of 20 entries, 15 must go: billing has not acknowledged 2 of its 8, audit has read but 12 and not acknowledged
    one of billing's."""
    await stream.client.xgroup_create(STREAM, "audit", "0")
    ids = await stream.add(20)
    await stream.read_as("a", 20)
    await acknowledge(stream, [each for each in ids if each not in (ids[2], ids[5], ids[18])])
    await stream.client.xreadgroup("audit", "x", {STREAM: ">"}, 12)
    await acknowledge(stream, [each for each in ids[:12] if each not in (ids[5], ids[7])], "audit")
    assert await enforced(stream, max_length=5, allow_loss=True) == Trimmed(15, lost=3 + 3)
    assert await there(stream) == ids[15:]


async def test_an_entry_that_was_deleted_before_is_not_counted_as_lost(stream: Group) -> None:
    ids = await stream.add(10)
    await stream.read_as("a", 6)
    await stream.client.xdel(STREAM, *ids[2:4])
    assert await enforced(stream, max_length=2, allow_loss=True) == Trimmed(6, lost=6)


async def test_more_losses_than_are_counted_in_one_go_are_counted_in_several(
    stream: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOSSES", 30)
    monkeypatch.setattr(retention, "PAGE", 7)
    await stream.add(100)
    await stream.read_as("a", 90)
    kept = retained(stream, max_length=10, allow_loss=True)
    went = [await kept.enforce() for _ in range(4)]
    assert went == [Trimmed(30, 30), Trimmed(30, 30), Trimmed(30, 30), NOTHING_WENT]


async def test_a_group_that_was_destroyed_and_created_again_keeps_what_its_consumers_put_back(stream: Group) -> None:
    """Between the two nothing says that the entries were pending: all before the group's position seems done."""
    ids = await stream.add(5)
    await stream.read_as("a", 5)
    kept = retained(stream, acknowledged=True)
    assert await kept.enforce() == NOTHING_WENT
    await stream.client.xgroup_destroy(STREAM, GROUP)
    await stream.create(ids[4])
    assert await kept.enforce() == NOTHING_WENT
    await stream.client.xclaim(STREAM, GROUP, "a", 0, [*ids[3:]], force=True, justid=True)
    assert await kept.enforce() == Trimmed(3)
    assert await there(stream) == ids[3:]


@pytest.mark.parametrize("allow_loss", [False, True])
async def test_nothing_goes_while_our_own_group_is_gone(stream: Group, allow_loss: bool) -> None:
    await stream.client.xgroup_create(STREAM, "audit", "0")
    ids = await stream.add(5)
    await stream.client.xreadgroup("audit", "x", {STREAM: ">"}, noack=True)
    kept = retained(stream, acknowledged=True, max_length=1, allow_loss=allow_loss)
    await stream.client.xgroup_destroy(STREAM, GROUP)
    assert [await kept.enforce() for _ in range(3)] == [NOTHING_WENT] * 3
    await stream.create(ids[4])
    if not allow_loss:
        assert await kept.enforce() == NOTHING_WENT


async def test_a_stream_that_is_gone_is_no_error(stream: Group) -> None:
    kept = retained(stream, acknowledged=True)
    await stream.client.delete(STREAM)
    assert await kept.enforce() == NOTHING_WENT


async def test_a_lookers_entries_that_are_read_meanwhile_stay(stream: Group) -> None:
    """The position is looked at first: what is read right after is behind it."""
    manager = stream.manager()
    ids = await stream.add(3)

    async def ask(*command: Any) -> Any:
        reply = await manager.ask(*command)
        if command[0] in ("XINFO", "XPENDING"):
            await stream.read_as("a", 1)
        return reply

    kept = Retention(ask, STREAM, GROUP, Wanted(acknowledged=True))
    assert await kept.enforce() + await kept.enforce() == NOTHING_WENT
    assert await there(stream) == ids


async def test_what_went_before_an_error_is_told_the_next_time(stream: Group) -> None:
    manager = stream.manager()
    await stream.add(10)
    await stream.read_as("a", 4)
    trims = iter([False, False, False, False, True])

    async def ask(*command: Any) -> Any:
        if command[0] == "XTRIM" and next(trims, False):
            raise ResponseError("LOADING for instance")
        return await manager.ask(*command)

    kept = Retention(ask, STREAM, GROUP, Wanted(max_length=2, allow_loss=True))
    with pytest.raises(ResponseError):
        await kept.enforce()
    assert await stream.client.xlen(STREAM) < 10
    assert await kept.enforce() == Trimmed(8, 8)


RIGHTS = ("+xinfo|groups", "+xpending", "+xtrim", "+time", "+xlen", "+xrange", "+xrevrange")
"""As in docs/retention.md."""


async def test_these_rights_suffice(stream: Group) -> None:
    await stream.client.execute_command("ACL", "SETUSER", "shop", "on", ">pw", f"~{STREAM}", "-@all", *RIGHTS)  # type: ignore[no-untyped-call] # ships no types
    await stream.add(30)
    await acknowledge(stream, await stream.read_as("a", 30))
    ask = stream.manager(f"redis://shop:pw@{stream.server.host}:{stream.server.port}/0").ask
    for most in (25, 2):
        kept = Retention(ask, STREAM, GROUP, Wanted(max_length=most, max_age=timedelta(hours=1)))
        await kept.enforce()
        await kept.enforce()
        assert await stream.client.xlen(STREAM) == most


# -- whatever happens ------------------------------------------------------------------------------------------------

HOUR = 3_600_000
WISHES = st.builds(
    Wanted,
    acknowledged=st.booleans(),
    allow_loss=st.booleans(),
    max_length=st.none() | st.integers(1, 30),
    max_age=st.none() | st.integers(0, 40).map(lambda hours: timedelta(hours=hours, minutes=30)),
)


class AnyHistory(RuleBasedStateMachine):
    """Producers, groups that come, read and acknowledge, and two pods that trim. Entries are an hour apart."""

    def __init__(self, client: "Redis") -> None:
        super().__init__()
        self.client = client
        self.ids: list[str] = []
        self.owed: dict[str, set[str]] = {}
        """Of each group, what it has not acknowledged: pending or not read."""
        self.unread: dict[str, list[str]] = {}

    @initialize(wish=WISHES)
    def begin(self, wish: Wanted) -> None:
        self.client.flushall()
        self.first = self.client.time()[0] * 1000 - 60 * HOUR
        self.wish = wish
        self.keepers = [Retention(self._ask, STREAM, GROUP, wish) for _ in range(2)]
        self.create(GROUP)

    async def _ask(self, *command: Any) -> Any:
        return self.client.execute_command(*command)  # type: ignore[no-untyped-call] # ships no types for it

    @rule(count=st.integers(1, 8))
    def add(self, count: int) -> None:
        for _ in range(count):
            message_id = f"{self.first + len(self.ids) * HOUR // 2}-0"
            self.client.xadd(STREAM, {"n": "0"}, message_id)
            self.ids.append(message_id)
            for group in self.owed:
                self.owed[group].add(message_id)
                self.unread[group].append(message_id)

    @rule(group=st.sampled_from(["audit", "search"]))
    def create(self, group: str) -> None:
        if group not in self.owed:
            self.client.xgroup_create(STREAM, group, "0", mkstream=True)
            self.unread[group] = self._there()
            self.owed[group] = set(self.unread[group])

    @rule(group=st.sampled_from([GROUP, "audit", "search"]), count=st.integers(1, 12))
    def read(self, group: str, count: int) -> None:
        if group in self.owed:
            self.client.xreadgroup(group, "c", {STREAM: ">"}, count)
            still = set(self._there())
            unread = [each for each in self.unread[group] if each in still]
            self.unread[group] = unread[count:]

    @rule(group=st.sampled_from([GROUP, "audit", "search"]), which=st.sets(st.integers(0, 11)), most=st.booleans())
    def acknowledge(self, group: str, which: set[int], most: bool) -> None:
        if group not in self.owed:
            return
        pending = sorted(self.owed[group] - set(self.unread[group]))
        chosen = [each for number, each in enumerate(pending) if (number in which) != most]
        if chosen:
            self.client.xack(STREAM, group, *chosen)
            self.owed[group].difference_update(chosen)

    @precondition(lambda self: self.ids)
    @rule(which=st.integers(0, 200))
    def delete(self, which: int) -> None:
        self.client.xdel(STREAM, self.ids[which % len(self.ids)])

    @rule(who=st.integers(0, 1))
    def trim(self, who: int) -> None:
        before = self._there()
        told = asyncio.run(self.keepers[who].enforce())
        left = self._there()
        went = before[: len(before) - len(left)]
        assert before[len(went) :] == left
        needed = set().union(*self.owed.values())
        assert told == Trimmed(len(went), len(needed.intersection(went)))
        if not self.wish.allow_loss:
            assert told.lost == 0
        self._wished_for(went, left, needed)
        for group in self.owed:
            self.owed[group].difference_update(went)

    def _wished_for(self, went: list[str], left: list[str], needed: set[str]) -> None:
        """Nothing went that nobody asked to go."""
        if not went or self.wish.acknowledged:
            return
        by_length = self.wish.max_length is not None and len(left) >= self.wish.max_length
        age = self.wish.max_age
        now = self.client.time()[0] * 1000
        by_age = age is not None and int(went[-1][:-2]) <= now - age / timedelta(milliseconds=1)
        assert by_length or by_age

    def _there(self) -> list[str]:
        return [message_id.decode() for message_id, _ in self.client.execute_command("XRANGE", STREAM, "-", "+")]  # type: ignore[no-untyped-call] # ships no types for it


@pytest.fixture(params=[1000, 3], ids=lambda size: f"in steps of {size}")
def history(
    any_redis: RedisServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], AnyHistory]:
    for name in ("PAGE", "WALK", "LOSSES"):
        monkeypatch.setattr(retention, name, request.param)
    client: Any = Redis.from_url(any_redis.url, protocol=2)
    for shaped in ("XINFO GROUPS", "XPENDING", "XTRIM", "XRANGE", "XREVRANGE"):
        client.response_callbacks.pop(shaped, None)
    return lambda: AnyHistory(client)


def test_whatever_happens_only_what_may_go_goes_and_every_loss_is_told(history: Callable[[], AnyHistory]) -> None:
    quick = settings(
        max_examples=150,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    run_state_machine_as_test(cast("type[AnyHistory]", history), settings=quick)
