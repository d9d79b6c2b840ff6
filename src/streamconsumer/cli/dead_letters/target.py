"""Where to look: from the options; else from the manifest; where there is none, from a pod's own environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamconsumer.cli.dev.environment import Secrets
from streamconsumer.cli.dev.workload import secrets_of
from streamconsumer.cli.documents import read
from streamconsumer.errors import InvalidResource, InvalidSettings
from streamconsumer.model import names
from streamconsumer.model.environment import variable
from streamconsumer.model.spec import SecretKeyRef, StreamConsumer
from streamconsumer.processor.stream import without_credentials
from streamconsumer.processor.stream.keys import companion

_OF_A_POD = {
    "redis_url": variable("redis", "url"),
    "username": variable("redis", "username"),
    "password": variable("redis", "password"),
    "stream": variable("stream"),
    "group": variable("consumer_group"),
    "dead_letter_stream": variable("delivery", "dead_letter_stream"),
}
_NEEDED = {"redis_url": "--redis-url", "stream": "--stream", "group": "--group"}


@dataclass(frozen=True)
class Target:
    """One group's dead letters on one server."""

    url: str = field(repr=False)
    stream: str
    group: str
    key: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def server(self) -> str:
        return without_credentials(self.url)

    @property
    def where(self) -> str:
        return f"dead letters {self.key!r} at {self.server}"


def target(options: Mapping[str, Any], environ: Mapping[str, str]) -> Target:
    """Raises InvalidSettings where it cannot be told."""
    environment = {name: environ[by] for name, by in _OF_A_POD.items() if by in environ}
    if options["file"] is None:
        known: dict[str, str] = environment
    else:
        password = {name: environment[name] for name in ("password",) if name in environment}
        known = {**_of_manifest(options["file"], options["name"], options), **password}
    known |= {name: options[name] for name in _OF_A_POD if options.get(name)}
    if options["password_file"]:
        known["password"] = _password(options["password_file"])
    if missing := [option for name, option in _NEEDED.items() if name not in known]:
        raise InvalidSettings(f"{', '.join(missing)}: missing; or name a StreamConsumer's manifest with -f FILE")
    stream, group = known["stream"], known["group"]
    return Target(
        url=known["redis_url"],
        stream=stream,
        group=group,
        key=known.get("dead_letter_stream") or companion(stream, group, "dead-letters"),
        username=known.get("username"),
        password=known.get("password"),
    )


def _of_manifest(file: Path, name: str | None, options: Mapping[str, Any]) -> dict[str, str]:
    documents = read([file])
    consumer = _consumer([each for each in documents if each.get("kind") == names.KIND], file, name)
    spec = consumer.spec
    known = {"stream": spec.stream, "group": spec.consumer_group}
    if spec.delivery.dead_letter_stream:
        known["dead_letter_stream"] = spec.delivery.dead_letter_stream
    if options["redis_url"]:  # another way to the same server, with credentials of its own
        return known
    if spec.redis.url:
        known["redis_url"] = spec.redis.url
    references: dict[str, SecretKeyRef | None] = {
        "redis_url": spec.redis.url_secret_ref,
        "username": spec.redis.username_secret_ref,
        "password": spec.redis.password_secret_ref,
    }
    secrets = secrets_of(documents)
    return known | {
        part: text
        for part, reference in references.items()
        if reference and (text := _from_secret(secrets, consumer.namespace, reference)) is not None
    }


def _consumer(documents: list[dict[str, Any]], file: Path, name: str | None) -> StreamConsumer:
    named = [each for each in documents if name is None or (each.get("metadata") or {}).get("name") == name]
    if len(named) == 1:
        try:
            return StreamConsumer.parse(named[0])
        except InvalidResource as error:
            raise InvalidSettings(f"{file}: {error}") from None
    there = ", ".join(str((each.get("metadata") or {}).get("name")) for each in documents)
    if not documents:
        raise InvalidSettings(f"{file}: no {names.API_VERSION} {names.KIND} in it")
    raise InvalidSettings(f"{file}: holds the StreamConsumers {there}; choose one of them with --name")


def _from_secret(secrets: Secrets, namespace: str, reference: SecretKeyRef) -> str | None:
    """None: the Secret is not in the file."""
    return secrets.values.get((namespace, reference.name, reference.key))


def _password(file: Path) -> str:
    try:
        return file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{file}: the password cannot be read from it: {error}") from None
