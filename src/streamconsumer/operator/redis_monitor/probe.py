"""What is asked of one stream in each look, and what the answers mean. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import Fact, StreamFigures, StreamReason
from streamconsumer.redis_client.errors_table import NO_DATABASE, Fault
from streamconsumer.redis_client.keys import POSTPONED, companion
from streamconsumer.redis_client.pipeline_client import Question
from streamconsumer.redis_client.replies import pairs

_REASONS = {
    "WRONGPASS": StreamReason.CREDENTIALS_REFUSED,
    "NOAUTH": StreamReason.CREDENTIALS_REFUSED,
    "TLS": StreamReason.TLS_FAILED,
    NO_DATABASE: StreamReason.INVALID_SETTINGS,
    **dict.fromkeys(
        ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN", "BUSY", "READONLY"),
        StreamReason.SERVER_NOT_READY,
    ),
}
"""What an answer says of the server rather than of one stream."""

CONNECTED = Fact(type="RedisReachable", status="True", reason=StreamReason.CONNECTED)


@dataclass(frozen=True)
class Place:
    """Where one StreamConsumer is at home in Redis."""

    stream: str
    group: str
    dead_letters: str

    @classmethod
    def of(cls, consumer: StreamConsumer) -> "Place":
        spec = consumer.spec
        beside = companion(spec.stream, spec.consumer_group, "dead-letters")
        return cls(spec.stream, spec.consumer_group, spec.delivery.dead_letter_stream or beside)

    def beside(self, what: str) -> str:
        return companion(self.stream, self.group, what)


@dataclass(frozen=True)
class Sight:
    """What one look found."""

    reachable: Fact
    group: Fact
    figures: StreamFigures | None = None
    oldest: str | None = None
    """The id of the oldest pending entry."""
    held: int = 0
    """How many of the pending ones are with a consumer, and not just waiting for another try."""
    holding: Mapping[str, int] = field(default_factory=dict)
    """How many entries each consumer holds; who holds none is left out."""
    read: int | None = None
    """How many entries the group was ever given, where the server counts them."""

    @property
    def group_is_missing(self) -> bool:
        return self.group.reason is StreamReason.GROUP_MISSING


def questions(place: Place) -> list[Question]:
    return [
        ("XINFO", "GROUPS", place.stream),
        ("XLEN", place.stream),
        ("XPENDING", place.stream, place.group),
        ("XLEN", place.dead_letters),
    ]


QUESTIONS = 4


def sight(place: Place, answers: Sequence[Any]) -> Sight:
    """The answers to `questions`. Lengths may be forbidden: then they are not known, and it is said."""
    groups, length, pending, dead = answers
    if isinstance(groups, Fault):
        return _without_groups(place, groups, length, dead)
    mine = next((found for each in groups if (found := pairs(each))[b"name"] == place.group.encode()), None)
    if mine is None:
        return Sight(CONNECTED, _missing(place), StreamFigures(length=_count(length), dead_letters=_count(dead)))
    lag = _lag(mine, _count(length))
    summary: Sequence[Any] = (0, None, None, None) if isinstance(pending, Fault) else pending
    oldest = summary[1].decode() if summary[1] else None
    figures = StreamFigures(
        length=_count(length),
        lag=lag,
        lag_known=lag is not None,
        pending=int(mine[b"pending"]),
        oldest_pending_time=_moment(oldest) if oldest else None,
        consumers=int(mine[b"consumers"]),
        dead_letters=_count(dead),
        last_delivered_id=mine[b"last-delivered-id"].decode(),
    )
    holding = {name.decode(errors="replace"): int(count) for name, count in summary[3] or []}
    held = sum(holding.values()) - holding.get(POSTPONED, 0)
    group = _exists(place, {"xlen": length, "xpending": pending})
    return Sight(CONNECTED, group, figures, oldest, held, holding, mine.get(b"entries-read"))


def unreachable(reason: StreamReason, message: str, *, status: Literal["False", "Unknown"] = "False") -> Sight:
    """Nothing was seen."""
    return Sight(
        Fact(type="RedisReachable", status=status, reason=reason, message=message),
        Fact(type="GroupReady", status="Unknown", reason=reason, message="Redis is not reachable for the operator."),
    )


def of_fault(fault: Fault) -> Sight:
    return unreachable(_REASONS.get(fault.code, StreamReason.UNREACHABLE), fault.sentence)


def _without_groups(place: Place, fault: Fault, length: Any, dead: Any) -> Sight:
    if fault.code in _REASONS:
        return of_fault(fault)
    if "no such key" in fault.sentence:
        return Sight(CONNECTED, _missing(place), StreamFigures(length=_count(length), dead_letters=_count(dead)))
    known = {"WRONGTYPE": StreamReason.NOT_A_STREAM, "NOPERM": StreamReason.NO_PERMISSION}
    reason = known.get(fault.code, StreamReason.GROUP_MISSING)
    status: Literal["False", "Unknown"] = "Unknown" if reason is StreamReason.NO_PERMISSION else "False"
    message = f"{fault.sentence}; XINFO GROUPS needs +xinfo|groups" if status == "Unknown" else fault.sentence
    return Sight(CONNECTED, Fact(type="GroupReady", status=status, reason=reason, message=message))


def _missing(place: Place) -> Fact:
    message = f"Stream {place.stream!r} has no group {place.group!r} yet; the first pod creates it."
    return Fact(type="GroupReady", status="False", reason=StreamReason.GROUP_MISSING, message=message)


def _exists(place: Place, optional: dict[str, Any]) -> Fact:
    message = f"Stream {place.stream!r} has the group {place.group!r}."
    lacking = [f"+{right}" for right, answer in optional.items() if isinstance(answer, Fault)]
    if lacking:
        message += f" Not all can be told: grant {' '.join(lacking)} with ACL SETUSER."
    return Fact(type="GroupReady", status="True", reason=StreamReason.GROUP_EXISTS, message=message)


def _lag(group: dict[bytes, Any], length: int | None) -> int | None:
    """Redis knows it since 7.0, not after entries were deleted from the middle, and has been seen to say -1. After
    XTRIM it goes on counting what was cut off, until all is read: nobody can be behind by more than there is."""
    if length == 0:
        return 0
    told = group.get(b"lag")
    lag = -1 if told is None else int(told)
    return lag if lag >= 0 and (length is None or lag <= length) else None


def _count(answer: Any) -> int | None:
    return None if isinstance(answer, Fault) else int(answer)


def _moment(message_id: str) -> str | None:
    """An id that the server made begins with milliseconds since 1970; a producer's own may be any number."""
    try:
        moment = datetime.fromtimestamp(int(message_id.partition("-")[0]) / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
