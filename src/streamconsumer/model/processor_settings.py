"""What a processor pod is told: which entries to read, how, and with what patience.

`Processing` is what the resource and the pod say alike. A field here is, by itself, a property of the CRD, an
environment variable of the pod and a row of docs/reference.md: name, type, unit, bound, default and sentence stand
once. A default never changes within an API version: pods would restart on an operator upgrade.
"""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from streamconsumer.model import names
from streamconsumer.model.fields import DurationRange, Model, Pattern, cel_rules

_IDENTIFIER = "[A-Za-z_][A-Za-z0-9_]*"
HandlerPath = Annotated[
    str,
    Field(max_length=253),
    Pattern(rf"{_IDENTIFIER}(\.{_IDENTIFIER})*:{_IDENTIFIER}", "must name a function as package.module:function"),
]
ErrorName = Annotated[
    str,
    Field(max_length=253),
    Pattern(rf"{_IDENTIFIER}(\.{_IDENTIFIER})*", "must name an exception, such as ValueError or package.module.Error"),
]
StartFrom = Annotated[
    str,
    Field(max_length=41),
    Pattern(r"0|\$|[0-9]+(-[0-9]+)?", "must be 0 (the oldest entry), $ (only new entries) or the id of an entry"),
]

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
    """The wait before a failed message is tried again: doubled with each attempt, drawn at random below that (full
    jitter)."""

    min_delay: Annotated[timedelta, DurationRange("1ms", "1h")] = timedelta(seconds=1)
    """The bound of the first wait."""

    max_delay: Annotated[timedelta, DurationRange("1ms", "24h")] = timedelta(minutes=5)
    """The bound that the waits grow to."""

    @model_validator(mode="after")
    def _check_delays(self) -> Self:
        if self.min_delay > self.max_delay:
            raise ValueError(MIN_DELAY_ABOVE_MAX)
        return self


class Breaker(Model):
    """When whatever the handler depends on is away, a backlog must not use its attempts up against it: after so many
    failures in a row nothing new is begun, and one message at a time is tried until one succeeds. A failed trial
    counts as an attempt only after an hour without a success: one for each pause."""

    failures: int = Field(20, ge=0, le=100_000)
    """How many messages must fail in a row; 0 never pauses."""

    max_pause: Annotated[timedelta, DurationRange("10ms", "1h")] = timedelta(minutes=1)
    """Longest pause between two trials. The first pause lasts 1 s, and each failed trial doubles it."""


class Delivery(Model):
    """What becomes of entries that were delivered and not acknowledged."""

    min_idle: Annotated[timedelta, DurationRange("1s", "24h")] = timedelta(seconds=30)
    """How long an entry may show no sign of life before it is taken over although nobody knows that its consumer is
    dead: one of another program in the group, for instance. Our own dead pods are known within seconds, and messages
    that are being handled or wait are renewed and never count as idle, however long they take."""

    max_deliveries: int = Field(10, ge=1, le=1000)
    """How many times a message is begun at most. Then it goes to the dead letters, with what it failed of."""

    timeout: Annotated[timedelta, DurationRange("10ms", "24h")] | None = None
    """How long the handler may take with one message; then it is cancelled and the message has failed. Left out: as
    long as it takes. A plain function's thread cannot be ended: it goes on, its outcome does not count."""

    backoff: Backoff = Backoff()
    """The wait before a failed message is tried again."""

    terminal_errors: list[ErrorName] = Field([], max_length=64)
    """Exceptions that trying again will not mend, by their names such as `ValueError` or `shop.errors.Unknown`, with
    what inherits from them: such a message goes to the dead letters at once."""

    max_entry_bytes: int = Field(16_777_216, ge=1024, le=536_870_912)
    """The names and values of an entry may be so many bytes together; a larger one goes to the dead letters at once."""

    dead_letter_stream: str | None = Field(None, min_length=1, max_length=512)
    """The key of the stream of dead letters. Left out: `{stream}:consumerGroup:dead-letters`, braces included, which
    keep it in the stream's slot of a cluster."""

    dead_letter_max_length: int = Field(100_000, ge=1, le=100_000_000)
    """About how many dead letters are kept; the oldest go."""

    breaker: Breaker = Breaker()
    """When to stop burning attempts."""


class Retention(Model):
    """Which entries the processors trim from the stream. Left out: none. An entry that any group of the stream has not
    acknowledged is never trimmed."""

    max_age: Annotated[timedelta, DurationRange("1s", "8760h")] | None = None
    """Trim entries that are older than this and that every group has acknowledged."""

    acknowledged: bool = False
    """Trim entries as soon as every group has acknowledged them and all entries before them."""


BaggageKey = Annotated[
    str,
    Field(max_length=253),
    Pattern("[A-Za-z0-9._-]+", "must be a key of baggage: letters, digits, `.`, `_` and `-`"),
]


class TraceContextSettings(Model):
    """What becomes of the trace in which a message was made."""

    context: Literal["parent", "link", "ignore"] = "parent"
    """`parent`: handling it belongs to the producer's trace, and is sampled if that is. `link`: it has a trace and a
    sampling of its own, linked to the producer's; for streams that strangers write to, who could otherwise force the
    cost of sampling on you, or evade it. `ignore`: it has nothing to do with it. Batches always have their own."""

    context_field: str = Field("traceparent", min_length=1, max_length=253)
    """The field of the entries that holds the context, in the form of W3C traceparent."""

    baggage: list[BaggageKey] = Field([], max_length=64)
    """The keys of the field `baggage` that the handler's own calls may carry on. Others are dropped: whoever may write
    to the stream chooses them."""


class SharedSettings(Model):
    """What the resource and the pod say alike."""

    stream: str = Field(
        min_length=1,
        max_length=512,
        json_schema_extra=cel_rules(
            ("self == oldSelf", "stream is immutable: create another StreamConsumer for another stream")
        ),
    )
    """The key of the Redis stream to read. It is created, empty, where it does not exist."""

    consumer_group: str = Field(
        min_length=1,
        max_length=512,
        json_schema_extra=cel_rules(
            ("self == oldSelf", "consumerGroup is immutable: create another StreamConsumer for another group")
        ),
    )
    """The consumer group to read as. Every entry goes to one consumer of the group."""

    start_from: StartFrom = "0"
    """Where a group that does not exist yet begins: `0` is the oldest entry, `$` only entries added after the group
    was created, an entry id everything after that entry. An existing group goes on where it was."""

    batch_count: int = Field(10, ge=1, le=1000)
    """How many entries one read asks for at most."""

    poll_interval: Annotated[timedelta, DurationRange("100ms", "1m")] = timedelta(seconds=5)
    """How long a read waits in Redis for entries before it is asked again. A new entry ends the wait at once, and
    so does stopping: a long interval costs no latency."""

    concurrency: int = Field(1, ge=1, le=1000)
    """How many messages one pod handles at the same time. With 1, one after another in the order read."""

    ordering_key: str | None = Field(None, min_length=1, max_length=512)
    """A field of the entries, such as `customer`: within one pod, entries with the same value in it are handled one
    after another, in order, the next only once the one before is done with; others go on in parallel. Entries without
    the field have no order."""

    encoding: Literal["utf-8", "bytes"] = "utf-8"
    """What the handler receives as field names and values: text, or the bytes as they are."""

    delivery: Delivery = Delivery()
    """What becomes of entries that were delivered and not acknowledged."""

    retention: Retention = Retention()
    """Which entries are trimmed from the stream."""

    drain_timeout: Annotated[timedelta, DurationRange("1s", "1h")] = timedelta(seconds=25)
    """How long a pod that is asked to stop goes on with the messages it has begun. The pod's grace period is
    computed from it."""


SentinelNode = Annotated[
    str,
    Field(min_length=3, max_length=261),
    Pattern(r"[A-Za-z0-9._-]+:[0-9]{1,5}|\[[0-9A-Fa-f:.]+\]:[0-9]{1,5}", "must be a sentinel as host:port"),
]

ONE_URL_SOURCE = "give either STREAMCONSUMER_REDIS_URL or STREAMCONSUMER_REDIS_URL_FILE"
ONE_CREDENTIAL_SOURCE = "give a username or password either as it is or as a file, not both"
SENTINEL_OR_CLUSTER = "give STREAMCONSUMER_REDIS_SENTINEL_MASTER together with …_SENTINEL_NODES, and not with …_CLUSTER"
BOTH_TLS_FILES = "give STREAMCONSUMER_REDIS_TLS_CERT_FILE and …_TLS_KEY_FILE together"


class RedisSettings(Model):
    """How a pod reaches Redis. Credentials come from Secrets and are never printed.

    What stands in a file is read anew at each connect: a rotated Secret needs no restart.
    """

    url: (
        Annotated[str, Pattern(r"(redis|rediss|unix)://\S+", "must begin with redis://, rediss:// or unix://")] | None
    ) = Field(None, max_length=2048, repr=False)
    """The server; with its credentials where those do not come by themselves."""
    url_file: str | None = Field(None, min_length=1)
    """A file that holds the URL."""
    username: str | None = None
    """The ACL user."""
    username_file: str | None = Field(None, min_length=1)
    """A file that holds the ACL user."""
    password: SecretStr | None = None
    """The password."""
    password_file: str | None = Field(None, min_length=1)
    """A file that holds the password."""
    tls_ca_file: str | None = Field(None, min_length=1)
    """The authorities that the server's certificate is verified against, as PEM. Left out: those of the system."""
    tls_cert_file: str | None = Field(None, min_length=1)
    """The certificate to show to a server that asks for one, as PEM."""
    tls_key_file: str | None = Field(None, min_length=1)
    """The key of that certificate."""
    tls_insecure_skip_verify: bool = False
    """Whether any certificate of a server is taken, for tests: whoever is in between can read everything."""
    sentinel_master: str | None = Field(None, min_length=1)
    """The name by which the sentinels know the primary."""
    sentinel_nodes: list[SentinelNode] = Field([], max_length=32)
    """The sentinels, as host:port."""
    sentinel_username: str | None = None
    """The ACL user for the sentinels."""
    sentinel_username_file: str | None = Field(None, min_length=1)
    """A file that holds it."""
    sentinel_password: SecretStr | None = None
    """The password for the sentinels."""
    sentinel_password_file: str | None = Field(None, min_length=1)
    """A file that holds it."""
    cluster: bool = False
    """Whether the server is a node of a Redis Cluster that may send us to another one."""

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


ONE_HANDLER = (
    "give either STREAMCONSUMER_HANDLER_PYTHON or STREAMCONSUMER_HANDLER_HTTP_URL; only the former with …_BATCH"
)


class HandlerSettings(Model):
    """What handles a message."""

    python: HandlerPath | None = None
    """`package.module:function`."""

    http_url: Annotated[str, Field(max_length=2048), Pattern(r"https?://\S+", "must begin with http://")] | None = None
    """Where messages are sent by POST, as CloudEvents."""

    batch: bool = False
    """Whether the function takes a list of messages' data instead of one."""

    @model_validator(mode="after")
    def _check_alternatives(self) -> Self:
        if (self.python is None) == (self.http_url is None) or (self.http_url and self.batch):
            raise ValueError(ONE_HANDLER)
        return self


class ProcessorSettings(SharedSettings):
    """Everything a pod reads from its environment at start."""

    redis: RedisSettings
    handler: HandlerSettings
    telemetry: TraceContextSettings = TraceContextSettings()

    consumer_name: str = Field(min_length=1)
    """The consumer's name in the group: the pod's name."""

    http_port: int = Field(names.HTTP_PORT, ge=0, le=65535)
    """Where /livez, /readyz and /metrics answer; 0 takes a free port."""

    http_host: str = "0.0.0.0"  # noqa: S104 - the kubelet probes the pod's own address
    """The address to answer on."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """What is logged: DEBUG, INFO, WARNING or ERROR and what is graver."""
    log_format: Literal["json", "text"] = "json"
    """`json` for machines, `text` for people."""
    termination_log: str = names.TERMINATION_LOG
    """Where the one line goes that says why the process could not begin."""
