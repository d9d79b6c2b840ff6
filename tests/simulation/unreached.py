"""Reasons why the simulation does not reach pairs of an await point and a kind of fault."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from tests.simulation.await_points import AwaitPoint


@dataclass(frozen=True)
class Reason:
    """Reason why no simulation reaches some pairs."""

    points: str
    """Regular expression for the text and the name of the await points."""
    text: str
    kinds: str = ""
    """Regular expression for the kinds of faults. Empty for all kinds."""

    def applies_to(self, point: AwaitPoint, kind: str) -> bool:
        """Return True if the reason is about this pair."""
        return bool(re.search(self.points, f"{point} {point.name}") and re.fullmatch(self.kinds or ".*", kind))


UNREACHED = (
    Reason(r": async with asyncio\.timeout", "starting and ending a timeout never suspends a task"),
    Reason(
        r": await (self\._close|self\._disconnect|(self\._)?connection\.disconnect)\("
        r"|(RedisConsumer\._disconnect|DedicatedConnection\._close): await connection\.close\(",
        "a connection is closed without waiting for the server, which suspends no task",
    ),
    Reason(
        r"DedicatedConnection\.(connect|close): async with self\._lock"
        r"|RedisConsumer\.(read|_read_new|close): await self\._reader\.close"
        r"|Observer\.close:|PendingClaimer\.close:|RecoveryLoop\.run: await claimer\.close"
        r"|HeartbeatThread\._heartbeat_loop: await connection\.close",
        "one task uses the connection, so the lock of the connection is free",
    ),
    Reason(
        r"RecoveryLoop\._claim_page: async with self\._claim_lock",
        "only the claim loop holds the lock while it is suspended",
    ),
    Reason(
        r"HeartbeatThread\._heartbeat_loop: await manager\.aclose",
        "the heartbeat executes all commands on its own connection, so its pool is empty and waits for nothing",
    ),
    Reason(r": await close_sentinel_pool\(", "Sentinel is not simulated"),
    Reason(
        r"DedicatedConnection\.execute:7$",
        "only an error reply shows that the primary must be found again",
    ),
    Reason(
        r": await self\.control\.aclose\(", "the client owns neither a connection nor its pool, and waits for nothing"
    ),
    Reason(
        r"^pipeline/preparation.*: await self\._consumer\.ack\(",
        "the acknowledgement is buffered, which suspends no task; entries of a user's own manager are never replays",
    ),
    Reason(
        r"^consumer/polling_consumer|StreamManager\.(create_group|read_events|ack_event):|BatchRunner\._settle_success:"
        r"|BatchRunner\.run: await self\._settle_success|Settler\.on_success: await self\._consumer\.ack\(",
        "only the consumer of a user's own manager is suspended here, and its group has no companion keys",
        "schedule_deleted|companion_deleted",
    ),
    Reason(
        r"AckBuffer\.flush_final:|RedisConsumer\.close:|PollingConsumer\.interrupt_read:|^pipeline/drain"
        r"|StreamManager\.aclose:|RecoveryLoop\.finish_claim:|Settler\.release:"
        r"|RedisConsumer\.postpone: await self\.registration\.wake_peer",
        "the processor is stopping, and a program starts it again only after it has stopped",
        "restart_listening",
    ),
)


@cache
def reason_of(point: AwaitPoint, kind: str) -> Reason | None:
    """Return the first reason that applies to a pair. None if no reason is known."""
    return next((reason for reason in UNREACHED if reason.applies_to(point, kind)), None)


def false_reasons(pairs: Iterable[tuple[AwaitPoint, str]]) -> list[tuple[AwaitPoint, str]]:
    """Return the pairs that were reached although a reason says that they cannot be."""
    return sorted(pair for pair in pairs if reason_of(*pair))
