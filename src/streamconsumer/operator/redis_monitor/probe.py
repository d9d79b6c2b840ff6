"""Commands that probe one stream, and the parser of their replies. The functions have no side effects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import ConditionState, StreamReason, StreamStats
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.errors_table import DATABASE_OUT_OF_RANGE, DESTINATION_NOT_ALLOWED, RedisErrorInfo
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, group_key
from streamconsumer.redis_client.pipeline_client import Command
from streamconsumer.redis_client.replies import UnexpectedReply
from streamconsumer.redis_client.scripts import COUNT_AFTER, LAST_GENERATED_ID, PROBE_GROUP

_REASONS = {
    "WRONGPASS": StreamReason.CREDENTIALS_REFUSED,
    "NOAUTH": StreamReason.CREDENTIALS_REFUSED,
    "TLS": StreamReason.TLS_FAILED,
    DESTINATION_NOT_ALLOWED: StreamReason.DESTINATION_NOT_ALLOWED,
    DATABASE_OUT_OF_RANGE: StreamReason.INVALID_SETTINGS,
    **dict.fromkeys(("ReplyTooLarge", "InvalidResponse", "UnexpectedReply"), StreamReason.UNEXPECTED_REPLY),
    **dict.fromkeys(
        ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN", "BUSY", "READONLY"),
        StreamReason.SERVER_NOT_READY,
    ),
}
"""Condition reasons for the error codes that concern the whole Redis server, not one stream."""

MAX_CONSUMERS = 500
"""A poll reads the names and the pending counts of at most this number of consumers per group."""

MAX_NAMES = 50_000
"""A poll reads the names and the pending counts of at most this number of consumers in all groups together. Without
this maximum, the replies for groups with many consumers could exceed the size limit of a reply."""

MAX_COUNTED = 10_000
"""Maximum number of unread entries that are counted if Redis does not report the lag. Counting 10,000 entries takes
Redis about 5 ms."""

NO_REPLY_MESSAGE = (
    "no Redis server replied to the operator; check the address, TLS, the server, and the network policies between the "
    "operator and the server. The logs of the pods show the errors of their own connections."
)
"""Condition message if no Redis server has replied, for any cause. The message is the same for a refused connection, a
timeout and another protocol. Different messages would let users scan ports through the operator."""

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
    """Number of pending entries by consumer name. Consumers without pending entries, and consumers that are not named
    like pods, are excluded."""
    entries_read: int | None = None
    """Number of entries that were ever delivered to the group, or None if the server does not count deliveries."""


def probe_commands(group_ref: GroupRef, group_count: int = 1) -> list[Command]:
    """Return the commands that probe a group. `group_count` is the number of groups that the same poll probes.

    The dead-letter stream has a command of its own, because its key may be in another slot of a Redis Cluster."""
    arguments = group_ref.group, POSTPONED_CONSUMER, min(MAX_CONSUMERS, MAX_NAMES // group_count)
    return [("EVAL", PROBE_GROUP, 1, group_ref.stream, *arguments), ("XLEN", group_ref.dead_letters)]


COMMANDS_PER_PROBE = 2


def last_id_command(stream: str) -> Command:
    """Return the command that reads the last id of a stream. XINFO STREAM is not used, because its reply also contains
    values of entries."""
    return ("EVAL", LAST_GENERATED_ID, 1, stream)


def count_lag_command(group_ref: GroupRef, message_id: str) -> Command:
    """Return the command that counts the entries after `message_id`, up to MAX_COUNTED."""
    return ("EVAL", COUNT_AFTER, 1, group_ref.stream, message_id, MAX_COUNTED)


def parse_probe(group_ref: GroupRef, raw_replies: Sequence[Any]) -> ProbeResult:
    """Parse the replies to `probe_commands`.

    If the ACL forbids XLEN or XPENDING, some values are unknown, and the condition GroupReady names the missing
    permissions."""
    try:
        return _parse_probe(group_ref, *raw_replies)
    except UnexpectedReply as error:
        return unexpected_reply(group_ref, error)


def _parse_probe(group_ref: GroupRef, state: Any, dead_letters: Any) -> ProbeResult:
    if isinstance(state, RedisErrorInfo):
        return _group_unavailable(group_ref, state, "+eval", None, _count(dead_letters))
    group, length, pending = replies.array(state, _SUBJECT, 3)
    known_length, known_dead_letters = _count(length), _count(dead_letters)
    if isinstance(group, RedisErrorInfo):
        return _group_unavailable(group_ref, group, "+xinfo|groups", known_length, known_dead_letters)
    if group is None:
        return _without_group(group_ref, known_length, known_dead_letters)
    pending_count, consumers, last_delivered_id, entries_read, reported_lag = replies.array(group, _SUBJECT, 5)
    lag = _lag(replies.optional_count(reported_lag, _SUBJECT), known_length)
    oldest_id, owned, by_consumer = (None, 0, {}) if isinstance(pending, RedisErrorInfo) else _parse_pending(pending)
    stats = StreamStats(
        length=known_length,
        lag=lag,
        lag_known=lag is not None,
        pending=replies.count(pending_count, _SUBJECT),
        oldest_pending_time=_id_time(oldest_id) if oldest_id else None,
        consumers=replies.count(consumers, _SUBJECT),
        dead_letters=known_dead_letters,
        last_delivered_id=replies.entry_id(last_delivered_id, _SUBJECT),
    )
    return ProbeResult(
        CONNECTED,
        _group_exists(group_ref, {"xlen": length, "xpending": pending}),
        stats,
        oldest_id,
        owned_pending=owned,
        pending_by_consumer=by_consumer,
        entries_read=replies.optional_count(entries_read, _SUBJECT),
    )


_SUBJECT = "the script that reads the group"


def _parse_pending(pending: Any) -> tuple[str | None, int, dict[str, int]]:
    """Return the oldest pending id, the number of pending entries that are not postponed, and the number of pending
    entries of each consumer."""
    oldest, owned, names = replies.array(pending, _SUBJECT, 3)
    words = replies.text(names, _SUBJECT).split(" ") if names else []
    if len(words) % 2 or len(words) > 2 * MAX_CONSUMERS:
        raise UnexpectedReply(_SUBJECT, names, f"at most {MAX_CONSUMERS} pairs of a consumer name and a number")
    counts = {
        name: replies.count(number.encode(), _SUBJECT) for name, number in zip(words[::2], words[1::2], strict=True)
    }
    return oldest and replies.entry_id(oldest, _SUBJECT), replies.count(owned, _SUBJECT), counts


def with_lag(group_ref: GroupRef, result: ProbeResult, reply: Any) -> ProbeResult:
    """Return the result with the lag in the reply to `count_lag_command`."""
    if result.stats is None:
        return result
    try:
        lag = replies.count(reply, "the script that counts entries")
    except UnexpectedReply as error:
        return unexpected_reply(group_ref, error)
    stats = result.stats.model_copy(update={"lag": lag, "lag_known": lag < MAX_COUNTED})
    return replace(result, stats=stats)


def with_position(result: ProbeResult, last_delivered_id: str | None, start_from: str) -> ProbeResult:
    """Return the result for a missing group, with the last known position and the number of unread entries.

    A pod creates the group at `start_from`, or restores the group at its last position. The number of unread entries is
    known if the stream is empty, or if a new group begins at the first entry. If `start_from` is `$`, the group does
    not include entries that are added before a pod creates the group. The number is then unknown, so that a pod
    starts."""
    if result.stats is None:
        return result
    length, is_new = result.stats.length, last_delivered_id is None
    is_known = length is not None and start_from != "$" and (length == 0 or (is_new and start_from == "0"))
    lag = length if is_known else None
    update = {"last_delivered_id": last_delivered_id, "lag": lag, "lag_known": is_known}
    return replace(result, stats=result.stats.model_copy(update=update))


def unreachable(reason: StreamReason, message: str, *, status: Literal["False", "Unknown"] = "False") -> ProbeResult:
    """Return the result of a probe that did not reach Redis. This result has no stream statistics."""
    return ProbeResult(
        ConditionState(type="RedisReachable", status=status, reason=reason, message=message),
        ConditionState(type="GroupReady", status="Unknown", reason=reason, message="The operator cannot reach Redis."),
    )


def from_error(error_info: RedisErrorInfo) -> ProbeResult:
    if error_info.is_no_reply:
        return unreachable(StreamReason.UNREACHABLE, f"{error_info.context}: {NO_REPLY_MESSAGE}")
    return unreachable(_REASONS.get(error_info.code, StreamReason.UNREACHABLE), error_info.unquoted)


def unexpected_reply(group_ref: GroupRef, error: UnexpectedReply) -> ProbeResult:
    """Return the result for a reply that does not have the documented type or range."""
    message = f"The state of group {group_ref.group!r} of stream {group_ref.stream!r} is unknown: {error.unquoted}."
    return ProbeResult(
        CONNECTED,
        ConditionState(type="GroupReady", status="False", reason=StreamReason.UNEXPECTED_REPLY, message=message),
    )


def _group_unavailable(
    group_ref: GroupRef, error_info: RedisErrorInfo, permission: str, length: int | None, dead_letters: int | None
) -> ProbeResult:
    """Return the result for an error reply. `permission` is the ACL permission that the rejected command requires."""
    if error_info.code in _REASONS:
        return from_error(error_info)
    if "no such key" in error_info.message:
        return _without_group(group_ref, length, dead_letters)
    if error_info.is_command_unavailable:
        message = f"{error_info.unquoted}; reading the group needs the permission {permission}"
        reason = StreamReason.NO_PERMISSION
        return ProbeResult(
            CONNECTED, ConditionState(type="GroupReady", status="Unknown", reason=reason, message=message)
        )
    reasons = {"WRONGTYPE": StreamReason.NOT_A_STREAM, "NOGROUP": StreamReason.GROUP_MISSING}
    reason = reasons.get(error_info.code, StreamReason.UNEXPECTED_REPLY)
    condition = ConditionState(type="GroupReady", status="False", reason=reason, message=error_info.unquoted)
    return ProbeResult(CONNECTED, condition)


def _without_group(group_ref: GroupRef, length: int | None, dead_letters: int | None) -> ProbeResult:
    message = f"Stream {group_ref.stream!r} has no group {group_ref.group!r} yet; the first pod creates this group."
    group_ready = ConditionState(type="GroupReady", status="False", reason=StreamReason.GROUP_MISSING, message=message)
    return ProbeResult(CONNECTED, group_ready, StreamStats(length=length, dead_letters=dead_letters))


def _group_exists(group_ref: GroupRef, optional_replies: dict[str, Any]) -> ConditionState:
    message = f"Stream {group_ref.stream!r} has the group {group_ref.group!r}."
    missing = [f"+{command}" for command, reply in optional_replies.items() if isinstance(reply, RedisErrorInfo)]
    if missing:
        message += f" Some values are unavailable; grant {' '.join(missing)} with ACL SETUSER."
    return ConditionState(type="GroupReady", status="True", reason=StreamReason.GROUP_EXISTS, message=message)


def _lag(reported: int | None, length: int | None) -> int | None:
    """Return the lag that Redis reports, or None if the lag is unknown.

    Redis reports the lag since version 7.0. The lag is missing after XDEL in the middle of the stream, and is sometimes
    -1. After XTRIM, the lag includes trimmed entries until the group has read the remaining entries. A lag above the
    stream length therefore counts as unknown.
    """
    if length == 0:
        return 0
    return reported if reported is not None and (length is None or reported <= length) else None


def _count(reply: Any) -> int | None:
    """Return the reply to XLEN. Returns None if the reply is an error."""
    return None if isinstance(reply, RedisErrorInfo) else replies.count(reply, "XLEN")


def _id_time(message_id: str) -> str | None:
    """Return the time in an entry id, or None if the id contains no valid time.

    An id that the server generates starts with milliseconds since 1970. A producer may set any number as the id."""
    try:
        added_at = datetime.fromtimestamp(int(message_id.partition("-")[0]) / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return added_at.strftime("%Y-%m-%dT%H:%M:%SZ")
