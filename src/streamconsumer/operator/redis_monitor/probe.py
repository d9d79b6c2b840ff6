"""What is asked of one stream in each look, and what the answers mean. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import ConditionState, StreamReason, StreamStats
from streamconsumer.redis_client.errors_table import DATABASE_OUT_OF_RANGE, RedisErrorInfo
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, group_key
from streamconsumer.redis_client.pipeline_client import Command
from streamconsumer.redis_client.replies import to_dict

_REASONS = {
    "WRONGPASS": StreamReason.CREDENTIALS_REFUSED,
    "NOAUTH": StreamReason.CREDENTIALS_REFUSED,
    "TLS": StreamReason.TLS_FAILED,
    DATABASE_OUT_OF_RANGE: StreamReason.INVALID_SETTINGS,
    **dict.fromkeys(
        ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN", "BUSY", "READONLY"),
        StreamReason.SERVER_NOT_READY,
    ),
}
"""What an answer says of the server rather than of one stream."""

CONNECTED = ConditionState(type="RedisReachable", status="True", reason=StreamReason.CONNECTED)


@dataclass(frozen=True)
class GroupRef:
    """Where one StreamConsumer is at home in Redis."""

    stream: str
    group: str
    dead_letters: str

    @classmethod
    def from_consumer(cls, consumer: StreamConsumer) -> "GroupRef":
        spec = consumer.spec
        beside = group_key(spec.stream, spec.consumer_group, "dead-letters")
        return cls(spec.stream, spec.consumer_group, spec.delivery.dead_letter_stream or beside)

    def companion_key(self, suffix: str) -> str:
        return group_key(self.stream, self.group, suffix)


@dataclass(frozen=True)
class ProbeResult:
    """What one look found."""

    redis_reachable: ConditionState
    group_ready: ConditionState
    stats: StreamStats | None = None
    oldest_pending_id: str | None = None
    """The id of the oldest pending entry."""
    owned_pending: int = 0
    """How many of the pending ones are with a consumer, and not just waiting for another try."""
    pending_by_consumer: Mapping[str, int] = field(default_factory=dict)
    """How many entries each consumer holds; who holds none is left out."""
    entries_read: int | None = None
    """How many entries the group was ever given, where the server counts them."""

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
    """The answers to `questions`. Lengths may be forbidden: then they are not known, and it is said."""
    groups, length, pending, dead = replies
    if isinstance(groups, RedisErrorInfo):
        return _groups_unavailable(group_ref, groups, length, dead)
    mine = next((found for each in groups if (found := to_dict(each))[b"name"] == group_ref.group.encode()), None)
    if mine is None:
        return ProbeResult(
            CONNECTED, _group_missing(group_ref), StreamStats(length=_count(length), dead_letters=_count(dead))
        )
    lag = _lag(mine, _count(length))
    summary: Sequence[Any] = (0, None, None, None) if isinstance(pending, RedisErrorInfo) else pending
    oldest = summary[1].decode() if summary[1] else None
    figures = StreamStats(
        length=_count(length),
        lag=lag,
        lag_known=lag is not None,
        pending=int(mine[b"pending"]),
        oldest_pending_time=_id_time(oldest) if oldest else None,
        consumers=int(mine[b"consumers"]),
        dead_letters=_count(dead),
        last_delivered_id=mine[b"last-delivered-id"].decode(),
    )
    holding = {name.decode(errors="replace"): int(count) for name, count in summary[3] or []}
    held = sum(holding.values()) - holding.get(POSTPONED_CONSUMER, 0)
    group = _group_exists(group_ref, {"xlen": length, "xpending": pending})
    return ProbeResult(CONNECTED, group, figures, oldest, held, holding, mine.get(b"entries-read"))


def unreachable(reason: StreamReason, message: str, *, status: Literal["False", "Unknown"] = "False") -> ProbeResult:
    """Nothing was seen."""
    return ProbeResult(
        ConditionState(type="RedisReachable", status=status, reason=reason, message=message),
        ConditionState(
            type="GroupReady", status="Unknown", reason=reason, message="Redis is not reachable for the operator."
        ),
    )


def from_error(error_info: RedisErrorInfo) -> ProbeResult:
    return unreachable(_REASONS.get(error_info.code, StreamReason.UNREACHABLE), error_info.message)


def _groups_unavailable(group_ref: GroupRef, error_info: RedisErrorInfo, length: Any, dead: Any) -> ProbeResult:
    if error_info.code in _REASONS:
        return from_error(error_info)
    if "no such key" in error_info.message:
        return ProbeResult(
            CONNECTED, _group_missing(group_ref), StreamStats(length=_count(length), dead_letters=_count(dead))
        )
    known = {"WRONGTYPE": StreamReason.NOT_A_STREAM, "NOPERM": StreamReason.NO_PERMISSION}
    reason = known.get(error_info.code, StreamReason.GROUP_MISSING)
    status: Literal["False", "Unknown"] = "Unknown" if reason is StreamReason.NO_PERMISSION else "False"
    message = f"{error_info.message}; XINFO GROUPS needs +xinfo|groups" if status == "Unknown" else error_info.message
    return ProbeResult(CONNECTED, ConditionState(type="GroupReady", status=status, reason=reason, message=message))


def _group_missing(group_ref: GroupRef) -> ConditionState:
    message = f"Stream {group_ref.stream!r} has no group {group_ref.group!r} yet; the first pod creates it."
    return ConditionState(type="GroupReady", status="False", reason=StreamReason.GROUP_MISSING, message=message)


def _group_exists(group_ref: GroupRef, optional: dict[str, Any]) -> ConditionState:
    message = f"Stream {group_ref.stream!r} has the group {group_ref.group!r}."
    lacking = [f"+{right}" for right, answer in optional.items() if isinstance(answer, RedisErrorInfo)]
    if lacking:
        message += f" Not all can be told: grant {' '.join(lacking)} with ACL SETUSER."
    return ConditionState(type="GroupReady", status="True", reason=StreamReason.GROUP_EXISTS, message=message)


def _lag(group: dict[bytes, Any], length: int | None) -> int | None:
    """Redis knows it since 7.0, not after entries were deleted from the middle, and has been seen to say -1. After
    XTRIM it goes on counting what was cut off, until all is read: nobody can be behind by more than there is."""
    if length == 0:
        return 0
    told = group.get(b"lag")
    lag = -1 if told is None else int(told)
    return lag if lag >= 0 and (length is None or lag <= length) else None


def _count(reply: Any) -> int | None:
    return None if isinstance(reply, RedisErrorInfo) else int(reply)


def _id_time(message_id: str) -> str | None:
    """An id that the server made begins with milliseconds since 1970; a producer's own may be any number."""
    try:
        moment = datetime.fromtimestamp(int(message_id.partition("-")[0]) / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
