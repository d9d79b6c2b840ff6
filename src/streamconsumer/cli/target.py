"""Target of a command: the Redis server, the stream and the consumer group.

The target comes from a StreamConsumer in the cluster, from the options, or from the environment variables of a pod.
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
from streamconsumer.model.processor_settings import Delivery, InlineRedisSettings, RedisSettings
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.redis_client.keys import group_key

try:
    from streamconsumer.cli.redis_errors import as_backend_unavailable
    from streamconsumer.processor.consumer import StreamManager, redact_url
    from streamconsumer.processor.consumer.manager import MAX_REPLY_BYTES
except ImportError as error:
    raise InvalidSettings(f"{error}; install streamconsumer[processor]") from None

OUTSIDE_CLUSTER_HINT = (
    "if the server is reachable only from pods, forward a port and give --redis-url, or run the command in a pod"
)

MAX_ENTRY_BYTES = 134_217_728
"""Maximum size of an entry that the commands read, including 64 bytes for each field name and value. The limit prevents
a server from exhausting the memory of a command."""

_POD_ENV_NAMES = {
    "stream": env_name("stream"),
    "group": env_name("consumer_group"),
    "dead_letter_stream": env_name("delivery", "dead_letter_stream"),
}

Options = Mapping[str, Any]
RedisFields = dict[str, Any]
"""Values of RedisSettings fields, by field name."""


@dataclass(frozen=True)
class Target:
    """A consumer group on a Redis server."""

    redis: RedisSettings = field(repr=False)
    stream: str
    group: str
    dead_letter_stream: str
    """Redis key of the dead-letter stream."""
    consumer: StreamConsumer | None = None
    """The StreamConsumer in the cluster, or None if the target comes from options or environment variables."""

    @property
    def server(self) -> str:
        """The server's address without credentials, for output to the user."""
        if self.redis.sentinel_master:
            return f"the primary {self.redis.sentinel_master!r} of {','.join(self.redis.sentinel_nodes)}"
        return redact_url(self.redis.url) if self.redis.url else str(self.redis.url_file)


@asynccontextmanager
async def open_target(options: Options, environ: Mapping[str, str]) -> AsyncIterator[Target]:
    """Find and yield the target. Raises click.UsageError, InvalidSettings or BackendUnavailable if the target cannot be
    found."""
    if not options["name"]:
        if options["namespace"] or options["context"]:
            raise click.UsageError("-n and --context require the name of a StreamConsumer")
        yield _target_from_options(options, environ)
        return
    if conflicting := [f"--{each}" for each in ("stream", "group") if options[each]]:
        raise click.UsageError(f"{', '.join(conflicting)}: cannot be combined with the name of a StreamConsumer")
    from streamconsumer.cli.cluster_target import target_from_cluster

    async with target_from_cluster(options, environ) as target:
        yield target


@asynccontextmanager
async def open_manager(target: Target, subject: str) -> AsyncIterator[StreamManager]:
    """Connect to the target's Redis server.

    If the server does not answer or rejects a command, raises BackendUnavailable, whose message names `subject`.
    """
    delivery = Delivery(max_entry_bytes=MAX_ENTRY_BYTES - MAX_REPLY_BYTES)  # the manager adds MAX_REPLY_BYTES
    manager = StreamManager.from_settings(target.redis, target.stream, delivery=delivery)
    try:
        with as_backend_unavailable(f"{subject} at {target.server}", OUTSIDE_CLUSTER_HINT if target.consumer else ""):
            yield manager
    finally:
        await manager.aclose()


def redis_settings(fields: RedisFields, options: Options, environ: Mapping[str, str]) -> RedisSettings:
    """Return the connection settings. `--redis-url` replaces the server and the credentials in `fields`.

    Raises InvalidSettings if a setting is invalid.
    """
    if options["redis_url"]:
        fields = {"url": options["redis_url"]}
    credentials = {"username": options["username"], "password": _read_password(options["password_file"], environ)}
    for name, value in credentials.items():
        if value:
            fields = {**fields, name: value}
            fields.pop(f"{name}_file", None)
    try:
        return InlineRedisSettings.model_validate(fields)
    except ValidationError as error:
        raise InvalidSettings("; ".join(format_errors(error, lambda path: env_name("redis", *path)))) from None


def _target_from_options(options: Options, environ: Mapping[str, str]) -> Target:
    values = {name: options.get(name) or environ.get(variable) for name, variable in _POD_ENV_NAMES.items()}
    redis = _redis_fields_from_env(environ)
    required = {"--redis-url": options["redis_url"] or redis, "--stream": values["stream"], "--group": values["group"]}
    if missing := [option for option, value in required.items() if not value]:
        raise InvalidSettings(
            f"missing {', '.join(missing)}; pass each missing option, or the name of a StreamConsumer"
        )
    stream, group = str(values["stream"]), str(values["group"])
    dead_letters = values["dead_letter_stream"] or group_key(stream, group, "dead-letters")
    return Target(redis_settings(redis, options, environ), stream, group, dead_letters)


def _redis_fields_from_env(environ: Mapping[str, str]) -> RedisFields:
    redis: RedisFields = {
        name: environ[variable]
        for name in RedisSettings.model_fields
        if (variable := env_name("redis", name)) in environ
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
        raise InvalidSettings(f"{file}: cannot read the password: {error}") from None
