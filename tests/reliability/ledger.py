"""The ledger: what was put in, and what became of each of it.

    produced = acknowledged + dead-lettered + lost to trimming,   and nothing pending

A message is known by its own number `n`, not by its id: a server that lost its newest entries gives their ids again.
Who produces and trims writes it down here; handlers write into a file (deeds.py); the rest is asked of the server.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from streamconsumer.redis_client.keys import group_key
from tests.cluster.runs import wait_until

GROUP = "billing"


@dataclass
class Account:
    """Where the messages of one stream are."""

    produced: set[str]
    acknowledged: set[str]
    dead_lettered: set[str]
    trimmed: set[str]
    """Gone from the stream before anybody handled them: trimmed, flushed, or forgotten by a server."""
    pending: int
    unread: int
    begun: Counter[str]
    concurrent_duplicates: list[str]
    reprocessed: int = 0
    """How many times a message was handled that had been handled: the price of at least once."""
    missing: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.missing = self.produced - self.acknowledged - self.dead_lettered - self.trimmed

    @property
    def is_settled(self) -> bool:
        return not (self.pending or self.unread or self.missing)

    def __str__(self) -> str:
        return (
            f"{len(self.produced)} produced = {len(self.acknowledged)} acknowledged + {len(self.dead_lettered)} dead-lettered + "
            f"{len(self.trimmed)} lost to trimming + {len(self.missing)} MISSING; "
            f"{self.pending} pending, {self.unread} unread, {self.reprocessed} handled again"
        )


class Ledger:
    """The books of one stream and the group `billing` on it."""

    def __init__(self, stream: str, handled: Path) -> None:
        self.stream, self.handled_file = stream, handled
        self.produced: set[str] = set()
        self.removed: set[str] = set()
        self._lock = threading.Lock()

    def add(self, client: Redis, fields: dict[str, str] | None = None, *, replicas: int = 0) -> str | None:
        """Produce one message, and count it once the server, or that many replicas, confirmed it. Returns its id."""
        n = f"{len(self.produced)}-{time.monotonic_ns()}"
        entry: dict[Any, Any] = {**(fields or {}), "n": n}
        pipeline = client.pipeline(transaction=False)
        pipeline.xadd(self.stream, entry)
        if replicas:
            pipeline.execute_command("WAIT", replicas, 1000)  # type: ignore[no-untyped-call] # ships no types for it
        try:
            message_id, *copies = pipeline.execute()
        except (RedisError, OSError):
            return None
        if not replicas or copies[0] >= replicas:
            with self._lock:
                self.produced.add(n)
        return str(message_id)

    def remove(self, client: Redis, script: str, *arguments: str) -> None:
        """Trim or flush by Lua (`TRIM`, `FLUSH`), and write down in the same step what that takes away."""
        taken = client.eval(script, 1, self.stream, *arguments)
        with self._lock:
            self.removed.update(taken)

    def destroy_group(self, client: Redis) -> None:
        """Destroy the group, and with it all that it knows of what is pending. No excuse for losing any of it."""
        with suppress(ResponseError):  # there is no stream just now
            client.xgroup_destroy(self.stream, GROUP)

    def record_server_losses(self, client: Redis) -> None:
        """After the server came back without its newest entries: what it does not hold any more was its own loss."""
        with self._lock:
            known = set(self.produced)
        held = {fields["n"] for _, fields in stream_entries(client, self.stream)}
        with self._lock:
            self.removed |= known - held

    # -- reading the books -----------------------------------------------------------------------------------------

    def lines(self, kind: str = "") -> list[list[str]]:
        """The handlers' lines: kind, n, message id, consumer, deliveries, time."""
        text = self.handled_file.read_text() if self.handled_file.exists() else ""
        found = [line.split(" ") for line in text[: text.rfind("\n") + 1].splitlines()]
        return [line for line in found if not kind or line[0] == kind]

    def account(self, client: Redis) -> Account:
        """Where everything is now."""
        lines = self.lines()
        done = Counter(line[1] for line in lines if line[0] == "done")
        dead = {fields["n"] for _, fields in stream_entries(client, group_key(self.stream, GROUP, "dead-letters"))}
        handled = set(done)
        trimmed = (self.produced & self.removed) - handled - dead
        return Account(
            produced=set(self.produced),
            acknowledged=self.produced & handled,
            dead_lettered=(self.produced & dead) - handled,
            trimmed=trimmed,
            pending=_pending(client, self.stream),
            unread=_unread(client, self.stream),
            begun=Counter(line[1] for line in lines if line[0] == "begun"),
            concurrent_duplicates=[" ".join(line) for line in lines if line[0] == "twice-at-once"],
            reprocessed=sum(count - 1 for count in done.values()),
        )

    def find_lost(self, client: Redis) -> set[str]:
        """What the group was given, nobody handled, and nothing holds any more: lost, at this moment already.

        The server is asked first and the handlers' lines are read after that: a handler writes before it returns, and
        only then comes the acknowledgement, so whatever is no longer pending must stand in the lines.
        """
        with self._lock:
            known = set(self.produced)
        let_go = set(client.eval(NOT_PENDING, 1, self.stream, GROUP))
        account = self.account(client)
        return (known & let_go) - account.acknowledged - account.dead_lettered - self.removed

    def wait_settled(self, client: Redis, within: float, diagnostics: Callable[[], str] = str) -> Account:
        """The account once nothing is pending, unread or missing. Raises AssertionError, with `why`, if that is not
        so in time, or if a message ever was in two handlers of one process at once."""
        found: list[Account] = []

        def settled() -> bool:
            try:
                found[:] = [self.account(client)]
            except (RedisError, OSError):
                return False
            return found[0].is_settled

        balanced = wait_until(settled, within, pause=0.1)
        assert found, f"{self.stream}: no server answered in {within} s"
        account = found[0]
        assert balanced, (
            f"{self.stream}: {account} after {within} s\n{self._describe_unsettled(client, account)}\n{diagnostics()}"
        )
        assert not account.concurrent_duplicates, (
            f"in two handlers of one process: {account.concurrent_duplicates}\n{diagnostics()}"
        )
        return account

    def _describe_unsettled(self, client: Redis, account: Account) -> str:
        """What whoever looks for the mistake wants to see first."""
        pending: Any = client.xpending_range(self.stream, GROUP, "-", "+", 20)
        missing = [" ".join(line) for line in self.lines() if line[1] in account.missing]
        held = [entry for entry in stream_entries(client, self.stream) if entry[1]["n"] in account.missing]
        told = [f"pending: {pending}", f"missing: {sorted(account.missing)[:20]}", f"still in the stream: {held[:20]}"]
        return "\n".join([*told, "its lines:", *missing[:40]])


def stream_entries(client: Redis, key: str, first: str = "-") -> list[tuple[str, dict[str, str]]]:
    """What a stream holds, from an id on."""
    found: Any = client.xrange(key, first)
    return [(message_id, fields) for message_id, fields in found]


def _pending(client: Redis, stream: str) -> int:
    try:
        found: Any = client.xpending(stream, GROUP)
    except ResponseError:  # the group is gone: whatever was pending must become so again
        return 1
    return int(found["pending"])


def _unread(client: Redis, stream: str) -> int:
    try:
        groups: Any = client.xinfo_groups(stream)
    except ResponseError:
        return 1
    for each in groups:
        if each["name"] == GROUP:
            return len(stream_entries(client, stream, f"({each['last-delivered-id']}"))
    return 1


_LUA_NUMBERS = """
local function numbers(entries)
  local found = {}
  for _, entry in ipairs(entries) do
    for i = 1, #entry[2], 2 do if entry[2][i] == 'n' then found[#found + 1] = entry[2][i + 1] end end
  end
  return found
end
"""

TRIM = f"""{_LUA_NUMBERS}
local gone = numbers(redis.call('XRANGE', KEYS[1], '-', '(' .. ARGV[1]))
redis.call('XTRIM', KEYS[1], 'MINID', ARGV[1])
return gone
"""
"""Everything older than an id."""

DELETE = f"""{_LUA_NUMBERS}
local gone = numbers(redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]))
redis.call('XDEL', KEYS[1], ARGV[1])
return gone
"""
"""One entry."""

NOT_PENDING = f"""{_LUA_NUMBERS}
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
local last = nil
if not groups.err then
  for _, each in ipairs(groups) do if each[2] == ARGV[1] then last = each[8] end end
end
if not last then return {{}} end
local held = {{}}
for _, each in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 10000)) do held[each[1]] = true end
local free = {{}}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', last)) do
  if not held[entry[1]] then free[#free + 1] = entry end
end
return numbers(free)
"""
"""What the group was given and does not hold any more."""

FLUSH = f"""{_LUA_NUMBERS}
local gone = numbers(redis.call('XRANGE', KEYS[1], '-', '+'))
for _, key in ipairs(redis.call('KEYS', '{{' .. KEYS[1] .. '}}:*')) do redis.call('DEL', key) end
redis.call('DEL', KEYS[1])
return gone
"""
"""The stream with all that stands beside it, as FLUSHALL takes it."""
