"""Preflight checks of a Redis server: version, permissions of the user, and risky settings, in one round trip.

The checks change no data. Redis checks permissions before arguments. Each command is therefore sent with arguments that
Redis rejects or that have no effect. The reply NOPERM means that the permission is missing; any other reply means that
the user has the permission. The permission for EVAL counts as granted only if the script `return 1` returns 1, because
a proxy that rejects EVAL replies with its own error text.
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
from streamconsumer.redis_client.server_faults import FEATURE_SETTINGS, enabled_features, version_risk
from streamconsumer.redis_client.server_settings import CHECKED_SETTINGS, ServerRisk, risky_settings

MIN_SERVER_VERSION = (6, 2)
"""Oldest supported Redis version. Versions before 6.2 support neither IDLE nor exclusive ids in XPENDING."""

NO_SUCH_ID = "0-0"
"""Entry id that no entry can have."""

OPTIONAL_PERMISSIONS = {"+evalsha", "+client|id", "+client|unblock", "+client|list", "+client|setname", "+info"}
"""Optional permissions. If an optional permission is missing, the processor works with limitations."""

_MAX_QUOTED_LENGTH = 120
"""Maximum number of characters quoted from an error reply."""


class PermissionProbe(NamedTuple):
    """A command that shows whether the user has a permission."""

    permission: str
    key: str
    """Redis key that the command accesses. Empty if the command accesses no key."""
    arguments: tuple[Any, ...]

    @property
    def command(self) -> tuple[Any, ...]:
        """Name and arguments of the command."""
        return (*self.permission.upper().split("|"), *self.arguments)


@dataclass(frozen=True)
class PreflightReport:
    """Result of the checks."""

    problem: str
    """Reason why the server cannot be used, in one sentence. Empty if the server can be used."""

    version: str
    """Version of the server. Empty if the server does not report its version."""

    missing_permissions: list[str]
    """Missing permissions in the syntax of ACL SETUSER."""

    settings: dict[str, str | None]
    """Value of each setting in CHECKED_SETTINGS. None if the user is not allowed to read the setting, or if the server
    does not have it."""

    version_risk: ServerRisk | None = None
    """Known faults of the server's version. None if no fault is known."""

    @property
    def warnings(self) -> list[str]:
        """Log messages about missing optional permissions, about settings that can lead to the loss of entries, and
        about known faults of the server."""
        risks = [*risky_settings(self.settings), *([self.version_risk] if self.version_risk else [])]
        messages = [risk.message for risk in risks]
        if not self.missing_permissions:
            return messages
        advice = f"grant {' '.join(self.missing_permissions)} with ACL SETUSER; docs/redis.md lists the permissions"
        return [f"the Redis user is missing permissions; {advice}", *messages]


async def run_preflight_checks(manager: StreamManager, consumer_id: ConsumerId) -> PreflightReport:
    """Run all checks in one round trip. Raises the server's error reply if the server is not ready."""
    probes = _probes(manager, consumer_id)
    commands = [probe.command for probe in probes]
    queries = [("CONFIG", "GET", name) for name in (*CHECKED_SETTINGS, *FEATURE_SETTINGS)]
    hello, *raw_replies = await manager.execute_pipeline([("HELLO",), *commands, *queries])
    product, version = ("", "") if isinstance(hello, Exception) else _product_and_version(hello)
    rejections = _find_rejections(probes, raw_replies)
    problem = _unsupported_version_error(version) or _missing_permission_error(manager, rejections)
    settings = _setting_values(raw_replies[len(probes) :])
    risk = version_risk(product, version, enabled_features(settings, uses_tls=manager.uses_tls))
    return PreflightReport(problem, version, [*rejections], {name: settings[name] for name in CHECKED_SETTINGS}, risk)


def _product_and_version(hello: Any) -> tuple[str, str]:
    """Return the name of the server program, such as `redis` or `valkey`, and its version."""
    fields = replies.to_dict(hello, "HELLO")
    product = replies.text(fields.get(b"server", b""), "HELLO")
    return product, replies.text(replies.field(fields, "version", "HELLO"), "HELLO")


def _find_rejections(probes: Sequence[PermissionProbe], raw_replies: Sequence[Any]) -> dict[str, Exception]:
    """Return each missing permission, with the error reply to the command that requires the permission."""
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
    numbers = tuple(int(number) for number in re.findall("[0-9]{1,9}", version)[:2])
    if not numbers or numbers >= MIN_SERVER_VERSION:
        return ""
    return f"the Redis server is version {version}; expected 6.2 or newer; upgrade it"


def _missing_permission_error(manager: StreamManager, rejections: Mapping[str, Exception]) -> str:
    """Return an error message that lists the missing required permissions. Returns an empty string if no required
    permission is missing."""
    missing = {permission: reply for permission, reply in rejections.items() if permission not in OPTIONAL_PERMISSIONS}
    if not missing:
        return ""
    problem = f"Redis at {manager.address_text} does not grant required permissions: {' '.join(missing)}"
    for permission, reply in missing.items():
        if not isinstance(reply, NoPermissionError):
            command, quote = permission[1:].replace("|", " ").upper(), str(reply)[:_MAX_QUOTED_LENGTH]
            return f"{problem}; {command} is renamed, disabled or refused by a proxy ({quote}); enable {command}"
    return f"{problem}; grant them with ACL SETUSER; docs/redis.md lists the permissions"


def _setting_values(raw_replies: Sequence[Any]) -> dict[str, str | None]:
    values: dict[str, str | None] = {}
    for name, reply in zip((*CHECKED_SETTINGS, *FEATURE_SETTINGS), raw_replies, strict=True):
        lines = {} if isinstance(reply, Exception) else replies.to_dict(reply, "CONFIG GET")
        value = lines.get(name.encode())
        values[name] = None if value is None else replies.text(value, "CONFIG GET")
    return values


def _probes(manager: StreamManager, consumer_id: ConsumerId) -> list[PermissionProbe]:
    """Return the commands that test the permissions.

    The argument `x` takes the place of a number or an id, so that Redis rejects the arguments. The name of the tested
    companion key ends with `*`, so that no group uses the key.
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
        ("hscan", companion, (companion, "x")),
        ("hdel", companion, (companion, "")),
        ("zadd", companion, (companion, "x", "x")),
        ("zrem", companion, (companion, "")),
        ("zrangebyscore", companion, (companion, "x", "x")),
        ("zremrangebyscore", companion, (companion, "x", "x")),
        ("zscore", companion, (companion, "")),
        ("zscan", companion, (companion, "x")),
        ("zremrangebyrank", companion, (companion, "x", "x")),
        ("hlen", companion, (companion,)),
        ("expire", companion, (companion, "x")),
        ("rename", companion, (companion, companion)),
        ("del", companion, (companion,)),
        ("time", "", ()),
        ("eval", stream, ("return 1", 1, stream)),
        ("evalsha", stream, ("x", 1, stream)),
        ("client|id", "", ()),
        ("client|unblock", "", (0,)),
        ("client|list", "", ("ID", "x")),
        ("client|setname", "", ("x x",)),
        ("info", "", ("x",)),
    ]
    if manager.retention.max_age or manager.retention.acknowledged:
        probes.append(("xtrim", stream, (stream, "MAXLEN", "x")))
    return [PermissionProbe(*probe) for probe in probes]
