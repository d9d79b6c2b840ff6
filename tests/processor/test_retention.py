"""Trimming on real servers: an entry that any group has not acknowledged stays."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from redis import Redis

from streamconsumer.model.settings import Retention as Wanted
from streamconsumer.processor.stream.retention import NOTHING, Retention, after, cut, safe_minimum
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.cluster.redis_servers import RedisServer
from tests.processor.group import GROUP, STREAM, Group

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


def test_an_age_stops_at_the_first_entry_that_a_group_still_needs() -> None:
    wanted = Wanted(max_age=timedelta(hours=1))
    assert cut(wanted, (5, 0), (3, 0)) == (3, 0)
    assert cut(wanted, (5, 0), (9, 0)) == (5, 0)


# -- on a server -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def stream(any_group: Group) -> Group:
    await any_group.create()
    return any_group


def retained(group: Group, **wanted: Any) -> Retention:
    return Retention(group.manager().ask, STREAM, GROUP, Wanted(**wanted))


async def enforced(group: Group, **wanted: Any) -> int:
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
    assert await enforced(stream, acknowledged=True) == 3
    assert await there(stream) == ids[3:]
    await acknowledge(stream, [ids[3]], "audit")
    assert await enforced(stream, acknowledged=True) == 5
    assert await there(stream) == ids[8:]


async def test_a_pod_that_looks_for_the_first_time_trims_nothing(stream: Group) -> None:
    await stream.add(3)
    await acknowledge(stream, await stream.read_as("a"))
    kept = retained(stream, acknowledged=True, max_age=timedelta(seconds=1))
    assert await kept.enforce() == 0
    assert await kept.enforce() == 3


async def test_without_a_wish_nothing_is_asked(stream: Group) -> None:
    kept = retained(stream)
    await stream.forget_commands()
    assert await kept.enforce() == 0
    assert await stream.commands() == {}


async def test_entries_that_are_too_old_by_the_servers_clock_go(stream: Group) -> None:
    seconds, _ = await stream.client.time()
    ids = [f"{(int(seconds) - age) * 1000}-0" for age in (7200, 3700, 3500, 10)]
    for message_id in ids:
        await stream.client.xadd(STREAM, {"n": "0"}, message_id)
    assert await enforced(stream, max_age=timedelta(hours=1)) == 0
    await acknowledge(stream, await stream.read_as("a"))
    assert await enforced(stream, max_age=timedelta(hours=1)) == 2
    assert await there(stream) == ids[2:]


async def test_a_group_that_was_destroyed_and_created_again_keeps_what_its_consumers_put_back(stream: Group) -> None:
    """Between the two nothing says that the entries were pending: all before the group's position seems done."""
    ids = await stream.add(5)
    await stream.read_as("a", 5)
    kept = retained(stream, acknowledged=True)
    assert await kept.enforce() == 0
    await stream.client.xgroup_destroy(STREAM, GROUP)
    await stream.create(ids[4])
    assert await kept.enforce() == 0
    await stream.client.xclaim(STREAM, GROUP, "a", 0, [*ids[3:]], force=True, justid=True)
    assert await kept.enforce() == 3
    assert await there(stream) == ids[3:]


async def test_nothing_goes_while_our_own_group_is_gone(stream: Group) -> None:
    await stream.client.xgroup_create(STREAM, "audit", "0")
    ids = await stream.add(5)
    await stream.client.xreadgroup("audit", "x", {STREAM: ">"}, noack=True)
    kept = retained(stream, acknowledged=True)
    await stream.client.xgroup_destroy(STREAM, GROUP)
    assert [await kept.enforce() for _ in range(3)] == [0] * 3
    await stream.create(ids[4])
    assert await kept.enforce() == 0


async def test_a_stream_that_is_gone_is_no_error(stream: Group) -> None:
    kept = retained(stream, acknowledged=True)
    await stream.client.delete(STREAM)
    assert await kept.enforce() == 0


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
    assert await kept.enforce() + await kept.enforce() == 0
    assert await there(stream) == ids


RIGHTS = ("+xinfo|groups", "+xpending", "+xtrim", "+time")
"""As in docs/retention.md."""


async def test_these_rights_suffice(stream: Group) -> None:
    await stream.client.execute_command("ACL", "SETUSER", "shop", "on", ">pw", f"~{STREAM}", "-@all", *RIGHTS)  # type: ignore[no-untyped-call] # ships no types
    await stream.add(30)
    await acknowledge(stream, await stream.read_as("a", 30))
    ask = stream.manager(f"redis://shop:pw@{stream.server.host}:{stream.server.port}/0").ask
    kept = Retention(ask, STREAM, GROUP, Wanted(acknowledged=True, max_age=timedelta(hours=1)))
    assert await kept.enforce() + await kept.enforce() == 30


# -- whatever happens ------------------------------------------------------------------------------------------------

HOUR = 3_600_000
WISHES = st.builds(
    Wanted,
    acknowledged=st.booleans(),
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
        trimmed = asyncio.run(self.keepers[who].enforce())
        left = self._there()
        went = before[: len(before) - len(left)]
        assert before[len(went) :] == left
        needed = set().union(*self.owed.values())
        assert trimmed == len(went)
        assert needed.isdisjoint(went)
        self._wished_for(went)
        for group in self.owed:
            self.owed[group].difference_update(went)

    def _wished_for(self, went: list[str]) -> None:
        """Nothing went that nobody asked to go."""
        if not went or self.wish.acknowledged:
            return
        age = self.wish.max_age
        now = self.client.time()[0] * 1000
        assert age is not None
        assert int(went[-1][:-2]) <= now - age / timedelta(milliseconds=1)

    def _there(self) -> list[str]:
        return [message_id.decode() for message_id, _ in self.client.execute_command("XRANGE", STREAM, "-", "+")]  # type: ignore[no-untyped-call] # ships no types for it


@pytest.fixture
def history(any_redis: RedisServer) -> Callable[[], AnyHistory]:
    client: Any = Redis.from_url(any_redis.url, protocol=2)
    for shaped in ("XINFO GROUPS", "XPENDING", "XTRIM", "XRANGE"):
        client.response_callbacks.pop(shaped, None)
    return lambda: AnyHistory(client)


@ON_ONE_SERVER
def test_no_entry_that_a_group_needs_is_trimmed_in_any_history(history: Callable[[], AnyHistory]) -> None:
    quick = settings(
        max_examples=150,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    run_state_machine_as_test(cast("type[AnyHistory]", history), settings=quick)
