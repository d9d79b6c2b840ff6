"""StreamConsumer resource: fields, validation rules and parser.

`SharedSettings` contains the fields that pods read. `StreamConsumerSpec` adds the fields that only the operator needs.
"""

import json
import re
from functools import cache
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from streamconsumer.errors import InvalidResource
from streamconsumer.model.autoscaling import Autoscaling
from streamconsumer.model.field_hints import field_path, quote_name, split_unknown, unknown_field_errors
from streamconsumer.model.fields import Model, Pattern, cel_rules, format_errors
from streamconsumer.model.manifest import (
    Manifest,
    file_metadata_errors,
    kind_error,
    metadata_errors,
    metadata_schema,
    object_name,
    size_error,
)
from streamconsumer.model.name_fields import (
    ImageName,
    ObjectKey,
    ObjectName,
    SentinelMaster,
    SentinelNode,
    ServiceName,
)
from streamconsumer.model.pod_settings import PodSettings
from streamconsumer.model.processor_settings import HandlerPath, SharedSettings, TraceContextSettings
from streamconsumer.model.redis_url import (
    MAX_URL_LENGTH,
    OPTIONS,
    PLAIN_URL_PATTERN,
    PLAIN_URL_RULE,
    InvalidRedisUrl,
    InvalidRedisUrlOption,
    parse_redis_url,
)
from streamconsumer.model.status import Status
from streamconsumer.model.structural_schema import Schema, structural_schema

MAX_NAME_LENGTH = 50
"""Maximum length of a StreamConsumer's name. Child objects have the same name with a suffix, and a label value can have
at most 63 characters."""

ONE_URL = "set exactly one of redis.url and redis.urlSecretRef"
ONE_TOPOLOGY = "set redis.sentinel or redis.cluster, not both"
TLS_NEEDS_REDISS = "redis.tls requires a redis.url that begins with rediss://"
CLUSTER_NEEDS_DATABASE_0 = (
    "a cluster has only database 0: set redis.url to redis://host:port/0, with the address of any node of the cluster"
)
ONE_HANDLER = "set exactly one kind of handler: handler.python, handler.source or handler.http"
HTTP_TAKES_NO_BATCH = "handler.http takes one message at a time: remove handler.batch"
HTTP_NEEDS_UTF8 = "handler.http sends text as JSON: set encoding to utf-8"
URL_NEEDS_HOST = "redis.url must contain a host, as in redis://redis:6379/0, unless redis.sentinel is set"
CREDENTIALS_IN_URL = (
    "redis.url must not contain credentials: use usernameSecretRef and passwordSecretRef, or urlSecretRef"
)
NAME_TOO_LONG = f"the name of a StreamConsumer must have at most {MAX_NAME_LENGTH} characters"

URL_MESSAGE = (
    f"must be redis://host:port/database, or rediss:// for TLS; allowed options after `?`: {', '.join(OPTIONS)}"
)

_REDIS_URL = Pattern(PLAIN_URL_PATTERN, URL_MESSAGE, "redis://redis:6379/0", cel=PLAIN_URL_RULE)


def _check_redis_url(url: str) -> str:
    """Parse the URL before pydantic checks its pattern, so that the error message names the unusable option."""
    try:
        parsed = parse_redis_url(url)
    except InvalidRedisUrlOption:
        raise
    except InvalidRedisUrl:
        raise ValueError(_REDIS_URL.error) from None
    if parsed.has_credentials:
        raise ValueError(CREDENTIALS_IN_URL)
    return url


RedisUrl = Annotated[
    str,
    Field(max_length=MAX_URL_LENGTH),
    AfterValidator(_check_redis_url),
    _REDIS_URL,
]
HttpPath = Annotated[
    str,
    Field(max_length=1024),
    Pattern(
        r"/[A-Za-z0-9._~!&*+,;=:@%/-]*", "must begin with / and must not contain a query, such as /orders", "/orders"
    ),
]
OtlpEndpoint = Annotated[
    str,
    Field(max_length=2048),
    Pattern(
        r"https?://[A-Za-z0-9._~!&*+,;:=?%/\[\]-]+",
        "must begin with http:// or https://, and must not contain credentials",
        "http://collector:4318",
    ),
]


class SecretKeyRef(Model):
    """Key of a Secret in the namespace of the StreamConsumer. The kubelet mounts the key into the pods. To
    monitor the stream, the operator reads the key as well, if the operator has permission."""

    name: ObjectName
    """Name of the Secret."""

    key: ObjectKey
    """Key in the Secret."""


class SecretRef(Model):
    """Secret of type kubernetes.io/tls in the namespace of the StreamConsumer."""

    name: ObjectName
    """Name of the Secret."""


class TlsSpec(Model):
    """TLS certificates for the connection to Redis."""

    ca_secret_ref: SecretKeyRef | None = None
    """CA certificates in PEM format for the verification of the server certificate. If unset, the CA certificates in
    the image are used."""

    cert_secret_ref: SecretRef | None = None
    """Secret of type kubernetes.io/tls with the client certificate in `tls.crt` and the private key in `tls.key`. Set
    this field if the server requires a client certificate."""

    insecure_skip_verify: bool = False
    """If true, the server certificate is not verified. Use this only for tests, because the connection can be
    intercepted and changed."""


class SentinelSpec(Model):
    """Sentinels that know the address of the primary."""

    master_name: SentinelMaster
    """Name of the primary in the Sentinel configuration."""

    nodes: list[SentinelNode] = Field(min_length=1, max_length=32)
    """Addresses of the sentinels, as host:port. On each connect, a client queries the sentinels one after
    another until one of them answers. The client starts with the sentinel that answered the previous query."""

    username_secret_ref: SecretKeyRef | None = None
    """Key of a Secret. The value is the name of the ACL user for the sentinels."""

    password_secret_ref: SecretKeyRef | None = None
    """Key of a Secret. The value is the password for the sentinels."""


_CEL_DATABASE_0 = "self.url.matches(r'^[^/?]+://[^/?]*(/0*/?)?([?].*)?$') && !self.url.matches(r'[?&]db=0*[1-9]')"


class RedisSpec(
    Model,
    json_schema_extra=cel_rules(
        ("has(self.url) != has(self.urlSecretRef)", ONE_URL),
        ("!has(self.url) || !(self.url.contains('@') || self.url.contains('password='))", CREDENTIALS_IN_URL),
        ("!(has(self.sentinel) && has(self.cluster) && self.cluster)", ONE_TOPOLOGY),
        ("!has(self.url) || has(self.sentinel) || !self.url.matches(r'^rediss?://([:/?]|$)')", URL_NEEDS_HOST),
        ("!has(self.tls) || !has(self.url) || self.url.startsWith('rediss://')", TLS_NEEDS_REDISS),
        (
            f"!has(self.url) || !has(self.cluster) || !self.cluster || {_CEL_DATABASE_0}",
            CLUSTER_NEEDS_DATABASE_0,
        ),
    ),
):
    """Redis or Valkey server of the stream."""

    url: RedisUrl | None = None
    """URL of the server, in the form `redis://host:port/database`, or `rediss://…` for TLS. If `sentinel` is set, the
    host and the port are ignored and can be omitted, as in `redis:///0`. The scheme of the URL also applies to
    connections to the sentinels. If `cluster` is true, the URL must contain database 0 and the address of one node."""

    url_secret_ref: SecretKeyRef | None = None
    """Key of a Secret. The value is the complete URL with credentials. Alternative to `url`."""

    username_secret_ref: SecretKeyRef | None = None
    """Key of a Secret. The value is the name of the ACL user."""

    password_secret_ref: SecretKeyRef | None = None
    """Key of a Secret. The value is the password for the server."""

    tls: TlsSpec | None = None
    """TLS certificates for a `rediss://` URL. If unset, the server certificate is verified with the CA certificates in
    the image."""

    sentinel: SentinelSpec | None = None
    """Sentinels that know the address of the primary. If unset, the server is at the address in `url`."""

    cluster: bool = False
    """If true, `url` is the address of a node in a Redis Cluster. The stream and the other Redis keys of the consumer
    group share one hash slot. The processor connects to the node that owns this hash slot."""

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        if (self.url is None) == (self.url_secret_ref is None):
            raise ValueError(ONE_URL)
        return self

    @model_validator(mode="after")
    def _check_topology(self) -> Self:
        if self.url and not self.sentinel and re.match(r"rediss?://([:/?]|$)", self.url):
            raise ValueError(URL_NEEDS_HOST)
        if self.sentinel and self.cluster:
            raise ValueError(ONE_TOPOLOGY)
        if self.tls and self.url and not self.url.startswith("rediss://"):
            raise ValueError(TLS_NEEDS_REDISS)
        if self.cluster and self.url and parse_redis_url(self.url).database != 0:
            raise ValueError(CLUSTER_NEEDS_DATABASE_0)
        return self


class HttpHandlerSpec(Model):
    """Service in the namespace of the StreamConsumer. A URL is not accepted, because a URL could name any host."""

    service: ServiceName
    """Name of the Service."""

    port: int = Field(default=80, ge=1, le=65535)
    """Port of the Service, as a number."""

    path: HttpPath = "/"
    """Path of the POST requests."""


class HandlerSpec(
    Model,
    json_schema_extra=cel_rules(
        (
            "[has(self.python), has(self.source), has(self.http)].filter(is_set, is_set).size() == 1",
            ONE_HANDLER,
        ),
        ("!has(self.http) || !self.batch", HTTP_TAKES_NO_BATCH),
    ),
):
    """Handler that is called with each message."""

    python: HandlerPath | None = None
    """Handler function in the image, as `package.module:function`. The function is either an `async def` function or a
    plain function, which runs in a thread. The function receives the data of a message."""

    source: str | None = Field(default=None, min_length=1, max_length=262_144)
    """Source code of a Python module that defines `handle`, for demos and small jobs. The module is mounted from a
    ConfigMap and can import only packages in the image. If the code changes, a rollout replaces the pods."""

    http: HttpHandlerSpec | None = None
    """Service in the same namespace that receives each message as a CloudEvent in an HTTP POST request. The status of
    the response determines the result. 2xx acknowledges the message. 4xx, except 408, 425 and 429, makes the message a
    dead letter. 429 or 503 with a Retry-After header postpones the message. All other responses are failures, and the
    message is retried."""

    batch: bool = False
    """If true, each call of the handler function receives a list with the data of up to `batchCount` messages. If
    false, each call of the handler function receives the data of one message."""

    @model_validator(mode="after")
    def _check_one_handler(self) -> Self:
        if [self.python, self.source, self.http].count(None) != 2:
            raise ValueError(ONE_HANDLER)
        if self.http and self.batch:
            raise ValueError(HTTP_TAKES_NO_BATCH)
        return self


class TelemetrySpec(TraceContextSettings):
    """Tracing: the OTLP endpoint, sampling and the trace context of producers."""

    endpoint: OtlpEndpoint | None = None
    """OTLP endpoint (HTTP, protobuf) of an OpenTelemetry Collector, such as `http://collector:4318`. If unset, the
    operator's default endpoint is used. If there is no default endpoint either, tracing is off and costs nothing."""

    sampling_ratio: float | None = Field(default=None, ge=0, le=1)
    """Share of the traces that are sampled, from 0 to 1. If unset, all traces are sampled. The share applies to traces
    that start in the processor. If the spans belong to the producer's trace, the producer's sampling decision
    applies."""


class StreamConsumerSpec(
    PodSettings,
    SharedSettings,
    json_schema_extra=cel_rules(
        ("!has(self.handler.http) || self.encoding == 'utf-8'", HTTP_NEEDS_UTF8),
    ),
):
    """Desired state: a handler that reads a Redis stream as a member of a consumer group."""

    redis: RedisSpec
    """Redis or Valkey server that holds the stream. Secrets must be in the namespace of the StreamConsumer. Each
    Redis client reads the Secrets again when it connects, so a rotated password or certificate needs no restart."""

    handler: HandlerSpec
    """Handler that is called with each message. Set exactly one of `python`, `source` and `http`."""

    image: ImageName | None = None
    """Container image that contains the handler. Build the image FROM streamconsumer-processor. If unset, the
    operator's default image for processors is used."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """Pull policy of the image. If unset, the operator's default applies. If the operator has no default
    either, Kubernetes derives the policy from the image tag."""

    replicas: int = Field(default=1, ge=0, le=1000)
    """Number of pods. To change the number, scale the StreamConsumer with `kubectl scale`, an HPA or KEDA. Do not scale
    the Deployment, because the operator sets its number of replicas to the value of this field."""

    autoscaling: Autoscaling | None = None
    """Scales the number of pods with the backlog. If set, `replicas` is ignored."""

    suspend: bool = False
    """If true, the pods drain and stop, and the group position is kept. When `suspend` is set back to false, the
    same number of pods starts again."""

    telemetry: TelemetrySpec = TelemetrySpec()
    """Tracing: the OTLP endpoint, sampling and the trace context of producers."""

    @model_validator(mode="after")
    def _check_http_encoding(self) -> Self:
        if self.handler.http and self.encoding != "utf-8":
            raise ValueError(HTTP_NEEDS_UTF8)
        return self


@cache
def document_schema() -> Schema:
    """Return the schema of a whole manifest, with examples for error messages."""
    return {
        "properties": {
            "apiVersion": {},
            "kind": {},
            "metadata": metadata_schema(),
            "spec": structural_schema(StreamConsumerSpec, with_examples=True),
            "status": structural_schema(Status),
        }
    }


class StreamConsumer(Model):
    """Parsed and validated StreamConsumer. Code that receives this object never reads the raw manifest."""

    name: str
    namespace: str
    uid: str
    generation: int
    spec: StreamConsumerSpec

    @classmethod
    def parse(cls, manifest: Manifest) -> Self:
        """Parse a manifest from the API server. Raises InvalidResource, which lists every error."""
        return cls._parse(manifest, {"spec": manifest.get("spec")})

    @classmethod
    def parse_document(cls, manifest: Manifest) -> Self:
        """Parse a document of a file. Raises InvalidResource if the API server would reject the manifest.

        The checks are stricter than in `parse`, because newer API servers can store fields that this version does not
        know."""
        return cls._parse(manifest, manifest)

    @classmethod
    def _parse(cls, manifest: Manifest, checked: Manifest) -> Self:
        """Parse a manifest. `checked` contains the sections whose unknown fields are errors."""
        metadata = manifest.get("metadata")
        name, namespace = object_name(metadata)
        if problem := kind_error(manifest):
            raise InvalidResource(f"{quote_name(name or 'document')}: {problem}")
        errors = [*metadata_errors(metadata), *([NAME_TOO_LONG] if len(name) > MAX_NAME_LENGTH else [])]
        schema = document_schema()
        if problem := size_error(manifest.get("spec")):
            errors.append(problem)
        else:
            sections, unknown = split_unknown(checked, schema)
            errors += unknown_field_errors(unknown, schema)
            if isinstance(sections.get("metadata"), dict):
                errors += file_metadata_errors(sections["metadata"], schema["properties"]["metadata"])
            spec_json = json.dumps(sections.get("spec", {}), default=str)
            try:
                spec = StreamConsumerSpec.model_validate_json(spec_json, strict=True)
            except ValidationError as error:
                errors += format_errors(error, lambda path: field_path(path, "spec"), schema["properties"]["spec"])
        if errors:
            raise InvalidResource(f"{quote_name(namespace)}/{quote_name(name)}: {'; '.join(errors)}")
        return cls(
            name=name,
            namespace=namespace,
            uid=str(manifest["metadata"].get("uid") or ""),
            generation=manifest["metadata"].get("generation") or 0,
            spec=spec,
        )
