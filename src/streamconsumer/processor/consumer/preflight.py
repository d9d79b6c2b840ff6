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
from streamconsumer.processor.message import ConsumerId
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.errors_table import classify_error
from streamconsumer.redis_client.keys import group_key

MIN_SERVER_VERSION = (6, 2)
"""XPENDING with IDLE and with exclusive ids came with it."""

NO_SUCH_ID = "0-0"
"""No entry has this id."""

OPTIONAL_PERMISSIONS = {"+client|id", "+client|unblock"}
"""Rights that the engine can do without."""

_SERVER_SETTINGS = ("maxmemory-policy", "save", "appendonly")
_MAX_QUOTED_LENGTH = 120
"""Characters of a server's answer that are quoted."""

PermissionProbe = tuple[str, str, tuple[Any, ...]]
"""The right, the key, and the command that needs both."""


class RiskySetting(NamedTuple):
    """A setting of the server that can cost entries."""

    problem: str
    advice: str

    @property
    def message(self) -> str:
        return f"{self.problem}; {self.advice}"


@dataclass(frozen=True)
class PreflightReport:
    """What one look at the server found."""

    problem: str
    """Why the server cannot be used, in one sentence. Empty if it can."""

    version: str
    """Empty if the server does not name it."""

    missing_permissions: list[str]
    """Rights that the user is missing, as ACL SETUSER spells them."""

    settings: dict[str, str | None]
    """What `dangers` judges. None if the user may not ask, or the server does not know the setting."""

    @property
    def warnings(self) -> list[str]:
        """What the engine can do without, and what can cost entries."""
        rights = f"grant {' '.join(self.missing_permissions)} with ACL SETUSER; docs/redis.md lists the rights"
        lacking = [f"the Redis user lacks rights; {rights}"] if self.missing_permissions else []
        return lacking + [each.message for each in risky_settings(self.settings)]


async def run_preflight_checks(manager: StreamManager, consumer_id: ConsumerId) -> PreflightReport:
    """Ask the server everything, in one round trip. Raises what a server answers that is not ready."""
    probes = _probes(manager, consumer_id)
    commands = [command for _, _, command in probes]
    settings = [("CONFIG", "GET", name) for name in _SERVER_SETTINGS]
    hello, *answers = await manager.execute_pipeline([("HELLO",), *commands, *settings])
    version = "" if isinstance(hello, Exception) else str(replies.to_dict(hello)[b"version"].decode())
    refusals = _find_rejections(probes, answers)
    problem = _unsupported_version_error(version) or _missing_permission_error(manager, refusals)
    return PreflightReport(problem, version, [*refusals], _setting_values(answers[len(probes) :]))


def _find_rejections(probes: Sequence[PermissionProbe], raw_replies: Sequence[Any]) -> dict[str, Exception]:
    """Missing rights and the answers that show it."""
    found: dict[str, Exception] = {}
    to_a_read = str(raw_replies[0])  # a proxy without its server answers each command in the same words
    for (right, key, _), answer in zip(probes, raw_replies, strict=False):
        if not isinstance(answer, Exception):
            continue
        what = classify_error(answer, "")
        if isinstance(answer, NoPermissionError):
            found.setdefault(f"~{key}" if "access" in str(answer) else f"+{right}", answer)
        elif f"+{right}" not in OPTIONAL_PERMISSIONS and (
            what.is_command_unavailable or (right == "eval" and not what.is_known and str(answer) != to_a_read)
        ):
            found[f"+{right}"] = answer
        elif right == "eval":  # the server is not ready
            raise answer
    return found


def _unsupported_version_error(version: str) -> str:
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if not numbers or numbers >= MIN_SERVER_VERSION:
        return ""
    return f"the Redis server is version {version}; expected 6.2 or newer; upgrade it"


def _missing_permission_error(manager: StreamManager, rejections: Mapping[str, Exception]) -> str:
    """The sentence about the rights that the engine cannot work without."""
    missing = {right: answer for right, answer in rejections.items() if right not in OPTIONAL_PERMISSIONS}
    if not missing:
        return ""
    about = f"Redis at {manager.address_text} refuses the Redis user what is required: {' '.join(missing)}"
    for right, answer in missing.items():
        if not isinstance(answer, NoPermissionError):
            command, words = right[1:].replace("|", " ").upper(), str(answer)[:_MAX_QUOTED_LENGTH]
            return f"{about}; {command} is renamed, disabled or refused by a proxy ({words}): enable it there"
    return f"{about}; grant it with ACL SETUSER, docs/redis.md lists the rights"


def _setting_values(raw_replies: Sequence[Any]) -> dict[str, str | None]:
    return {
        name: None if isinstance(answer, Exception) or len(answer) < 2 else answer[1].decode()
        for name, answer in zip(_SERVER_SETTINGS, raw_replies, strict=True)
    }


def risky_settings(settings: Mapping[str, str | None]) -> list[RiskySetting]:
    """What of these settings can cost entries. What is not known is taken for right."""
    policy, told = settings["maxmemory-policy"] or "", []
    if policy.startswith("allkeys-"):
        evicts = f"the server's maxmemory-policy is {policy}: short of memory it deletes the stream with "
        told.append(RiskySetting(evicts + "all that is pending", "set noeviction, or a volatile- policy"))
    if settings["appendonly"] == "no" and settings["save"] == "":
        told.append(RiskySetting("the server keeps nothing on disk: a restart loses every entry", "set appendonly yes"))
    return told


def _probes(manager: StreamManager, consumer_id: ConsumerId) -> list[PermissionProbe]:
    """`x` stands where a number or an id should. No group has a key with the companion name `*`."""
    stream, group, consumer = consumer_id
    beside = group_key(stream, group, "*")
    dead = manager.delivery.dead_letter_stream or beside
    found: list[PermissionProbe] = [
        ("xreadgroup", stream, ("GROUP", group, consumer, "COUNT", "x", "STREAMS", stream, ">")),
        ("xack", stream, (stream, group, NO_SUCH_ID)),
        ("xclaim", stream, (stream, group, consumer, "x", NO_SUCH_ID)),
        ("xpending", stream, (stream, group, "-", "+", "x")),
        ("xrange", stream, (stream, "x", "x")),
        ("xadd", dead, (dead, NO_SUCH_ID, "x", "x")),
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
