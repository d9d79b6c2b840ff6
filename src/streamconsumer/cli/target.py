"""Where to look: from the options; else from the manifest; where there is none, from a pod's own environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from streamconsumer.cli.dev.environment import Objects
from streamconsumer.cli.dev.workload import objects_of
from streamconsumer.cli.documents import read
from streamconsumer.errors import InvalidResource, InvalidSettings
from streamconsumer.model import names, spec
from streamconsumer.model.environment import variable
from streamconsumer.model.fields import sentences
from streamconsumer.model.settings import RedisAccess
from streamconsumer.model.spec import SecretKeyRef, StreamConsumer
from streamconsumer.processor.stream import without_credentials
from streamconsumer.server.keys import companion

_OF_A_POD = {
    "stream": variable("stream"),
    "group": variable("consumer_group"),
    "dead_letter_stream": variable("delivery", "dead_letter_stream"),
}
_NEEDED = {"redis_url": "--redis-url", "stream": "--stream", "group": "--group"}
_OF_A_URL = ("url", "url_file", "sentinel_master", "sentinel_nodes", "cluster")
"""What another URL takes the place of."""

Redis = dict[str, Any]
"""Fields of RedisAccess, by name."""


@dataclass(frozen=True)
class Target:
    """One group's dead letters on one server."""

    redis: RedisAccess = field(repr=False)
    stream: str
    group: str
    key: str
    advice: str = ""
    """What to do where the server is not to be reached from here."""
    consumer: StreamConsumer | None = None
    """The StreamConsumer in the cluster; None if the target comes from elsewhere."""

    @property
    def server(self) -> str:
        if self.redis.sentinel_master:
            return f"the primary {self.redis.sentinel_master!r} of {','.join(self.redis.sentinel_nodes)}"
        return without_credentials(self.redis.url) if self.redis.url else str(self.redis.url_file)

    @property
    def where(self) -> str:
        return f"dead letters {self.key!r} at {self.server}"


def target(options: Mapping[str, Any], environ: Mapping[str, str]) -> Target:
    """Raises InvalidSettings where it cannot be told."""
    known, redis = _of_a_pod(environ) if options["file"] is None else _of_manifest(options, environ)
    return _target(known, redis, options)


def of_consumer(
    consumer: StreamConsumer, redis: Redis, options: Mapping[str, Any], environ: Mapping[str, str]
) -> Target:
    """The same for one that is stored in a cluster, with the way to its server."""
    return replace(_target(_known(consumer), _with_password(redis, environ), options), consumer=consumer)


def _target(known: dict[str, str], redis: Redis, options: Mapping[str, Any]) -> Target:
    known |= {name: options[name] for name in _OF_A_POD if options.get(name)}
    redis = _of_options(redis, options)
    said = {**known, **({"redis_url": ""} if redis.keys() & {"url", "url_file"} else {})}
    if missing := [option for name, option in _NEEDED.items() if name not in said]:
        raise InvalidSettings(
            f"{', '.join(missing)}: missing; or give a StreamConsumer's manifest with -f FILE, or its --name"
        )
    stream, group = known["stream"], known["group"]
    return Target(
        redis=_access(redis),
        stream=stream,
        group=group,
        key=known.get("dead_letter_stream") or companion(stream, group, "dead-letters"),
    )


def _of_a_pod(environ: Mapping[str, str]) -> tuple[dict[str, str], Redis]:
    redis: Redis = {
        name: environ[by] for name in RedisAccess.model_fields if (by := variable("redis", name)) in environ
    }
    if "sentinel_nodes" in redis:
        redis["sentinel_nodes"] = redis["sentinel_nodes"].split(",")
    return {name: environ[by] for name, by in _OF_A_POD.items() if by in environ}, redis


def _of_options(redis: Redis, options: Mapping[str, Any]) -> Redis:
    """What is said on the command line takes the place of what is said elsewhere, in whatever form."""
    if options["redis_url"]:
        redis = {**_without(redis, *_OF_A_URL), "url": options["redis_url"]}
    if options["username"]:
        redis = {**_without(redis, "username_file"), "username": options["username"]}
    if options["password_file"]:
        redis = {**_without(redis, "password_file"), "password": _password(options["password_file"])}
    return redis


def _without(redis: Redis, *names: str) -> Redis:
    return {name: value for name, value in redis.items() if name not in names}


def _access(redis: Redis) -> RedisAccess:
    try:
        return RedisAccess.model_validate(redis)
    except ValidationError as error:
        raise InvalidSettings("; ".join(sentences(error, lambda where: variable("redis", *where)))) from None


def _of_manifest(options: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, str], Redis]:
    file: Path = options["file"]
    documents = read([file])
    consumer = _consumer([each for each in documents if each.get("kind") == names.KIND], file, options["name"])
    # With another way to the same server come credentials of its own.
    redis = {} if options["redis_url"] else _of_spec(consumer.spec.redis, objects_of(documents), consumer.namespace)
    return _known(consumer), _with_password(redis, environ)


def _known(consumer: StreamConsumer) -> dict[str, str]:
    said = consumer.spec
    known = {"stream": said.stream, "group": said.consumer_group}
    if said.delivery.dead_letter_stream:
        known["dead_letter_stream"] = said.delivery.dead_letter_stream
    return known


def _with_password(redis: Redis, environ: Mapping[str, str]) -> Redis:
    """The password that stands in this shell's variables wins."""
    _, of_a_pod = _of_a_pod(environ)
    given: Redis = {name: of_a_pod[name] for name in ("password", "password_file") if name in of_a_pod}
    return {**(_without(redis, "password") if given else redis), **given}


def _of_spec(redis: spec.Redis, objects: Objects, namespace: str) -> Redis:
    sentinel, tls = redis.sentinel, redis.tls
    if tls and (tls.ca_secret_ref or tls.cert_secret_ref):
        raise InvalidSettings(
            "spec.redis.tls takes certificates from Secrets, which only pods have as files; run this in a pod of the "
            "StreamConsumer, or give --redis-url with ?ssl_ca_certs=FILE"
        )
    said: Redis = {
        "url": redis.url,
        "cluster": redis.cluster,
        "tls_insecure_skip_verify": bool(tls and tls.insecure_skip_verify),
        "sentinel_master": sentinel and sentinel.master_name,
        "sentinel_nodes": sentinel and sentinel.nodes,
    }
    references = {
        "url": redis.url_secret_ref,
        "username": redis.username_secret_ref,
        "password": redis.password_secret_ref,
        "sentinel_username": sentinel and sentinel.username_secret_ref,
        "sentinel_password": sentinel and sentinel.password_secret_ref,
    }
    told = {name: _from_secret(objects, namespace, reference) for name, reference in references.items() if reference}
    return {name: value for name, value in {**said, **told}.items() if value}


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


def _from_secret(objects: Objects, namespace: str, reference: SecretKeyRef) -> str | None:
    """None: the Secret is not in the file."""
    return objects.found.get(("Secret", namespace, reference.name), {}).get(reference.key)


def _password(file: Path) -> str:
    try:
        return file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{file}: the password cannot be read from it: {error}") from None
