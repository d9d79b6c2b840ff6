"""What a server and its user lack, and which of the server's settings can cost entries: asked in one round trip.

Nothing is changed. Redis looks at rights before it looks at arguments. So each command is sent with arguments that it
refuses, or that are about nothing: NOPERM shows that the right is missing, any other answer that it is not. Scripts are
different: `return 1` must return 1, for a proxy refuses EVAL in words of its own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis.exceptions import NoPermissionError

from streamconsumer.processor.consumer.manager import StreamManager
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.errors_table import fault
from streamconsumer.redis_client.keys import companion

OLDEST = (6, 2)
"""XPENDING with IDLE and with exclusive ids came with it."""

NOBODY = "0-0"
"""No entry has this id."""

OPTIONAL = {"+client|id", "+client|unblock"}
"""Rights that the engine can do without."""

_SETTINGS = ("maxmemory-policy", "save", "appendonly")
_MOST_WORDS = 120
"""Characters of a server's answer that are quoted."""

Probe = tuple[str, str, tuple[Any, ...]]
"""The right, the key, and the command that needs both."""

Who = tuple[str, str, str]
"""Stream, group and consumer."""


class Danger(NamedTuple):
    """A setting of the server that can cost entries."""

    found: str
    advice: str

    @property
    def sentence(self) -> str:
        return f"{self.found}; {self.advice}"


@dataclass(frozen=True)
class Examination:
    """What one look at the server found."""

    problem: str
    """Why the server cannot be used, in one sentence. Empty if it can."""

    version: str
    """Empty if the server does not name it."""

    lacking: list[str]
    """Rights that the user is missing, as ACL SETUSER spells them."""

    settings: dict[str, str | None]
    """What `dangers` judges. None if the user may not ask, or the server does not know the setting."""

    @property
    def warnings(self) -> list[str]:
        """What the engine can do without, and what can cost entries."""
        rights = f"grant {' '.join(self.lacking)} with ACL SETUSER; docs/redis.md lists the rights"
        lacking = [f"the Redis user lacks rights; {rights}"] if self.lacking else []
        return lacking + [each.sentence for each in dangers(self.settings)]


async def examine(manager: StreamManager, who: Who) -> Examination:
    """Ask the server everything, in one round trip. Raises what a server answers that is not ready."""
    probes = _probes(manager, who)
    commands = [command for _, _, command in probes]
    settings = [("CONFIG", "GET", name) for name in _SETTINGS]
    hello, *answers = await manager.ask_together([("HELLO",), *commands, *settings])
    version = "" if isinstance(hello, Exception) else str(replies.pairs(hello)[b"version"].decode())
    refusals = _refusals(probes, answers)
    problem = _outdated(version) or _unusable(manager, refusals)
    return Examination(problem, version, [*refusals], _values(answers[len(probes) :]))


def _refusals(probes: Sequence[Probe], answers: Sequence[Any]) -> dict[str, Exception]:
    """Missing rights and the answers that show it."""
    found: dict[str, Exception] = {}
    to_a_read = str(answers[0])  # a proxy without its server answers each command in the same words
    for (right, key, _), answer in zip(probes, answers, strict=False):
        if not isinstance(answer, Exception):
            continue
        what = fault(answer, "")
        if isinstance(answer, NoPermissionError):
            found.setdefault(f"~{key}" if "access" in str(answer) else f"+{right}", answer)
        elif f"+{right}" not in OPTIONAL and (
            what.is_refusal or (right == "eval" and not what.is_known and str(answer) != to_a_read)
        ):
            found[f"+{right}"] = answer
        elif right == "eval":  # the server is not ready
            raise answer
    return found


def _outdated(found: str) -> str:
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:2])
    if not numbers or numbers >= OLDEST:
        return ""
    return f"the Redis server is version {found}; expected 6.2 or newer; upgrade it"


def _unusable(manager: StreamManager, refusals: Mapping[str, Exception]) -> str:
    """The sentence about the rights that the engine cannot work without."""
    missing = {right: answer for right, answer in refusals.items() if right not in OPTIONAL}
    if not missing:
        return ""
    about = f"Redis at {manager.place} refuses the Redis user what is required: {' '.join(missing)}"
    for right, answer in missing.items():
        if not isinstance(answer, NoPermissionError):
            command, words = right[1:].replace("|", " ").upper(), str(answer)[:_MOST_WORDS]
            return f"{about}; {command} is renamed, disabled or refused by a proxy ({words}): enable it there"
    return f"{about}; grant it with ACL SETUSER, docs/redis.md lists the rights"


def _values(answers: Sequence[Any]) -> dict[str, str | None]:
    return {
        name: None if isinstance(answer, Exception) or len(answer) < 2 else answer[1].decode()
        for name, answer in zip(_SETTINGS, answers, strict=True)
    }


def dangers(found: Mapping[str, str | None]) -> list[Danger]:
    """What of these settings can cost entries. What is not known is taken for right."""
    policy, told = found["maxmemory-policy"] or "", []
    if policy.startswith("allkeys-"):
        evicts = f"the server's maxmemory-policy is {policy}: short of memory it deletes the stream with "
        told.append(Danger(evicts + "all that is pending", "set noeviction, or a volatile- policy"))
    if found["appendonly"] == "no" and found["save"] == "":
        told.append(Danger("the server keeps nothing on disk: a restart loses every entry", "set appendonly yes"))
    return told


def _probes(manager: StreamManager, who: Who) -> list[Probe]:
    """`x` stands where a number or an id should. No group has a key with the companion name `*`."""
    stream, group, consumer = who
    beside = companion(stream, group, "*")
    dead = manager.delivery.dead_letter_stream or beside
    found: list[Probe] = [
        ("xreadgroup", stream, ("GROUP", group, consumer, "COUNT", "x", "STREAMS", stream, ">")),
        ("xack", stream, (stream, group, NOBODY)),
        ("xclaim", stream, (stream, group, consumer, "x", NOBODY)),
        ("xpending", stream, (stream, group, "-", "+", "x")),
        ("xrange", stream, (stream, "x", "x")),
        ("xadd", dead, (dead, NOBODY, "x", "x")),
        ("xgroup|create", stream, (stream, group, "x")),
        ("xgroup|createconsumer", stream, (stream, "", "")),
        ("xgroup|delconsumer", stream, (stream, "", "")),
        ("xinfo|stream", stream, (stream, "x")),
        ("xinfo|groups", stream, (stream,)),
        ("xinfo|consumers", stream, (stream, "")),
        ("hset", beside, (beside, "x", "x", "x")),
        ("hget", beside, (beside, "")),
        ("hgetall", beside, (beside,)),
        ("hdel", beside, (beside, "")),
        ("zadd", beside, (beside, "x", "x")),
        ("zrem", beside, (beside, "")),
        ("zrangebyscore", beside, (beside, "x", "x")),
        ("zremrangebyscore", beside, (beside, "x", "x")),
        ("zscore", beside, (beside, "")),
        ("time", "", ()),
        ("eval", stream, ("return 1", 1, stream)),
        ("client|id", "", ()),
        ("client|unblock", "", (0,)),
    ]
    if manager.retention.max_age or manager.retention.acknowledged:
        found.append(("xtrim", stream, (stream, "MAXLEN", "x")))
    return [(right, key, (*right.upper().split("|"), *arguments)) for right, key, arguments in found]
