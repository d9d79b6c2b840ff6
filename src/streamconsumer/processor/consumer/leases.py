"""Leases on entries: scripts that renew leases, store delivery counts and postpone entries.

The owner of a pending entry is the consumer to which the group's pending entries list assigns the entry. A renewal of
the lease resets the entry's idle time, so that no other consumer claims the entry. Each script determines the state of
an entry (`entry_state.lua`) and changes the entry in one atomic step.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from streamconsumer.processor.consumer.registration import ignoring_out_of_memory
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.keys import CONSUMER_SUFFIXES, entry_keys, group_key
from streamconsumer.redis_client.outcome import Outcome, parse_outcome
from streamconsumer.redis_client.replies import Execute
from streamconsumer.redis_client.scripts import DELETE_IDLE_CONSUMER, Script, load_script

RENEW = load_script("renew")
START_ATTEMPT = load_script("start_attempt")
SET_DELIVERY_COUNTS = load_script("set_delivery_counts")
POSTPONE = load_script("postpone")
REPAIR_SCHEDULE = load_script("repair_schedule", PAGE=300)

ALMOST_LAST_ID = f"{2**64 - 1}-{2**64 - 2}"
"""Second to last possible entry id. The last possible id is not used, because XREADGROUP treats it like `>`."""

_RENEWAL, _POSTPONEMENT = "the script that renews leases", "the script that postpones entries"

PAGE_SIZE, RENEWAL_PAGE_SIZE = 120, 160
"""RENEWAL_PAGE_SIZE is the maximum number of entries in one call of the script that renews leases. PAGE_SIZE is the
maximum for all other scripts. The script that renews leases calls up to six Redis commands per entry, other scripts up
to eight. The server needs 2 ms to renew 190 leases."""

T = TypeVar("T")


def _pages(entries: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (entries[first : first + size] for first in range(0, len(entries), size))


class Leases:
    """Leases of one consumer on entries, and the registration of the consumer as a member of its group."""

    def __init__(self, execute: Execute, stream: str, group: str, consumer: str) -> None:
        self._execute, self._stream, self._group, self._consumer_name = execute, stream, group, consumer
        self._keys, self._snapshot_key = entry_keys(stream, group), group_key(stream, group, "last-known")

    async def register(self) -> None:
        """Create this consumer in its group. A server that is out of memory rejects the command."""
        with ignoring_out_of_memory():
            await self._execute("XGROUP", "CREATECONSUMER", self._stream, self._group, self._consumer_name)

    async def renew(self, message_ids: Sequence[str]) -> list[str]:
        """Renew the leases of entries. Returns the ids of entries that another consumer owns."""
        lost: list[Any] = []
        for page in _pages(sorted(message_ids, key=replies.parse_id), RENEWAL_PAGE_SIZE):
            lost += replies.array(await self._run_script(RENEW, *page), _RENEWAL)
        return [replies.entry_id(message_id, _RENEWAL) for message_id in lost]

    async def show_activity(self) -> None:
        """Reset the idle time of this consumer without changing its entries."""
        read = ("XREADGROUP", "GROUP", self._group, self._consumer_name, "COUNT", 1)
        await self._execute(*read, "STREAMS", self._stream, ALMOST_LAST_ID)

    async def start_attempt(self, message_id: str, deliveries: int) -> Outcome:
        """Store the delivery count of an entry before its next attempt. The attempt may start if the outcome is
        DONE."""
        reply = await self._run_script(START_ATTEMPT, message_id, deliveries)
        return parse_outcome(reply, "the script that starts an attempt")

    async def set_delivery_counts(self, entries: Sequence[tuple[str, int]]) -> None:
        """Correct the delivery counts of entries, given as (id, deliveries)."""
        for page in _pages(entries, PAGE_SIZE):
            await self._run_script(SET_DELIVERY_COUNTS, *(part for entry in page for part in entry))

    async def postpone(self, entries: Sequence[tuple[str, int, timedelta]]) -> list[Outcome]:
        """Postpone entries, given as (id, deliveries, delay). After the delay, any consumer may claim the entry.

        Returns the outcome of each entry."""
        outcomes: list[Outcome] = []
        for page in _pages(entries, PAGE_SIZE):
            flat = [(message_id, count, replies.to_milliseconds(delay)) for message_id, count, delay in page]
            arguments = (part for entry in flat for part in entry)
            reply = await self._run_script(POSTPONE, *arguments, keys=[*self._keys, self._snapshot_key])
            outcomes += [parse_outcome(each, _POSTPONEMENT) for each in replies.array(reply, _POSTPONEMENT, len(page))]
        return outcomes

    async def repair_schedule(self, idle: timedelta, after: str = "") -> str:
        """Make postponed entries after the id `after` due if they have been idle for `idle` and have no due time.

        An entry has no due time if the due time was lost, or if a consumer died while claiming the entry. Examines one
        page of entries. Returns the last id of the page, or an empty text if no entry is left.
        """
        reply = await self._run_script(REPAIR_SCHEDULE, replies.to_milliseconds(idle), after)
        return replies.entry_id(reply, "the script that repairs the schedule") if reply else ""

    async def delete_consumer(self, consumer: str | None = None) -> bool:
        """Delete a consumer, by default this consumer. Returns False and deletes nothing if the consumer has pending
        entries."""
        name = self._consumer_name if consumer is None else consumer
        keys = [self._stream, *(group_key(self._stream, self._group, suffix) for suffix in CONSUMER_SUFFIXES)]
        reply = await self._execute("EVAL", DELETE_IDLE_CONSUMER, len(keys), *keys, self._group, name)
        return reply != -1 and replies.count(reply, "XGROUP DELCONSUMER") >= 0

    async def _run_script(self, script: Script, *arguments: Any, keys: Sequence[str] = ()) -> Any:
        """Run a script. Its keys are `entry_keys` if `keys` is empty."""
        keys = keys or self._keys
        return await self._execute("EVAL", script, len(keys), *keys, self._group, self._consumer_name, *arguments)
