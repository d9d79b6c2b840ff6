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
from streamconsumer.model.env_codec import variable
from streamconsumer.model.fields import sentences
from streamconsumer.model.processor_settings import RedisAccess
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.redis_client.keys import companion

try:
    from streamconsumer.cli.redis_errors import told_as_ours
    from streamconsumer.processor.consumer import StreamManager, without_credentials
except ImportError as error:
    raise InvalidSettings(f"{error}; install streamconsumer[processor]") from None

FROM_OUTSIDE = "if only pods reach the server, forward a port and give --redis-url, or run the command in a pod"

_OF_A_POD = {
    "stream": variable("stream"),
    "group": variable("consumer_group"),
    "dead_letter_stream": variable("delivery", "dead_letter_stream"),
}

Options = Mapping[str, Any]
Redis = dict[str, Any]
"""Fields of RedisAccess, by name."""


@dataclass(frozen=True)
class Target:
    """One consumer group on one server."""

    redis: RedisAccess = field(repr=False)
    stream: str
    group: str
    dead_letters: str
    """The key of the dead letters."""
    consumer: StreamConsumer | None = None
    """The StreamConsumer in the cluster; None if the target comes from elsewhere."""

    @property
    def server(self) -> str:
        if self.redis.sentinel_master:
            return f"the primary {self.redis.sentinel_master!r} of {','.join(self.redis.sentinel_nodes)}"
        return without_credentials(self.redis.url) if self.redis.url else str(self.redis.url_file)


@asynccontextmanager
async def located(options: Options, environ: Mapping[str, str]) -> AsyncIterator[Target]:
    """Find the target. Certificates from Secrets exist as files until the end. Raises click.UsageError, InvalidSettings
    and ServerUnavailable."""
    if not options["name"]:
        if options["namespace"] or options["context"]:
            raise click.UsageError("-n and --context need the name of a StreamConsumer")
        yield _of_options(options, environ)
        return
    if given := [f"--{each}" for each in ("stream", "group") if options[each]]:
        raise click.UsageError(f"{', '.join(given)}: the StreamConsumer already names them; give one of the two")
    from streamconsumer.cli.cluster_target import in_cluster

    async with in_cluster(options, environ) as found:
        yield found


@asynccontextmanager
async def connected(target: Target, about: str) -> AsyncIterator[StreamManager]:
    """Connect to the target's server. Raises ServerUnavailable, which names `about`, if the server does not answer or
    refuses a command."""
    manager = StreamManager.from_settings(target.redis, target.stream)
    try:
        with told_as_ours(f"{about} at {target.server}", FROM_OUTSIDE if target.consumer else ""):
            yield manager
    finally:
        await manager.aclose()


def access(redis: Redis, options: Options, environ: Mapping[str, str]) -> RedisAccess:
    """The settings of the connection. --redis-url replaces the server and its credentials."""
    if options["redis_url"]:
        redis = {"url": options["redis_url"]}
    given = {"username": options["username"], "password": _password(options["password_file"], environ)}
    for name, value in given.items():
        if value:
            redis = {**redis, name: value}
            redis.pop(f"{name}_file", None)
    try:
        return RedisAccess.model_validate(redis)
    except ValidationError as error:
        raise InvalidSettings("; ".join(sentences(error, lambda where: variable("redis", *where)))) from None


def _of_options(options: Options, environ: Mapping[str, str]) -> Target:
    known = {name: options.get(name) or environ.get(by) for name, by in _OF_A_POD.items()}
    redis = _of_a_pod(environ)
    needed = {"--redis-url": options["redis_url"] or redis, "--stream": known["stream"], "--group": known["group"]}
    if missing := [option for option, value in needed.items() if not value]:
        raise InvalidSettings(f"{', '.join(missing)}: missing; or give the name of a StreamConsumer")
    stream, group = str(known["stream"]), str(known["group"])
    dead_letters = known["dead_letter_stream"] or companion(stream, group, "dead-letters")
    return Target(access(redis, options, environ), stream, group, dead_letters)


def _of_a_pod(environ: Mapping[str, str]) -> Redis:
    redis: Redis = {
        name: environ[by] for name in RedisAccess.model_fields if (by := variable("redis", name)) in environ
    }
    if "sentinel_nodes" in redis:
        redis["sentinel_nodes"] = redis["sentinel_nodes"].split(",")
    return redis


def _password(file: Path | None, environ: Mapping[str, str]) -> str | None:
    if file is None:
        return environ.get(variable("redis", "password"))
    try:
        return file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{file}: the password cannot be read from it: {error}") from None
