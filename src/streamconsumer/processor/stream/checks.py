"""Asked once, after connecting: what the user may not do, and what of the server is dangerous. Nothing is changed.

Redis looks at rights before it looks at arguments. So each command is sent with arguments that it refuses, or that
are about nothing: NOPERM tells what is lacking, any other answer that it is not.
"""

import asyncio
import logging
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from redis.exceptions import NoPermissionError, RedisError

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.settings import ProcessorSettings
from streamconsumer.processor.stream import replies
from streamconsumer.processor.stream.manager import StreamManager
from streamconsumer.server.keys import companion

log = logging.getLogger(__name__)

OLDEST = (6, 2)
"""XPENDING with IDLE and with exclusive ids came with it."""

AGAIN_SECONDS = 2.0
"""While no server answers, it is asked again this often."""

NOBODY = "0-0"
"""No entry has this id."""

_SETTINGS = ("maxmemory-policy", "save", "appendonly")


class Danger(NamedTuple):
    """A setting of the server that can cost entries."""

    found: str
    advice: str

    @property
    def sentence(self) -> str:
        return f"{self.found}; {self.advice}"


async def check(manager: StreamManager, settings: ProcessorSettings) -> None:
    """Log a warning for each thing that is wrong, as soon as a server answers. Raises InvalidSettings where it is too
    old. What the user may not ask is taken for right."""
    while True:
        try:
            if problem := outdated(await version(manager)):
                raise InvalidSettings(problem)
            dangerous = [each.sentence for each in dangers(await server_settings(manager))]
            for warning in [*await _lacking_in_a_sentence(manager, settings), *dangerous]:
                log.warning(warning)
        except (RedisError, OSError):
            await asyncio.sleep(AGAIN_SECONDS)
        else:
            return


async def version(manager: StreamManager) -> str:
    """What the server says of itself: HELLO needs no right. Nothing where it does not know the command."""
    (hello,) = await manager.ask_together([("HELLO",)])
    return "" if isinstance(hello, Exception) else str(replies.pairs(hello)[b"version"].decode())


def outdated(found: str) -> str:
    """Why a server of this version cannot be used, or nothing."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:2])
    if not numbers or numbers >= OLDEST:
        return ""
    return f"the Redis server is version {found}; expected 6.2 or newer; upgrade it"


async def lacking(manager: StreamManager, settings: ProcessorSettings) -> list[str]:
    """The rights that are not there, as ACL SETUSER spells them."""
    probes = _probes(settings)
    answers = await manager.ask_together([command for _, _, command in probes])
    found = [
        f"+{right}" if "run the" in str(answer) else f"~{key}"
        for (right, key, _), answer in zip(probes, answers, strict=True)
        if isinstance(answer, NoPermissionError)
    ]
    return [*dict.fromkeys(found)]


async def server_settings(manager: StreamManager) -> dict[str, str | None]:
    """What `dangers` judges. None: the user may not ask, or the server does not know it."""
    answers = await manager.ask_together([("CONFIG", "GET", name) for name in _SETTINGS])
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


async def _lacking_in_a_sentence(manager: StreamManager, settings: ProcessorSettings) -> list[str]:
    rights = await lacking(manager, settings)
    what = (
        f"the Redis user lacks rights; grant {' '.join(rights)} with ACL SETUSER; docs/redis.md says what each is for"
    )
    return [what] if rights else []


def _probes(settings: ProcessorSettings) -> list[tuple[str, str, tuple[Any, ...]]]:
    """The right, the key, and the command that would need both. `x` stands where a number or an id should."""
    stream, group, consumer = settings.stream, settings.consumer_group, settings.consumer_name
    beside, dead = _companions(settings)
    found: list[tuple[str, str, tuple[Any, ...]]] = [
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
        ("hgetall", beside, (beside,)),
        ("hdel", beside, (beside, "")),
        ("zadd", beside, (beside, "x", "x")),
        ("zrem", beside, (beside, "")),
        ("zrange", beside, (beside, 0, 0)),
        ("zrangebyscore", beside, (beside, "x", "x")),
        ("zscore", beside, (beside, "")),
        ("time", "", ()),
        ("eval", stream, ("return 1", 1, stream)),
        ("client|id", "", ()),
        ("client|unblock", "", (0,)),
    ]
    retention = settings.retention
    if retention.max_age or retention.acknowledged:
        found.append(("xtrim", stream, (stream, "MAXLEN", "x")))
    return [(right, key, (*right.upper().split("|"), *arguments)) for right, key, arguments in found]


def _companions(settings: ProcessorSettings) -> tuple[str, str]:
    """A key beside the stream that is never there, and the dead letters'."""
    beside = companion(settings.stream, settings.consumer_group, "*")
    return beside, settings.delivery.dead_letter_stream or beside
