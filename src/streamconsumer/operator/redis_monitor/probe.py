"""Commands that probe one stream, and the parser of their replies. The functions have no side effects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import ConditionState, StreamReason, StreamStats
from streamconsumer.redis_client.errors_table import DATABASE_OUT_OF_RANGE, DESTINATION_NOT_ALLOWED, RedisErrorInfo
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, group_key
from streamconsumer.redis_client.pipeline_client import Command
from streamconsumer.redis_client.replies import to_dict

_REASONS = {
    "WRONGPASS": StreamReason.CREDENTIALS_REFUSED,
    "NOAUTH": StreamReason.CREDENTIALS_REFUSED,
    "TLS": StreamReason.TLS_FAILED,
    DESTINATION_NOT_ALLOWED: StreamReason.DESTINATION_NOT_ALLOWED,
    DATABASE_OUT_OF_RANGE: StreamReason.INVALID_SETTINGS,
    **dict.fromkeys(
        ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN", "BUSY", "READONLY"),
        StreamReason.SERVER_NOT_READY,
    ),
}
"""Condition reasons for the error codes that concern the whole Redis server, not one stream."""

NO_REPLY_MESSAGE = (
    "no Redis server replied to the operator; check the address, TLS, the server, and the network policies between the "
    "operator and the server. The logs of the pods show the errors of their own connections."
)
"""Condition message for all errors without a reply of a Redis server. The message is always the same, because different
messages for a refused connection, a timeout and another protocol would let users scan ports through the operator."""

CONNECTED = ConditionState(type="RedisReachable", status="True", reason=StreamReason.CONNECTED)


@dataclass(frozen=True)
class GroupRef:
    """Stream, consumer group and dead-letter stream of one StreamConsumer."""

    stream: str
    group: str
    dead_letters: str

    @classmethod
    def from_consumer(cls, consumer: StreamConsumer) -> "GroupRef":
        spec = consumer.spec
        default = group_key(spec.stream, spec.consumer_group, "dead-letters")
        return cls(spec.stream, spec.consumer_group, spec.delivery.dead_letter_stream or default)

    def companion_key(self, suffix: str) -> str:
        return group_key(self.stream, self.group, suffix)


@dataclass(frozen=True)
class ProbeResult:
    """Result of probing the stream of one StreamConsumer."""

    redis_reachable: ConditionState
    group_ready: ConditionState
    stats: StreamStats | None = None
    oldest_pending_id: str | None = None
    """Id of the oldest pending entry."""
    owned_pending: int = 0
    """Number of pending entries, excluding entries that are postponed for a retry."""
    pending_by_consumer: Mapping[str, int] = field(default_factory=dict)
    """Number of pending entries by consumer name. Consumers that have no pending entries are excluded."""
    entries_read: int | None = None
    """Number of entries that were ever delivered to the group. None if the server does not count deliveries."""

    @property
    def is_group_missing(self) -> bool:
        return self.group_ready.reason is StreamReason.GROUP_MISSING


def probe_commands(group_ref: GroupRef) -> list[Command]:
    return [
        ("XINFO", "GROUPS", group_ref.stream),
        ("XLEN", group_ref.stream),
        ("XPENDING", group_ref.stream, group_ref.group),
        ("XLEN", group_ref.dead_letters),
    ]


COMMANDS_PER_PROBE = 4


def parse_probe(group_ref: GroupRef, replies: Sequence[Any]) -> ProbeResult:
    """Parse the replies to `probe_commands`.

    If the ACL forbids XLEN or XPENDING, some values are unknown, and the condition GroupReady names the missing
    permissions."""
    groups, length, pending, dead_letters = replies
    if isinstance(groups, RedisErrorInfo):
        return _groups_unavailable(group_ref, groups, length, dead_letters)
    group_name = group_ref.group.encode()
    group = next((fields for fields in map(to_dict, groups) if fields[b"name"] == group_name), None)
    if group is None:
        return _without_group(group_ref, length, dead_letters)
    lag = _lag(group, _count(length))
    summary: Sequence[Any] = (0, None, None, None) if isinstance(pending, RedisErrorInfo) else pending
    oldest_id = summary[1].decode() if summary[1] else None
    stats = StreamStats(
        length=_count(length),
        lag=lag,
        lag_known=lag is not None,
        pending=int(group[b"pending"]),
        oldest_pending_time=_id_time(oldest_id) if oldest_id else None,
        consumers=int(group[b"consumers"]),
        dead_letters=_count(dead_letters),
        last_delivered_id=group[b"last-delivered-id"].decode(),
    )
    by_consumer = {name.decode(errors="replace"): int(count) for name, count in summary[3] or []}
    return ProbeResult(
        CONNECTED,
        _group_exists(group_ref, {"xlen": length, "xpending": pending}),
        stats,
        oldest_id,
        owned_pending=sum(by_consumer.values()) - by_consumer.get(POSTPONED_CONSUMER, 0),
        pending_by_consumer=by_consumer,
        entries_read=group.get(b"entries-read"),
    )


def unreachable(reason: StreamReason, message: str, *, status: Literal["False", "Unknown"] = "False") -> ProbeResult:
    """Return the result of a probe that did not reach Redis. This result has no stream statistics."""
    return ProbeResult(
        ConditionState(type="RedisReachable", status=status, reason=reason, message=message),
        ConditionState(type="GroupReady", status="Unknown", reason=reason, message="The operator cannot reach Redis."),
    )


def from_error(error_info: RedisErrorInfo) -> ProbeResult:
    if error_info.is_no_reply:
        return unreachable(StreamReason.UNREACHABLE, f"{error_info.context}: {NO_REPLY_MESSAGE}")
    return unreachable(_REASONS.get(error_info.code, StreamReason.UNREACHABLE), error_info.message)


def _groups_unavailable(group_ref: GroupRef, error_info: RedisErrorInfo, length: Any, dead_letters: Any) -> ProbeResult:
    if error_info.code in _REASONS:
        return from_error(error_info)
    if "no such key" in error_info.message:
        return _without_group(group_ref, length, dead_letters)
    reasons = {"WRONGTYPE": StreamReason.NOT_A_STREAM, "NOPERM": StreamReason.NO_PERMISSION}
    reason = reasons.get(error_info.code, StreamReason.GROUP_MISSING)
    status: Literal["False", "Unknown"] = "Unknown" if reason is StreamReason.NO_PERMISSION else "False"
    hint = "; XINFO GROUPS needs the permission +xinfo|groups" if status == "Unknown" else ""
    message = f"{error_info.message}{hint}"
    return ProbeResult(CONNECTED, ConditionState(type="GroupReady", status=status, reason=reason, message=message))


def _without_group(group_ref: GroupRef, length: Any, dead_letters: Any) -> ProbeResult:
    message = f"Stream {group_ref.stream!r} has no group {group_ref.group!r} yet; the first pod creates this group."
    group_ready = ConditionState(type="GroupReady", status="False", reason=StreamReason.GROUP_MISSING, message=message)
    return ProbeResult(CONNECTED, group_ready, StreamStats(length=_count(length), dead_letters=_count(dead_letters)))


def _group_exists(group_ref: GroupRef, optional_replies: dict[str, Any]) -> ConditionState:
    message = f"Stream {group_ref.stream!r} has the group {group_ref.group!r}."
    missing = [f"+{command}" for command, reply in optional_replies.items() if isinstance(reply, RedisErrorInfo)]
    if missing:
        message += f" Some values are unavailable; grant {' '.join(missing)} with ACL SETUSER."
    return ConditionState(type="GroupReady", status="True", reason=StreamReason.GROUP_EXISTS, message=message)


def _lag(group: dict[bytes, Any], length: int | None) -> int | None:
    """Return the lag that Redis reports, or None if the lag is unknown.

    Redis reports the lag since version 7.0. The lag is missing after XDEL in the middle of the stream, and is sometimes
    -1. After XTRIM, the lag includes trimmed entries until the group has read the remaining entries. A lag above the
    stream length therefore counts as unknown.
    """
    if length == 0:
        return 0
    reported = group.get(b"lag")
    lag = -1 if reported is None else int(reported)
    return lag if lag >= 0 and (length is None or lag <= length) else None


def _count(reply: Any) -> int | None:
    return None if isinstance(reply, RedisErrorInfo) else int(reply)


def _id_time(message_id: str) -> str | None:
    """Return the time in an entry id, or None if the id contains no valid time.

    An id that the server generates starts with milliseconds since 1970. A producer may set any number as the id."""
    try:
        added_at = datetime.fromtimestamp(int(message_id.partition("-")[0]) / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return added_at.strftime("%Y-%m-%dT%H:%M:%SZ")
