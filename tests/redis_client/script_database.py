"""Database of a test that runs single Lua scripts: sets up entries and companion keys, and reads them afterwards."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from redis import Redis

from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, entry_keys, group_key
from tests.cluster.redis_servers import RedisServer

STREAM, GROUP, ME, PEER = "orders", "billing", "pod-a", "pod-b"
KEYS = entry_keys(STREAM, GROUP)
_, SCHEDULE, CLAIMED, CLAIMED_BEFORE, COMMITTED = KEYS
SNAPSHOT, REGISTRATIONS, MEMBERS, DEAD_LETTERS = (
    group_key(STREAM, GROUP, suffix) for suffix in ("last-known", "registrations", "consumers", "dead-letters")
)
SNAPSHOT_KEYS = [*KEYS, SNAPSHOT]
"""Keys of the scripts that also read or change the snapshot."""

POSTPONED = POSTPONED_CONSUMER
FUTURE = 2 * 10**13
"""Time in milliseconds that no test reaches."""

MINUTE = 60_000
"""Idle time in milliseconds that is longer than any test."""


class Database:
    """An empty database with the commands that the tests of the scripts need."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def command(self, *words: Any) -> Any:
        """Execute a command, without the conversions of the client."""
        connection = self.client.connection_pool.get_connection()
        try:
            connection.send_command(*words)
            return connection.read_response()
        finally:
            self.client.connection_pool.release(connection)

    def run(self, script: str, *arguments: Any, keys: list[str] = KEYS, me: tuple[str, ...] = (GROUP, ME)) -> Any:
        """Run a script for the consumer `ME`."""
        return self.command("EVAL", script, len(keys), *keys, *me, *arguments)

    # -- entries -------------------------------------------------------------------------------------------------------

    def add(self, *ids: str, fields: Mapping[str, str] | None = None) -> None:
        """Add entries with these ids, and create the group if it does not exist."""
        for message_id in ids:
            self.client.xadd(STREAM, dict(fields or {"n": message_id}), id=message_id)
        self.create_group()

    def create_group(self, start: str = "0") -> None:
        """Create the group and the consumer ~postponed, unless they exist."""
        if GROUP not in self.groups():
            self.client.xgroup_create(STREAM, GROUP, start, mkstream=True)
            self.client.xgroup_createconsumer(STREAM, GROUP, POSTPONED)

    def deliver(self, owner: str, *ids: str, deliveries: int = 1, idle: int = MINUTE) -> None:
        """Make entries pending with a consumer, and the last of them the last delivered entry."""
        for message_id in ids:
            words = (owner, 0, message_id, "IDLE", idle, "RETRYCOUNT", deliveries, "FORCE", "JUSTID")
            self.command("XCLAIM", STREAM, GROUP, *words)
        self.command("XGROUP", "SETID", STREAM, GROUP, max(*ids, self.position(), key=_number))

    def fill(self, key: str, count: int) -> None:
        """Add `count` fields to a hash, or members to a sorted set if the key is COMMITTED."""
        write = "'ZADD', KEYS[1], i, i .. '-1'" if key == COMMITTED else "'HSET', KEYS[1], i .. '-1', 'pod-x'"
        self.client.eval(f"for i = 1, ARGV[1] do redis.call({write}) end", 1, key, count)

    def add_many(self, count: int, *owners: str) -> None:
        """Add the entries `1-0` to `count-0`, in turns pending with each of the owners."""
        self.create_group()
        script = """
for i = 1, ARGV[2] do
  redis.call('XADD', KEYS[1], i .. '-0', 'n', i)
  if #ARGV > 2 then redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[3 + i % (#ARGV - 2)], 'STREAMS', KEYS[1], '>') end
end
"""
        self.client.eval(script, 1, STREAM, GROUP, count, *owners)

    def create_consumers(self, count: int) -> None:
        """Create consumers without entries."""
        script = "for i = 1, ARGV[2] do redis.call('XGROUP', 'CREATECONSUMER', KEYS[1], ARGV[1], 'consumer-' .. i) end"
        self.client.eval(script, 1, STREAM, GROUP, count)

    # -- state ---------------------------------------------------------------------------------------------------------

    def groups(self) -> dict[str, str]:
        """Return the last delivered id of each group."""
        if not self.client.exists(STREAM):
            return {}
        return {each["name"]: each["last-delivered-id"] for each in self.client.xinfo_groups(STREAM)}

    def position(self) -> str:
        return self.groups()[GROUP]

    def pending(self) -> dict[str, tuple[str, int]]:
        """Return owner and delivery count of each pending entry."""
        lines = self.command("XPENDING", STREAM, GROUP, "-", "+", 100_000)
        return {message_id: (owner, deliveries) for message_id, owner, _, deliveries in lines}

    def idle(self) -> set[str]:
        """Return the pending entries that no script has claimed since they were delivered."""
        lines = self.command("XPENDING", STREAM, GROUP, "IDLE", MINUTE, "-", "+", 100_000)
        return {line[0] for line in lines}

    def owned(self) -> dict[str, list[str]]:
        """Return the pending entries of each owner."""
        owners: dict[str, list[str]] = {}
        for message_id, (owner, _) in self.pending().items():
            owners.setdefault(owner, []).append(message_id)
        return owners

    def schedule(self) -> dict[str, float]:
        """Return the score of each entry in the schedule."""
        return dict(self.client.zrange(SCHEDULE, 0, -1, withscores=True))

    def now(self) -> float:
        """Return the time of the server in milliseconds."""
        seconds, microseconds = self.client.time()
        return float(seconds * 1000 + microseconds / 1000)

    def calls(self, script: str, *arguments: Any, **options: Any) -> int:
        """Run a script. Returns the number of commands that the script calls."""
        self.client.config_resetstat()
        self.run(script, *arguments, **options)
        stats = self.client.info("commandstats")
        return sum(
            int(stat["calls"])
            for name, stat in stats.items()
            if name not in {"cmdstat_eval", "cmdstat_config|resetstat"}
        )


def _number(message_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = message_id.partition("-")
    return int(milliseconds), int(sequence)


@contextmanager
def connected(server: RedisServer) -> Iterator[Database]:
    """Yield the database of a server, emptied."""
    client: Any = Redis.from_url(server.url, decode_responses=True)
    for option in ("maxmemory", "min-replicas-to-write"):
        client.config_set(option, 0)
    client.execute_command("ACL", "SETUSER", "default", "+@all")
    client.flushall()
    try:
        yield Database(client)
    finally:
        client.close()
