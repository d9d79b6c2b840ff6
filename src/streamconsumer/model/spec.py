"""What a user writes: the StreamConsumer resource, its rules, and how it is parsed.

`StreamConsumerSpec` is `Processing` (which the pod says alike) and what only the cluster needs to know.
"""

import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from streamconsumer.errors import InvalidResource
from streamconsumer.model import names
from streamconsumer.model.autoscaling import Autoscaling
from streamconsumer.model.fields import Model, Pattern, cel_rules, format_errors, is_usable_redis_url
from streamconsumer.model.pod_settings import PodSettings
from streamconsumer.model.processor_settings import HandlerPath, SentinelNode, SharedSettings, TraceContextSettings

MAX_NAME_LENGTH = 50
"""The longest name of a StreamConsumer: children add a suffix, and labels end at 63 characters."""

ONE_URL = "give exactly one of redis.url and redis.urlSecretRef"
ONE_TOPOLOGY = "give redis.sentinel or redis.cluster, not both"
TLS_NEEDS_REDISS = "redis.tls needs a redis.url that begins with rediss://"
CLUSTER_NEEDS_DATABASE_0 = (
    "a cluster has only database 0: write redis.url as redis://host:port/0, with any of its nodes"
)
ONE_HANDLER = "give exactly one kind of handler: handler.python, handler.source or handler.http"
HTTP_TAKES_NO_BATCH = "handler.http takes one message at a time: leave handler.batch out"
HTTP_NEEDS_UTF8 = "handler.http sends text as JSON: leave encoding at utf-8"
CREDENTIALS_IN_URL = "keep credentials out of redis.url: use usernameSecretRef and passwordSecretRef, or urlSecretRef"
NAME_TOO_LONG = f"the name of a StreamConsumer must have at most {MAX_NAME_LENGTH} characters"

URL_MESSAGE = "must be redis://host:port/database, or rediss:// for TLS"


def _check_redis_url(url: str) -> str:
    if not is_usable_redis_url(url):
        raise ValueError(URL_MESSAGE)
    return url


RedisUrl = Annotated[
    str,
    Field(max_length=2048),
    Pattern(r"rediss?://\S+", URL_MESSAGE),
    AfterValidator(_check_redis_url),
]
ServiceName = Annotated[
    str,
    Field(min_length=1, max_length=63),
    Pattern("[a-z]([-a-z0-9]*[a-z0-9])?", "must be the name of a Service in the same namespace, without a dot"),
]
HttpPath = Annotated[
    str,
    Field(max_length=1024),
    Pattern(r"/[A-Za-z0-9._~!&*+,;=:@%/-]*", "must begin with / and hold no query, such as /orders"),
]
OtlpEndpoint = Annotated[
    str,
    Field(max_length=2048),
    Pattern(r"https?://[^@\s]+", "must begin with http:// or https://, and hold no credentials"),
]


class SecretKeyRef(Model):
    """A key of a Secret in the namespace of the StreamConsumer. The kubelet hands it to the pods; the
    operator reads it too, to look at the stream, unless it may not."""

    name: str = Field(min_length=1, max_length=253)
    """The Secret's name."""

    key: str = Field(min_length=1, max_length=253)
    """The key in the Secret."""


class SecretRef(Model):
    """A Secret in the namespace of the StreamConsumer, of type kubernetes.io/tls."""

    name: str = Field(min_length=1, max_length=253)
    """The Secret's name."""


class TlsSpec(Model):
    """Certificates. Without any of this, the server's is verified against the authorities of the image."""

    ca_secret_ref: SecretKeyRef | None = None
    """The authorities that the server's certificate must come from, as PEM. Others count no more."""

    cert_secret_ref: SecretRef | None = None
    """The certificate to show to a server that asks for one: `tls.crt` and `tls.key` of a Secret."""

    insecure_skip_verify: bool = False
    """Whether any certificate is taken, for tests: whoever is in between can read and change everything."""


class SentinelSpec(Model):
    """The sentinels that know where the primary is."""

    master_name: str = Field(min_length=1, max_length=253)
    """The name by which they know the primary."""

    nodes: list[SentinelNode] = Field(min_length=1, max_length=32)
    """The sentinels, as host:port. They are asked in turn until one answers, at each connect."""

    username_secret_ref: SecretKeyRef | None = None
    """The ACL user for the sentinels themselves from a Secret."""

    password_secret_ref: SecretKeyRef | None = None
    """The password for the sentinels themselves from a Secret."""


_DATABASE_0_PATTERN = r"[^/?]+://[^/?]*(/0?)?"


class RedisSpec(
    Model,
    json_schema_extra=cel_rules(
        ("has(self.url) != has(self.urlSecretRef)", ONE_URL),
        ("!has(self.url) || !(self.url.contains('@') || self.url.contains('password='))", CREDENTIALS_IN_URL),
        ("!(has(self.sentinel) && has(self.cluster) && self.cluster)", ONE_TOPOLOGY),
        ("!has(self.tls) || !has(self.url) || self.url.startsWith('rediss://')", TLS_NEEDS_REDISS),
        (
            f"!has(self.url) || !has(self.cluster) || !self.cluster || self.url.matches(r'^{_DATABASE_0_PATTERN}$')",
            CLUSTER_NEEDS_DATABASE_0,
        ),
    ),
):
    """The Redis or Valkey server that holds the stream. What comes from Secrets is read anew at each connect: a
    rotated password or certificate needs no restart."""

    url: RedisUrl | None = None
    """`redis://host:port/database`, or `rediss://` for TLS. With `sentinel`, only the scheme and the database count,
    as in `redis:///0`, for sentinels and servers alike. With `cluster`, any node of it, which is asked for the others;
    the database is 0."""

    url_secret_ref: SecretKeyRef | None = None
    """The whole URL, with its credentials, from a Secret."""

    username_secret_ref: SecretKeyRef | None = None
    """The ACL user's name from a Secret."""

    password_secret_ref: SecretKeyRef | None = None
    """The password from a Secret."""

    tls: TlsSpec | None = None
    """Certificates, for `rediss://`."""

    sentinel: SentinelSpec | None = None
    """The sentinels to ask where the primary is. Left out: it is where `url` says."""

    cluster: bool = False
    """Whether `url` is a node of a Redis Cluster. The stream and what belongs to it share one slot; the processor goes
    where the slot is."""

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        if (self.url is None) == (self.url_secret_ref is None):
            raise ValueError(ONE_URL)
        if self.url is not None and ("@" in self.url or "password=" in self.url):
            raise ValueError(CREDENTIALS_IN_URL)
        return self

    @model_validator(mode="after")
    def _check_topology(self) -> Self:
        if self.sentinel and self.cluster:
            raise ValueError(ONE_TOPOLOGY)
        if self.tls and self.url and not self.url.startswith("rediss://"):
            raise ValueError(TLS_NEEDS_REDISS)
        if self.cluster and self.url and not re.fullmatch(_DATABASE_0_PATTERN, self.url):
            raise ValueError(CLUSTER_NEEDS_DATABASE_0)
        return self


class HttpHandlerSpec(Model):
    """A Service in the namespace of the StreamConsumer, and in no other: there is no URL to lead elsewhere."""

    service: ServiceName
    """The Service's name."""

    port: int = Field(80, ge=1, le=65535)
    """Its port, as a number."""

    path: HttpPath = "/"
    """The path to POST to."""


class HandlerSpec(
    Model,
    json_schema_extra=cel_rules(
        (
            "[has(self.python), has(self.source), has(self.http)].filter(given, given).size() == 1",
            ONE_HANDLER,
        ),
        ("!has(self.http) || !self.batch", HTTP_TAKES_NO_BATCH),
    ),
):
    """What is called with each message."""

    python: HandlerPath | None = None
    """`package.module:function` in the image: `async def handle(data)` or a plain function, which runs in a thread."""

    source: str | None = Field(None, min_length=1, max_length=262_144)
    """The text of a Python module that defines `handle`, for demos and small jobs: mounted from a ConfigMap, with
    the packages of the image and no others. Editing it rolls the pods."""

    http: HttpHandlerSpec | None = None
    """A Service that is sent each message as a CloudEvent, by POST. 2xx acknowledges; 429 and 503 with Retry-After
    defer; 408, 425, 429 and what is not 4xx fail and are tried again; other 4xx go to the dead letters."""

    batch: bool = False
    """Whether the function takes a list of at most `batchCount` messages' data instead of one."""

    @model_validator(mode="after")
    def _check_one_handler(self) -> Self:
        if [self.python, self.source, self.http].count(None) != 2:
            raise ValueError(ONE_HANDLER)
        if self.http and self.batch:
            raise ValueError(HTTP_TAKES_NO_BATCH)
        return self


class TelemetrySpec(TraceContextSettings):
    """Where traces go, and which."""

    endpoint: OtlpEndpoint | None = None
    """The OTLP endpoint (HTTP, protobuf) of an OpenTelemetry Collector, such as `http://collector:4318`. Left out:
    the operator's default; without one, no tracing and no cost."""

    sampling_ratio: float | None = Field(None, ge=0, le=1)
    """Which part of the traces is kept that begin here, from 0 to 1. Left out: all. Where the producer's context is the
    parent, the producer has decided."""


class StreamConsumerSpec(
    PodSettings,
    SharedSettings,
    json_schema_extra=cel_rules(
        ("!has(self.handler.http) || self.encoding == 'utf-8'", HTTP_NEEDS_UTF8),
    ),
):
    """This handler reads that stream as a member of that consumer group."""

    redis: RedisSpec
    """The Redis or Valkey server that holds the stream."""

    handler: HandlerSpec
    """What is called with each message."""

    image: str | None = Field(None, min_length=1, max_length=1024)
    """An image built FROM streamconsumer-processor that holds the handler. Left out: the stock processor image."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the kubelet pulls the image. Left out: Kubernetes' own rule."""

    replicas: int = Field(1, ge=0, le=1000)
    """How many pods. Scale it by hand, by an HPA or by KEDA through the scale subresource of the StreamConsumer,
    not of the Deployment, which follows it."""

    autoscaling: Autoscaling | None = None
    """Let the backlog say how many pods there are. `replicas` then counts for nothing."""

    suspend: bool = False
    """Whether nothing is read for now: the pods drain and go, the group keeps its place. Back at false there are as
    many pods as before."""

    telemetry: TelemetrySpec = TelemetrySpec()
    """Where traces go, and which."""

    @model_validator(mode="after")
    def _check_http_encoding(self) -> Self:
        if self.handler.http and self.encoding != "utf-8":
            raise ValueError(HTTP_NEEDS_UTF8)
        return self


class StreamConsumer(Model):
    """A parsed, trusted StreamConsumer: below the edge nobody looks into dicts again."""

    name: str
    namespace: str
    uid: str
    generation: int
    spec: StreamConsumerSpec

    @classmethod
    def parse(cls, manifest: dict[str, Any]) -> Self:
        """A manifest as the API server or a file gives it. Raises InvalidResource with a sentence per problem."""
        metadata = manifest.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        name, namespace = str(metadata.get("name") or ""), str(metadata.get("namespace") or "default")
        _check_kind(manifest, name)
        problems = _name_errors(name)
        try:
            spec = StreamConsumerSpec.model_validate_json(_to_json(manifest.get("spec") or {}), strict=True)
        except ValidationError as error:
            problems += format_errors(error, lambda where: ".".join(["spec", *map(str, where)]))
        if problems:
            raise InvalidResource(f"{namespace}/{name}: {'; '.join(problems)}")
        return cls(
            name=name,
            namespace=namespace,
            uid=str(metadata.get("uid") or ""),
            generation=int(metadata.get("generation") or 0),
            spec=spec,
        )


def _name_errors(name: str) -> list[str]:
    if not name:
        return ["metadata.name is missing; it is required"]
    return [NAME_TOO_LONG] if len(name) > MAX_NAME_LENGTH else []


def _to_json(spec: Any) -> str:
    """As the API server takes a manifest: null is left out, a date that YAML found is text."""
    return json.dumps(_without_nulls(spec), default=str)


def _without_nulls(value: Any) -> Any:
    match value:
        case dict():
            return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
        case list():
            return [_without_nulls(inner) for inner in value]
    return value


def _check_kind(manifest: dict[str, Any], name: str) -> None:
    found = f"{manifest.get('apiVersion')} {manifest.get('kind')}"
    if found != f"{names.API_VERSION} {names.KIND}":
        raise InvalidResource(f"{name or 'document'}: is {found}; expected {names.API_VERSION} {names.KIND}")
