"""Preflight checks of a Redis server: version, permissions of the user, and risky settings, in one round trip.

The checks change nothing. Redis checks permissions before arguments, so each command is sent with arguments that it
rejects or that have no effect. NOPERM then means that the permission is missing; any other reply means that it is
granted. EVAL is different: `return 1` must return 1, because a proxy rejects EVAL with its own error text.
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
from streamconsumer.redis_client.server_settings import CHECKED_SETTINGS, risky_settings

MIN_SERVER_VERSION = (6, 2)
"""Oldest supported version: the first with IDLE and exclusive ids in XPENDING."""

NO_SUCH_ID = "0-0"
"""Id that no entry can have."""

OPTIONAL_PERMISSIONS = {"+client|id", "+client|unblock"}
"""Permissions without which the processor works with limitations."""

_MAX_QUOTED_LENGTH = 120
"""Maximum number of characters quoted from an error reply."""


class PermissionProbe(NamedTuple):
    """A command that shows whether the user has a permission."""

    permission: str
    key: str
    """Key of the command. Empty if it has none."""
    arguments: tuple[Any, ...]

    @property
    def command(self) -> tuple[Any, ...]:
        """The command with its arguments."""
        return (*self.permission.upper().split("|"), *self.arguments)


@dataclass(frozen=True)
class PreflightReport:
    """Result of the checks."""

    problem: str
    """Reason why the server cannot be used, in one sentence. Empty if it can be used."""

    version: str
    """Version of the server. Empty if the server does not report it."""

    missing_permissions: list[str]
    """Missing permissions in the syntax of ACL SETUSER."""

    settings: dict[str, str | None]
    """Values of the CHECKED_SETTINGS. None if the user may not read them, or the server does not have the setting."""

    @property
    def warnings(self) -> list[str]:
        """Log messages about missing optional permissions and about settings that can cost entries."""
        settings = [setting.message for setting in risky_settings(self.settings)]
        if not self.missing_permissions:
            return settings
        advice = f"grant {' '.join(self.missing_permissions)} with ACL SETUSER; docs/redis.md lists the permissions"
        return [f"the Redis user is missing permissions; {advice}", *settings]


async def run_preflight_checks(manager: StreamManager, consumer_id: ConsumerId) -> PreflightReport:
    """Run all checks in one round trip. Raises the error reply of a server that is not ready."""
    probes = _probes(manager, consumer_id)
    commands = [probe.command for probe in probes]
    settings = [("CONFIG", "GET", name) for name in CHECKED_SETTINGS]
    hello, *raw_replies = await manager.execute_pipeline([("HELLO",), *commands, *settings])
    version = "" if isinstance(hello, Exception) else str(replies.to_dict(hello)[b"version"].decode())
    rejections = _find_rejections(probes, raw_replies)
    problem = _unsupported_version_error(version) or _missing_permission_error(manager, rejections)
    return PreflightReport(problem, version, [*rejections], _setting_values(raw_replies[len(probes) :]))


def _find_rejections(probes: Sequence[PermissionProbe], raw_replies: Sequence[Any]) -> dict[str, Exception]:
    """Return the missing permissions with the error replies that show them."""
    rejections: dict[str, Exception] = {}
    reply_to_read = str(raw_replies[0])  # a proxy that has lost its server replies to each command with the same text
    for probe, reply in zip(probes, raw_replies, strict=False):
        if not isinstance(reply, Exception):
            continue
        error_info = classify_error(reply, "")
        permission, is_eval = f"+{probe.permission}", probe.permission == "eval"
        if isinstance(reply, NoPermissionError):
            rejections.setdefault(f"~{probe.key}" if "access" in str(reply) else permission, reply)
        elif permission not in OPTIONAL_PERMISSIONS and (
            error_info.is_command_unavailable or (is_eval and not error_info.is_known and str(reply) != reply_to_read)
        ):
            rejections[permission] = reply
        elif is_eval:  # the server is not ready
            raise reply
    return rejections


def _unsupported_version_error(version: str) -> str:
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if not numbers or numbers >= MIN_SERVER_VERSION:
        return ""
    return f"the Redis server is version {version}; expected 6.2 or newer; upgrade it"


def _missing_permission_error(manager: StreamManager, rejections: Mapping[str, Exception]) -> str:
    """Return the error about missing required permissions. Empty if none is missing."""
    missing = {permission: reply for permission, reply in rejections.items() if permission not in OPTIONAL_PERMISSIONS}
    if not missing:
        return ""
    problem = f"Redis at {manager.address_text} does not grant required permissions: {' '.join(missing)}"
    for permission, reply in missing.items():
        if not isinstance(reply, NoPermissionError):
            command, quote = permission[1:].replace("|", " ").upper(), str(reply)[:_MAX_QUOTED_LENGTH]
            return f"{problem}; {command} is renamed, disabled or refused by a proxy ({quote}): enable it there"
    return f"{problem}; grant them with ACL SETUSER, docs/redis.md lists the permissions"


def _setting_values(raw_replies: Sequence[Any]) -> dict[str, str | None]:
    return {
        name: None if isinstance(reply, Exception) or len(reply) < 2 else reply[1].decode()
        for name, reply in zip(CHECKED_SETTINGS, raw_replies, strict=True)
    }


def _probes(manager: StreamManager, consumer_id: ConsumerId) -> list[PermissionProbe]:
    """Return the commands that test the permissions.

    `x` replaces a number or an id, so that Redis rejects the arguments. No group has a companion key with the suffix
    `*`.
    """
    stream, group, consumer = consumer_id
    companion = group_key(stream, group, "*")
    dead_letters = manager.delivery.dead_letter_stream or companion
    probes: list[tuple[str, str, tuple[Any, ...]]] = [
        ("xreadgroup", stream, ("GROUP", group, consumer, "COUNT", "x", "STREAMS", stream, ">")),
        ("xack", stream, (stream, group, NO_SUCH_ID)),
        ("xclaim", stream, (stream, group, consumer, "x", NO_SUCH_ID)),
        ("xpending", stream, (stream, group, "-", "+", "x")),
        ("xrange", stream, (stream, "x", "x")),
        ("xadd", dead_letters, (dead_letters, NO_SUCH_ID, "x", "x")),
        ("xgroup|create", stream, (stream, group, "x")),
        ("xgroup|createconsumer", stream, (stream, "", "")),
        ("xgroup|delconsumer", stream, (stream, "", "")),
        ("xinfo|stream", stream, (stream, "x")),
        ("xinfo|groups", stream, (stream,)),
        ("xinfo|consumers", stream, (stream, "")),
        ("hset", companion, (companion, "x", "x", "x")),
        ("hget", companion, (companion, "")),
        ("hgetall", companion, (companion,)),
        ("hdel", companion, (companion, "")),
        ("zadd", companion, (companion, "x", "x")),
        ("zrem", companion, (companion, "")),
        ("zrangebyscore", companion, (companion, "x", "x")),
        ("zremrangebyscore", companion, (companion, "x", "x")),
        ("zscore", companion, (companion, "")),
        ("time", "", ()),
        ("eval", stream, ("return 1", 1, stream)),
        ("client|id", "", ()),
        ("client|unblock", "", (0,)),
    ]
    if manager.retention.max_age or manager.retention.acknowledged:
        probes.append(("xtrim", stream, (stream, "MAXLEN", "x")))
    return [PermissionProbe(*probe) for probe in probes]
