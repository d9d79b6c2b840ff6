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

from streamconsumer.model.processor_settings import Retention as RetentionSettings
from streamconsumer.processor.consumer.retention import ZERO_ID, StreamTrimmer, next_id, safe_minimum, trim_bound
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.cluster.redis_servers import REDIS_8_2, RedisServer, StartRedis
from tests.processor.group import GROUP, STREAM, Group

# -- deciding --------------------------------------------------------------------------------------------------------


def test_safe_minimum_is_the_first_entry_that_any_group_needs() -> None:
    positions = {b"a": (9, 0), b"b": (7, 3), b"c": (8, 0)}
    assert safe_minimum(positions, {}) == (7, 4)
    assert safe_minimum(positions, {b"a": (2, 1), b"c": (5, 0)}) == (2, 1)
    assert safe_minimum(positions, {b"a": (9, 0)}) == (7, 4)


def test_safe_minimum_is_zero_without_groups() -> None:
    assert safe_minimum({}, {}) == ZERO_ID


def test_next_id_continues_in_the_next_millisecond() -> None:
    assert next_id((5, 2**64 - 1)) == (6, 0)


def test_trim_bound_by_age_stops_at_the_first_entry_that_a_group_needs() -> None:
    settings = RetentionSettings(max_age=timedelta(hours=1))
    assert trim_bound(settings, (5, 0), (3, 0)) == (3, 0)
    assert trim_bound(settings, (5, 0), (9, 0)) == (5, 0)


# -- XACKDEL ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_xackdel_deletes_entries_of_a_destroyed_group_and_trimming_does_not(start_redis: StartRedis) -> None:
    """The reason why the processor does not use XACKDEL. If a later server behaves differently, check this decision."""
    group = Group(start_redis(flavour=REDIS_8_2))
    execute = group.manager().execute
    await group.create_group()
    await group.client.xgroup_create(STREAM, "audit", "0")
    first, second, third = await group.add(3)
    await group.read_as("pod-a")
    await group.client.xreadgroup("audit", "auditor", {STREAM: ">"})
    trimmer = new_trimmer(group, acknowledged=True)
    await trimmer.trim()
    await group.client.xgroup_destroy(STREAM, "audit")
    assert await execute("XACKDEL", STREAM, GROUP, "ACKED", "IDS", 1, first) == [1]
    await group.client.xack(STREAM, GROUP, second)
    assert await trimmer.trim() == 0  # the previous check found the entry pending in the group `audit`
    await group.client.xgroup_create(STREAM, "audit", third)
    for message_id in (first, second, third):
        await execute("XCLAIM", STREAM, "audit", "auditor", 0, message_id, "FORCE", "JUSTID")
    pending: Any = await group.client.xpending_range(STREAM, "audit", "-", "+", 10)
    assert [each["message_id"] for each in pending] == [second, third]
    await group.close()


# -- on a server -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def stream(any_group: Group) -> Group:
    await any_group.create_group()
    return any_group


def new_trimmer(group: Group, **settings: Any) -> StreamTrimmer:
    return StreamTrimmer(group.manager().execute, STREAM, GROUP, RetentionSettings(**settings))


async def trim_twice(group: Group, **settings: Any) -> int:
    """Return the number of entries trimmed by the second call. The first call trims nothing."""
    trimmer = new_trimmer(group, **settings)
    first = await trimmer.trim()
    return first + await trimmer.trim()


async def remaining_ids(group: Group) -> list[str]:
    entries: Any = await group.client.xrange(STREAM)
    return [message_id for message_id, _ in entries]


async def acknowledge(group: Group, ids: list[str], name: str = GROUP) -> None:
    await group.client.xack(STREAM, name, *ids)


async def test_entries_that_every_group_has_acknowledged_are_trimmed(stream: Group) -> None:
    await stream.client.xgroup_create(STREAM, "audit", "0")
    ids = await stream.add(10)
    await acknowledge(stream, await stream.read_as("a", 8))
    await stream.client.xreadgroup("audit", "x", {STREAM: ">"}, 9)
    await acknowledge(stream, [*ids[:3], *ids[4:9]], "audit")
    assert await trim_twice(stream, acknowledged=True) == 3
    assert await remaining_ids(stream) == ids[3:]
    await acknowledge(stream, [ids[3]], "audit")
    assert await trim_twice(stream, acknowledged=True) == 5
    assert await remaining_ids(stream) == ids[8:]


async def test_first_trim_of_a_pod_trims_nothing(stream: Group) -> None:
    await stream.add(3)
    await acknowledge(stream, await stream.read_as("a"))
    trimmer = new_trimmer(stream, acknowledged=True, max_age=timedelta(seconds=1))
    assert await trimmer.trim() == 0
    assert await trimmer.trim() == 3


async def test_no_command_is_sent_without_retention(stream: Group) -> None:
    trimmer = new_trimmer(stream)
    await stream.reset_command_counts()
    assert await trimmer.trim() == 0
    assert await stream.command_counts() == {}


async def test_entries_older_than_max_age_by_the_servers_clock_are_trimmed(stream: Group) -> None:
    seconds, _ = await stream.client.time()
    ids = [f"{(int(seconds) - age) * 1000}-0" for age in (7200, 3700, 3500, 10)]
    for message_id in ids:
        await stream.client.xadd(STREAM, {"n": "0"}, message_id)
    assert await trim_twice(stream, max_age=timedelta(hours=1)) == 0
    await acknowledge(stream, await stream.read_as("a"))
    assert await trim_twice(stream, max_age=timedelta(hours=1)) == 2
    assert await remaining_ids(stream) == ids[2:]


async def test_entries_that_consumers_restore_in_a_recreated_group_are_not_trimmed(stream: Group) -> None:
    """Before they are restored, all entries before the group's position seem acknowledged."""
    ids = await stream.add(5)
    await stream.read_as("a", 5)
    trimmer = new_trimmer(stream, acknowledged=True)
    assert await trimmer.trim() == 0
    await stream.client.xgroup_destroy(STREAM, GROUP)
    await stream.create_group(ids[4])
    assert await trimmer.trim() == 0
    await stream.client.xclaim(STREAM, GROUP, "a", 0, [*ids[3:]], force=True, justid=True)
    assert await trimmer.trim() == 3
    assert await remaining_ids(stream) == ids[3:]


async def test_nothing_is_trimmed_while_the_own_group_is_missing(stream: Group) -> None:
    await stream.client.xgroup_create(STREAM, "audit", "0")
    ids = await stream.add(5)
    await stream.client.xreadgroup("audit", "x", {STREAM: ">"}, noack=True)
    trimmer = new_trimmer(stream, acknowledged=True)
    await stream.client.xgroup_destroy(STREAM, GROUP)
    assert [await trimmer.trim() for _ in range(3)] == [0] * 3
    await stream.create_group(ids[4])
    assert await trimmer.trim() == 0


async def test_missing_stream_is_no_error(stream: Group) -> None:
    trimmer = new_trimmer(stream, acknowledged=True)
    await stream.client.delete(STREAM)
    assert await trimmer.trim() == 0


async def test_entries_read_during_the_check_are_not_trimmed(stream: Group) -> None:
    """The position is queried first: an entry that is read after the query comes after it."""
    manager = stream.manager()
    ids = await stream.add(3)

    async def execute(*command: Any) -> Any:
        reply = await manager.execute(*command)
        if command[0] in ("XINFO", "XPENDING"):
            await stream.read_as("a", 1)
        return reply

    trimmer = StreamTrimmer(execute, STREAM, GROUP, RetentionSettings(acknowledged=True))
    assert await trimmer.trim() + await trimmer.trim() == 0
    assert await remaining_ids(stream) == ids


RIGHTS = ("+eval", "+xinfo|groups", "+xpending", "+xtrim", "+time")
"""As in docs/retention.md."""


async def test_retention_works_with_these_permissions(stream: Group) -> None:
    await stream.client.execute_command("ACL", "SETUSER", "shop", "on", ">pw", f"~{STREAM}", "-@all", *RIGHTS)  # type: ignore[no-untyped-call] # ships no types
    await stream.add(30)
    await acknowledge(stream, await stream.read_as("a", 30))
    execute = stream.manager(f"redis://shop:pw@{stream.server.host}:{stream.server.port}/0").execute
    trimmer = StreamTrimmer(execute, STREAM, GROUP, RetentionSettings(acknowledged=True, max_age=timedelta(hours=1)))
    assert await trimmer.trim() + await trimmer.trim() == 30


# -- any history -----------------------------------------------------------------------------------------------------

HOUR = 3_600_000
SETTINGS = st.builds(
    RetentionSettings,
    acknowledged=st.booleans(),
    max_age=st.none() | st.integers(0, 40).map(lambda hours: timedelta(hours=hours, minutes=30)),
)


class AnyHistory(RuleBasedStateMachine):
    """Producers, groups that are created, read and acknowledge, and two pods that trim. Entries are an hour apart."""

    def __init__(self, client: "Redis") -> None:
        super().__init__()
        self.client = client
        self.ids: list[str] = []
        self.unacknowledged: dict[str, set[str]] = {}
        """Entries that each group has not acknowledged: pending or unread."""
        self.unread: dict[str, list[str]] = {}

    @initialize(retention=SETTINGS)
    def begin(self, retention: RetentionSettings) -> None:
        self.client.flushall()
        self.first = self.client.time()[0] * 1000 - 60 * HOUR
        self.retention = retention
        self.trimmers = [StreamTrimmer(self._execute, STREAM, GROUP, retention) for _ in range(2)]
        self.create(GROUP)

    async def _execute(self, *command: Any) -> Any:
        reply = self.client.execute_command(*command)  # type: ignore[no-untyped-call] # ships no types for it
        return list(reply) if isinstance(reply, tuple) else reply

    @rule(count=st.integers(1, 8))
    def add(self, count: int) -> None:
        for _ in range(count):
            message_id = f"{self.first + len(self.ids) * HOUR // 2}-0"
            self.client.xadd(STREAM, {"n": "0"}, message_id)
            self.ids.append(message_id)
            for group in self.unacknowledged:
                self.unacknowledged[group].add(message_id)
                self.unread[group].append(message_id)

    @rule(group=st.sampled_from(["audit", "search"]))
    def create(self, group: str) -> None:
        if group not in self.unacknowledged:
            self.client.xgroup_create(STREAM, group, "0", mkstream=True)
            self.unread[group] = self._stream_ids()
            self.unacknowledged[group] = set(self.unread[group])

    @rule(group=st.sampled_from([GROUP, "audit", "search"]), count=st.integers(1, 12))
    def read(self, group: str, count: int) -> None:
        if group in self.unacknowledged:
            self.client.xreadgroup(group, "c", {STREAM: ">"}, count)
            still = set(self._stream_ids())
            unread = [each for each in self.unread[group] if each in still]
            self.unread[group] = unread[count:]

    @rule(group=st.sampled_from([GROUP, "audit", "search"]), which=st.sets(st.integers(0, 11)), most=st.booleans())
    def acknowledge(self, group: str, which: set[int], most: bool) -> None:
        if group not in self.unacknowledged:
            return
        pending = sorted(self.unacknowledged[group] - set(self.unread[group]))
        chosen = [each for number, each in enumerate(pending) if (number in which) != most]
        if chosen:
            self.client.xack(STREAM, group, *chosen)
            self.unacknowledged[group].difference_update(chosen)

    @precondition(lambda self: self.ids)
    @rule(which=st.integers(0, 200))
    def delete(self, which: int) -> None:
        self.client.xdel(STREAM, self.ids[which % len(self.ids)])

    @rule(pod=st.integers(0, 1))
    def trim(self, pod: int) -> None:
        before = self._stream_ids()
        trimmed = asyncio.run(self.trimmers[pod].trim())
        left = self._stream_ids()
        trimmed_ids = before[: len(before) - len(left)]
        assert before[len(trimmed_ids) :] == left
        needed = set().union(*self.unacknowledged.values())
        assert trimmed == len(trimmed_ids)
        assert needed.isdisjoint(trimmed_ids)
        self._assert_requested(trimmed_ids)
        for group in self.unacknowledged:
            self.unacknowledged[group].difference_update(trimmed_ids)

    def _assert_requested(self, trimmed_ids: list[str]) -> None:
        """Assert that the settings ask to trim these entries."""
        if not trimmed_ids or self.retention.acknowledged:
            return
        age = self.retention.max_age
        now = self.client.time()[0] * 1000
        assert age is not None
        assert int(trimmed_ids[-1][:-2]) <= now - age / timedelta(milliseconds=1)

    def _stream_ids(self) -> list[str]:
        return [message_id.decode() for message_id, _ in self.client.execute_command("XRANGE", STREAM, "-", "+")]  # type: ignore[no-untyped-call] # ships no types for it


@pytest.fixture
def history(any_redis: RedisServer) -> Callable[[], AnyHistory]:
    client: Any = Redis.from_url(any_redis.url, protocol=2)
    for shaped in ("XINFO GROUPS", "XPENDING", "XTRIM", "XRANGE"):
        client.response_callbacks.pop(shaped, None)
    return lambda: AnyHistory(client)


@ON_ONE_SERVER
def test_no_needed_entry_is_trimmed_in_any_history(history: Callable[[], AnyHistory]) -> None:
    quick = settings(
        max_examples=75,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    run_state_machine_as_test(cast("type[AnyHistory]", history), settings=quick)
