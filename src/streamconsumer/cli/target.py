"""The server, the stream and the group that a command is about: those of a StreamConsumer in the cluster, those of the
options, or those of a pod's own environment.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.env_codec import env_name
from streamconsumer.model.fields import format_errors
from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.redis_client.keys import group_key

try:
    from streamconsumer.cli.redis_errors import as_backend_unavailable
    from streamconsumer.processor.consumer import StreamManager, redact_url
except ImportError as error:
    raise InvalidSettings(f"{error}; install streamconsumer[processor]") from None

OUTSIDE_CLUSTER_HINT = "if only pods reach the server, forward a port and give --redis-url, or run the command in a pod"

_POD_ENV_NAMES = {
    "stream": env_name("stream"),
    "group": env_name("consumer_group"),
    "dead_letter_stream": env_name("delivery", "dead_letter_stream"),
}

Options = Mapping[str, Any]
RedisFields = dict[str, Any]
"""Fields of RedisAccess, by name."""


@dataclass(frozen=True)
class Target:
    """One consumer group on one server."""

    redis: RedisSettings = field(repr=False)
    stream: str
    group: str
    dead_letter_stream: str
    """The key of the dead letters."""
    consumer: StreamConsumer | None = None
    """The StreamConsumer in the cluster; None if the target comes from elsewhere."""

    @property
    def server(self) -> str:
        if self.redis.sentinel_master:
            return f"the primary {self.redis.sentinel_master!r} of {','.join(self.redis.sentinel_nodes)}"
        return redact_url(self.redis.url) if self.redis.url else str(self.redis.url_file)


@asynccontextmanager
async def open_target(options: Options, environ: Mapping[str, str]) -> AsyncIterator[Target]:
    """Find the target. Certificates from Secrets exist as files until the end. Raises click.UsageError, InvalidSettings
    and BackendUnavailable."""
    if not options["name"]:
        if options["namespace"] or options["context"]:
            raise click.UsageError("-n and --context need the name of a StreamConsumer")
        yield _target_from_options(options, environ)
        return
    if given := [f"--{each}" for each in ("stream", "group") if options[each]]:
        raise click.UsageError(f"{', '.join(given)}: the StreamConsumer already names them; give one of the two")
    from streamconsumer.cli.cluster_target import target_from_cluster

    async with target_from_cluster(options, environ) as found:
        yield found


@asynccontextmanager
async def open_manager(target: Target, subject: str) -> AsyncIterator[StreamManager]:
    """Connect to the target's server. Raises BackendUnavailable, which names `about`, if the server does not answer or
    refuses a command."""
    manager = StreamManager.from_settings(target.redis, target.stream)
    try:
        with as_backend_unavailable(f"{subject} at {target.server}", OUTSIDE_CLUSTER_HINT if target.consumer else ""):
            yield manager
    finally:
        await manager.aclose()


def redis_settings(fields: RedisFields, options: Options, environ: Mapping[str, str]) -> RedisSettings:
    """The settings of the connection. --redis-url replaces the server and its credentials."""
    if options["redis_url"]:
        fields = {"url": options["redis_url"]}
    given = {"username": options["username"], "password": _read_password(options["password_file"], environ)}
    for name, value in given.items():
        if value:
            fields = {**fields, name: value}
            fields.pop(f"{name}_file", None)
    try:
        return RedisSettings.model_validate(fields)
    except ValidationError as error:
        raise InvalidSettings("; ".join(format_errors(error, lambda where: env_name("redis", *where)))) from None


def _target_from_options(options: Options, environ: Mapping[str, str]) -> Target:
    known = {name: options.get(name) or environ.get(by) for name, by in _POD_ENV_NAMES.items()}
    redis = _redis_fields_from_env(environ)
    needed = {"--redis-url": options["redis_url"] or redis, "--stream": known["stream"], "--group": known["group"]}
    if missing := [option for option, value in needed.items() if not value]:
        raise InvalidSettings(f"{', '.join(missing)}: missing; or give the name of a StreamConsumer")
    stream, group = str(known["stream"]), str(known["group"])
    dead_letters = known["dead_letter_stream"] or group_key(stream, group, "dead-letters")
    return Target(redis_settings(redis, options, environ), stream, group, dead_letters)


def _redis_fields_from_env(environ: Mapping[str, str]) -> RedisFields:
    redis: RedisFields = {
        name: environ[by] for name in RedisSettings.model_fields if (by := env_name("redis", name)) in environ
    }
    if "sentinel_nodes" in redis:
        redis["sentinel_nodes"] = redis["sentinel_nodes"].split(",")
    return redis


def _read_password(file: Path | None, environ: Mapping[str, str]) -> str | None:
    if file is None:
        return environ.get(env_name("redis", "password"))
    try:
        return file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{file}: the password cannot be read from it: {error}") from None
