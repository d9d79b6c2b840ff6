"""Settings of a processor pod: the entries to read, delivery, retention, Redis and the handler.

`SharedSettings` are the fields that the resource and the pod have in common. Each field defines a property of the CRD,
an environment variable of the pod and a row of docs/reference.md. Name, type, unit, bounds, default and description are
declared once. A default never changes within an API version, because the change would restart pods when the operator
is upgraded.
"""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from streamconsumer.model import names
from streamconsumer.model.fields import DurationRange, Immutable, Model, Pattern, cel_rules
from streamconsumer.model.name_fields import RedisName, SentinelMaster, SentinelNode

_IDENTIFIER = "[A-Za-z_][A-Za-z0-9_]*"
HandlerPath = Annotated[
    str,
    Field(max_length=253),
    Pattern(
        rf"{_IDENTIFIER}(\.{_IDENTIFIER})*:{_IDENTIFIER}",
        "must name a function as package.module:function",
        "shop.orders:handle",
    ),
]
ErrorName = Annotated[
    str,
    Field(max_length=253),
    Pattern(rf"{_IDENTIFIER}(\.{_IDENTIFIER})*", "must name an exception, such as ValueError or package.module.Error"),
]
StartFrom = Annotated[
    str,
    Field(max_length=41),
    Pattern(
        r"0|\$|[0-9]+(-[0-9]+)?",
        "must be 0 (the oldest entry), $ (only new entries) or the ID of an entry",
        "1526919030474-0",
    ),
]

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
BatchCount = Annotated[int, Field(ge=1, le=1000)]
Concurrency = Annotated[int, Field(ge=1, le=1000)]

MIN_DELAY_ABOVE_MAX = "minDelay must not be longer than maxDelay"


class Backoff(
    Model,
    json_schema_extra=cel_rules(
        (
            "!has(self.minDelay) || !has(self.maxDelay) || duration(self.minDelay) <= duration(self.maxDelay)",
            MIN_DELAY_ABOVE_MAX,
        )
    ),
):
    """Backoff between the attempts of a failed message, with full jitter."""

    min_delay: Annotated[timedelta, DurationRange("1ms", "1h")] = timedelta(seconds=1)
    """Upper limit of the wait after the first failed attempt. Each further failed attempt doubles this limit, up to
    `maxDelay`."""

    max_delay: Annotated[timedelta, DurationRange("1ms", "24h")] = timedelta(minutes=5)
    """Maximum wait between two attempts. The limit that starts at `minDelay` and doubles never exceeds this value."""

    @model_validator(mode="after")
    def _check_delays(self) -> Self:
        if self.min_delay > self.max_delay:
            raise ValueError(MIN_DELAY_ABOVE_MAX)
        return self


class Breaker(Model):
    """Circuit breaker around the handler. While a dependency of the handler is down, the circuit breaker prevents
    messages from using up their attempts."""

    failures: int = Field(default=20, ge=0, le=100_000)
    """Number of consecutive failures that open the circuit breaker. If 0, the circuit breaker never opens."""

    max_pause: Annotated[timedelta, DurationRange("10ms", "1h")] = timedelta(minutes=1)
    """Maximum time that the circuit breaker stays open before one message starts as a trial. The first pause is 1 s.
    Each failed trial doubles the pause."""


class Delivery(Model):
    """Settings for retries, claims and dead letters of entries that were delivered but not acknowledged."""

    min_idle: Annotated[timedelta, DurationRange("1s", "24h")] = timedelta(seconds=30)
    """Idle time after which a pod claims a pending entry of a consumer that may still be alive, such as a consumer of
    another program. Entries of dead pods of this StreamConsumer are claimed within seconds. While an entry is being
    handled or is waiting for a retry, a pod regularly resets the idle time of the entry to prevent a claim."""

    max_deliveries: int = Field(default=10, ge=1, le=1000)
    """Maximum number of attempts per message. If the last attempt fails, the message becomes a dead letter, which
    contains the error."""

    timeout: Annotated[timedelta, DurationRange("10ms", "24h")] | None = None
    """Time limit for the handler in each attempt. When the limit expires, the handler is cancelled and the attempt
    counts as failed. A plain function runs in a thread, which cannot be cancelled. After the limit, the thread of a
    plain function continues, but the result is ignored. If unset, a Python handler has no limit, and a request to an
    HTTP handler has a limit of 60 s."""

    backoff: Backoff = Backoff()
    """Backoff between the attempts of a failed message. Each wait has a random length between 0 and a limit. The limit
    doubles with each attempt."""

    terminal_errors: list[ErrorName] = Field(default=[], max_length=64)
    """Names of exceptions after which a retry cannot succeed, such as `ValueError` or `shop.errors.Unknown`. Subclasses
    of these exceptions are included. A message that fails with one of these exceptions becomes a dead letter
    immediately."""

    max_entry_bytes: int = Field(default=16_777_216, ge=1024, le=536_870_912)
    """Maximum size of an entry in bytes: the sum of all field names and values. A larger entry becomes a dead letter
    immediately."""

    dead_letter_stream: RedisName | None = None
    """Redis key of the dead-letter stream. If unset, the key is `{stream}:consumerGroup:dead-letters`, where
    `stream` and `consumerGroup` stand for the names of the stream and the consumer group. The braces are part of the
    key, so the dead-letter stream and the stream share a hash slot in a Redis Cluster."""

    dead_letter_max_length: int = Field(default=100_000, ge=1, le=100_000_000)
    """Approximate maximum number of entries in the dead-letter stream. If this number is exceeded, the oldest
    dead letters are trimmed."""

    breaker: Breaker = Breaker()
    """Circuit breaker around the handler. After `failures` consecutive failures, the pod pauses and then starts a
    single message as a trial. Pauses and trials alternate until a trial succeeds. A failed trial counts as an attempt
    only after the circuit breaker has been open for an hour."""


class Retention(Model):
    """Rules for trimming the stream."""

    max_age: Annotated[timedelta, DurationRange("1s", "8760h")] | None = None
    """Age after which an entry is trimmed if every group of the stream has acknowledged it. If unset, entries are not
    trimmed by age."""

    acknowledged: bool = False
    """If true, an entry is trimmed as soon as every group has acknowledged the entry and all earlier entries."""


BaggageKey = Annotated[
    str,
    Field(max_length=253),
    Pattern("[A-Za-z0-9._-]+", "must be a baggage key: letters, digits, `.`, `_` and `-`", "tenant"),
]


class TraceContextSettings(Model):
    """Handling of the trace context that a producer adds to an entry."""

    context: Literal["parent", "link", "ignore"] = "parent"
    """Relation between the spans of an attempt and the trace of the producer. `parent`: the spans belong to the
    producer's trace and follow its sampling decision. `link`: the spans have their own trace and sampling decision, and
    contain a link to the producer's span. `ignore`: the trace context is not used. The spans of a batch always
    have their own trace. Use `link` if untrusted programs write to the stream, because with `parent` these programs
    decide which messages are sampled."""

    context_field: RedisName = "traceparent"
    """Name of the entry field that contains the trace context, in W3C `traceparent` format."""

    baggage: list[BaggageKey] = Field(default=[], max_length=64)
    """Baggage keys that the pod passes on from the entry field `baggage` to the requests that the handler sends. All
    other keys are dropped, because any program that writes to the stream can add keys."""


class SharedSettings(Model):
    """Fields that the resource and the pod have in common."""

    stream: Annotated[RedisName, Immutable("stream is immutable: create another StreamConsumer for another stream")]
    """Redis key of the stream. If the key does not exist, a pod creates an empty stream."""

    consumer_group: Annotated[
        RedisName, Immutable("consumerGroup is immutable: create another StreamConsumer for another group")
    ]
    """Name of the consumer group. Each entry is delivered to one consumer of the group."""

    start_from: StartFrom = "0"
    """Start position of a new consumer group. `0` starts at the oldest entry, and `$` skips all entries that exist when
    the first pod starts. If the value is an entry ID, the group starts with the next entry after this ID. An existing
    consumer group keeps its position."""

    batch_count: BatchCount = 10
    """Maximum number of entries that one read returns (`COUNT`)."""

    poll_interval: Annotated[timedelta, DurationRange("100ms", "1m")] = timedelta(seconds=5)
    """Maximum duration of a blocking read if the previous read returned entries. Values above 5s have the same effect
    as 5s. While no entries are received, the duration doubles up to 1m. A new entry or a shutdown ends a blocking read
    immediately, so a long duration adds no latency. If the server ignores the option `BLOCK`, `pollInterval` is the
    pause between two reads."""

    concurrency: Concurrency = 1
    """Maximum number of messages that one pod handles at the same time. If 1, messages are handled one by one, in the
    order in which the pod reads them."""

    ordering_key: RedisName | None = None
    """Name of an entry field, such as `customer`, whose value determines which messages must be handled in order.
    Within one pod, messages with the same value of this field are handled one by one, in the order of the stream. Each
    message waits until the previous message with the same value has been acknowledged or has become a dead letter.
    Messages with different values are handled in parallel. Messages without this field are handled in any order."""

    encoding: Literal["utf-8", "bytes"] = "utf-8"
    """Type of the field names and values that the handler receives: `utf-8` for text, `bytes` for unchanged bytes."""

    delivery: Delivery = Delivery()
    """Settings for retries, claims and dead letters of entries that were delivered but not acknowledged."""

    retention: Retention = Retention()
    """Rules for trimming the stream. By default, no entries are trimmed. An entry is trimmed only after every consumer
    group of the stream has acknowledged the entry."""

    drain_timeout: Annotated[timedelta, DurationRange("1s", "1h")] = timedelta(seconds=25)
    """Time for a stopping pod to finish the messages that its handler is processing. The termination grace period of
    the pod is derived from `drainTimeout`."""

    log_level: LogLevel = "INFO"
    """Lowest level of the log lines that a pod writes: `DEBUG`, `INFO`, `WARNING` or `ERROR`. A new level replaces the
    pods."""


ONE_URL_SOURCE = "set either STREAMCONSUMER_REDIS_URL or STREAMCONSUMER_REDIS_URL_FILE"
ONE_CREDENTIAL_SOURCE = "set each username and each password either directly or as a file, not both"
SENTINEL_OR_CLUSTER = (
    "set both STREAMCONSUMER_REDIS_SENTINEL_MASTER and …_SENTINEL_NODES, or neither; do not combine them with …_CLUSTER"
)
BOTH_TLS_FILES = "set both STREAMCONSUMER_REDIS_TLS_CERT_FILE and …_TLS_KEY_FILE, or neither"


class RedisSettings(Model):
    """Address, credentials and TLS settings of Redis. Credentials come from Secrets and are never printed.

    Files are read again each time the client connects, so that a rotated Secret needs no restart.
    """

    url: (
        Annotated[str, Pattern(r"(redis|rediss|unix)://\S*", "must begin with redis://, rediss:// or unix://")] | None
    ) = Field(default=None, max_length=2048, repr=False)
    """URL of the server. The URL can contain the credentials, which can also be set separately."""
    url_file: str | None = Field(default=None, min_length=1)
    """File that contains the URL."""
    username: str | None = None
    """Name of the ACL user."""
    username_file: str | None = Field(default=None, min_length=1)
    """File that contains the name of the ACL user."""
    password: SecretStr | None = None
    """Password for the server."""
    password_file: str | None = Field(default=None, min_length=1)
    """File that contains the password."""
    tls_ca_file: str | None = Field(default=None, min_length=1)
    """PEM file with the CA certificates for the verification of the server certificate. If unset, the CA certificates
    of the system are used."""
    tls_cert_file: str | None = Field(default=None, min_length=1)
    """PEM file with the client certificate, for servers that require client certificates."""
    tls_key_file: str | None = Field(default=None, min_length=1)
    """PEM file with the private key of the client certificate."""
    tls_insecure_skip_verify: bool = False
    """If true, the server certificate is not verified. Use this only for tests, because the connection can be
    intercepted."""
    sentinel_master: SentinelMaster | None = None
    """Name of the primary in the Sentinel configuration."""
    sentinel_nodes: list[SentinelNode] = Field(default=[], max_length=32)
    """Addresses of the sentinels, as host:port."""
    sentinel_username: str | None = None
    """Name of the ACL user for the sentinels."""
    sentinel_username_file: str | None = Field(default=None, min_length=1)
    """File that contains the name of the ACL user for the sentinels."""
    sentinel_password: SecretStr | None = None
    """Password for the sentinels."""
    sentinel_password_file: str | None = Field(default=None, min_length=1)
    """File that contains the password for the sentinels."""
    cluster: bool = False
    """If true, the server is a node of a Redis Cluster and may redirect the client to another node."""

    @model_validator(mode="after")
    def _check_alternatives(self) -> Self:
        if (self.url is None) == (self.url_file is None):
            raise ValueError(ONE_URL_SOURCE)
        pairs = [
            (self.username, self.username_file),
            (self.password, self.password_file),
            (self.sentinel_username, self.sentinel_username_file),
            (self.sentinel_password, self.sentinel_password_file),
        ]
        if any(value is not None and file is not None for value, file in pairs):
            raise ValueError(ONE_CREDENTIAL_SOURCE)
        if (self.sentinel_master is None) == bool(self.sentinel_nodes) or (self.cluster and self.sentinel_nodes):
            raise ValueError(SENTINEL_OR_CLUSTER)
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError(BOTH_TLS_FILES)
        return self


class InlineRedisSettings(RedisSettings):
    """Redis settings with certificates as text, for the operator and the CLI, which read Secrets through the Kubernetes
    API. The operator and the CLI never open a file whose path is in a Secret or a StreamConsumer."""

    tls_ca: str | None = Field(default=None, repr=False)
    """CA certificates as PEM text."""
    tls_cert: str | None = Field(default=None, repr=False)
    """Client certificate as PEM text."""
    tls_key: SecretStr | None = None
    """Private key of the client certificate as PEM text."""


ONE_HANDLER = "set either STREAMCONSUMER_HANDLER_PYTHON or STREAMCONSUMER_HANDLER_HTTP_URL; …_BATCH requires …_PYTHON"


class HandlerSettings(Model):
    """Handler of the messages: a Python function or an HTTP endpoint."""

    python: HandlerPath | None = None
    """Handler function as `package.module:function`."""

    http_url: (
        Annotated[str, Field(max_length=2048), Pattern(r"https?://\S+", "must begin with http:// or https://")] | None
    ) = None
    """URL that receives each message as a CloudEvent in an HTTP POST request."""

    batch: bool = False
    """If true, each call of the handler function receives a list with the data of several messages. If false, each call
    of the handler function receives the data of one message."""

    @model_validator(mode="after")
    def _check_alternatives(self) -> Self:
        if (self.python is None) == (self.http_url is None) or (self.http_url and self.batch):
            raise ValueError(ONE_HANDLER)
        return self


class ProcessorSettings(SharedSettings):
    """All settings that a pod reads from its environment variables at startup."""

    redis: RedisSettings
    handler: HandlerSettings
    telemetry: TraceContextSettings = TraceContextSettings()

    consumer_name: RedisName
    """Name of this consumer in the consumer group. In Kubernetes, the name of the pod."""

    http_port: int = Field(default=names.HTTP_PORT, ge=0, le=65535)
    """Port for /livez, /readyz and /metrics. If 0, a free port is selected."""

    http_host: str = names.ANY_HOST
    """Address on which the HTTP server listens. With `::`, the server accepts connections over IPv6 and IPv4, or over
    IPv4 only if the system does not support IPv6."""
    log_format: Literal["json", "text"] = "json"
    """Format of log lines: `json` for log collectors, `text` for terminals."""
    termination_log: str = names.TERMINATION_LOG
    """If a process cannot start, it writes the reason to this file."""
