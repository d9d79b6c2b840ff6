"""Ledger: accounts for every message that was added to a stream.

    produced = acknowledged + dead-lettered + lost to trimming,   and nothing pending

A message is identified by its own number `n`, not by its id: a server that lost its newest entries reuses their ids.
Producers and trimming tests record here, handlers record in a file (scripted_handler.py), and the server has the rest.
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
    """State of all messages of one stream, by `n`."""

    produced: set[str]
    acknowledged: set[str]
    dead_lettered: set[str]
    trimmed: set[str]
    """Removed from the stream before they were handled: trimmed, flushed, or lost by a server."""
    pending: int
    unread: int
    started: Counter[str]
    concurrent_duplicates: list[str]
    reprocessed: int = 0
    """Number of times that a handled message was handled again: the cost of at-least-once delivery."""
    missing: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.missing = self.produced - self.acknowledged - self.dead_lettered - self.trimmed

    @property
    def is_settled(self) -> bool:
        return not (self.pending or self.unread or self.missing)

    def __str__(self) -> str:
        return (
            f"{len(self.produced)} produced = {len(self.acknowledged)} acknowledged"
            f" + {len(self.dead_lettered)} dead-lettered + {len(self.trimmed)} lost to trimming"
            f" + {len(self.missing)} MISSING; {self.pending} pending, {self.unread} unread"
            f", {self.reprocessed} handled again"
        )


class Ledger:
    """Account of one stream and its group `billing`."""

    def __init__(self, stream: str, handled: Path) -> None:
        self.stream, self.handled_file = stream, handled
        self.produced: set[str] = set()
        self.removed: set[str] = set()
        self._lock = threading.Lock()

    def add(self, client: Redis, fields: dict[str, str] | None = None, *, replicas: int = 0) -> str | None:
        """Produce a message. It counts if the server, or `replicas` replicas, confirmed it. Returns its id or None."""
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
        """Trim, delete or flush by a Lua script (`TRIM`, `DELETE`, `FLUSH`). The script records the removed messages on
        the server, because a fault can cut the reply."""
        client.eval(script, 2, self.stream, self._removed_key, *arguments)

    @property
    def _removed_key(self) -> str:
        return f"removed-from-{self.stream}"

    def _all_removed(self, client: Redis) -> set[str]:
        recorded: Any = client.smembers(self._removed_key)
        with self._lock:
            return self.removed | {str(number) for number in recorded}

    def destroy_group(self, client: Redis) -> None:
        """Destroy the group and its pending entries list. No message may be lost by it."""
        with suppress(ResponseError):  # the stream does not exist at this moment
            client.xgroup_destroy(self.stream, GROUP)

    def record_server_losses(self, client: Redis) -> None:
        """Record the messages that a restarted server no longer has. The server lost them, not the processor."""
        with self._lock:
            produced = set(self.produced)
        remaining = {fields["n"] for _, fields in stream_entries(client, self.stream)}
        with self._lock:
            self.removed |= produced - remaining

    # -- accounting ------------------------------------------------------------------------------------------------

    def lines(self, kind: str = "") -> list[list[str]]:
        """Return the lines of the handlers: kind, n, message id, consumer, deliveries, time."""
        text = self.handled_file.read_text() if self.handled_file.exists() else ""
        lines = [line.split(" ") for line in text[: text.rfind("\n") + 1].splitlines()]
        return [line for line in lines if not kind or line[0] == kind]

    def account(self, client: Redis) -> Account:
        """Return the current account."""
        lines = self.lines()
        done = Counter(line[1] for line in lines if line[0] == "done")
        dead_lettered = {
            fields["n"] for _, fields in stream_entries(client, group_key(self.stream, GROUP, "dead-letters"))
        }
        handled = set(done)
        trimmed = (self.produced & self._all_removed(client)) - handled - dead_lettered
        return Account(
            produced=set(self.produced),
            acknowledged=self.produced & handled,
            dead_lettered=(self.produced & dead_lettered) - handled,
            trimmed=trimmed,
            pending=_pending(client, self.stream),
            unread=_unread(client, self.stream),
            started=Counter(line[1] for line in lines if line[0] == "started"),
            concurrent_duplicates=[" ".join(line) for line in lines if line[0] == "started-twice"],
            reprocessed=sum(count - 1 for count in done.values()),
        )

    def find_lost(self, client: Redis) -> set[str]:
        """Return the messages that are lost already: read by the group, not handled, and no longer pending.

        The server is queried before the handlers' lines are read. A handler writes its line before it returns, and the
        acknowledgement comes after that. Each entry that is no longer pending must therefore have a line.
        """
        with self._lock:
            produced = set(self.produced)
        not_pending = set(client.eval(NOT_PENDING, 1, self.stream, GROUP))
        account = self.account(client)
        return (produced & not_pending) - account.acknowledged - account.dead_lettered - self._all_removed(client)

    def wait_settled(self, client: Redis, within: float, diagnostics: Callable[[], str] = str) -> Account:
        """Wait until nothing is pending, unread or missing. Returns the account.

        Raises AssertionError with `diagnostics` after `within` seconds, or if a message was ever in two handlers of one
        process at the same time.
        """
        accounts: list[Account] = []

        def settled() -> bool:
            try:
                accounts[:] = [self.account(client)]
            except (RedisError, OSError):
                return False
            return accounts[0].is_settled

        is_settled = wait_until(settled, within, pause=0.1)
        assert accounts, f"{self.stream}: no server responded within {within} s"
        account = accounts[0]
        assert is_settled, (
            f"{self.stream}: {account} after {within} s\n{self._describe_unsettled(client, account)}\n{diagnostics()}"
        )
        assert not account.concurrent_duplicates, (
            f"in two handlers of one process: {account.concurrent_duplicates}\n{diagnostics()}"
        )
        return account

    def _describe_unsettled(self, client: Redis, account: Account) -> str:
        """Return the state of the unsettled messages, for the error message."""
        pending: Any = client.xpending_range(self.stream, GROUP, "-", "+", 20)
        missing = [" ".join(line) for line in self.lines() if line[1] in account.missing]
        in_stream = [entry for entry in stream_entries(client, self.stream) if entry[1]["n"] in account.missing]
        state = [f"pending: {pending}", f"missing: {sorted(account.missing)[:20]}", f"in the stream: {in_stream[:20]}"]
        return "\n".join([*state, "lines of the missing messages:", *missing[:40]])


def stream_entries(client: Redis, key: str, first: str = "-") -> list[tuple[str, dict[str, str]]]:
    """Return the entries of a stream, from an id on."""
    entries: Any = client.xrange(key, first)
    return [(message_id, fields) for message_id, fields in entries]


def _pending(client: Redis, stream: str) -> int:
    try:
        summary: Any = client.xpending(stream, GROUP)
    except ResponseError:  # the group is missing, and its pending entries must be restored
        return 1
    return int(summary["pending"])


def _unread(client: Redis, stream: str) -> int:
    try:
        groups: Any = client.xinfo_groups(stream)
    except ResponseError:
        return 1
    for group in groups:
        if group["name"] == GROUP:
            return len(stream_entries(client, stream, f"({group['last-delivered-id']}"))
    return 1


_LUA_NUMBERS = """
local function numbers(entries)
  local result = {}
  for _, entry in ipairs(entries) do
    for i = 1, #entry[2], 2 do if entry[2][i] == 'n' then result[#result + 1] = entry[2][i + 1] end end
  end
  return result
end
local function record(numbers)
  for _, number in ipairs(numbers) do redis.call('SADD', KEYS[2], number) end
end
"""

TRIM = f"""{_LUA_NUMBERS}
record(numbers(redis.call('XRANGE', KEYS[1], '-', '(' .. ARGV[1])))
redis.call('XTRIM', KEYS[1], 'MINID', ARGV[1])
"""
"""Removes all entries older than an id, and records their numbers."""

DELETE = f"""{_LUA_NUMBERS}
record(numbers(redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])))
redis.call('XDEL', KEYS[1], ARGV[1])
"""
"""Deletes one entry, and records its number."""

NOT_PENDING = f"""{_LUA_NUMBERS}
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
local last = nil
if not groups.err then
  for _, each in ipairs(groups) do if each[2] == ARGV[1] then last = each[8] end end
end
if not last then return {{}} end
local pending = {{}}
for _, each in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 10000)) do pending[each[1]] = true end
local free = {{}}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', last)) do
  if not pending[entry[1]] then free[#free + 1] = entry end
end
return numbers(free)
"""
"""Returns the numbers of the entries that the group has read and that are no longer pending."""

FLUSH = f"""{_LUA_NUMBERS}
record(numbers(redis.call('XRANGE', KEYS[1], '-', '+')))
for _, key in ipairs(redis.call('KEYS', '{{' .. KEYS[1] .. '}}:*')) do redis.call('DEL', key) end
redis.call('DEL', KEYS[1])
"""
"""Deletes the stream and its companion keys, as FLUSHALL does, and records the numbers of the entries."""
