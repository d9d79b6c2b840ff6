"""Table of invalid and valid StreamConsumers, for pydantic in tests/model and for the API server in tests/operator.

Each invalid case has a name, a spec with one error, the field, and the message that both checks must show.
"""

from dataclasses import dataclass
from typing import Any

from streamconsumer.model.autoscaling import MIN_ABOVE_MAX, MULTIPLE_TARGETS
from streamconsumer.model.container_env import (
    ONE_KEY,
    ONE_SOURCE,
    ONE_VALUE,
    RESERVED_PREFIX_MESSAGE,
    RESERVED_VARIABLE_MESSAGE,
)
from streamconsumer.model.fields import DURATION_MESSAGE
from streamconsumer.model.name_fields import LABEL_KEY, LABEL_VALUE, OBJECT_NAME, REDIS_NAME
from streamconsumer.model.pod_settings import (
    EXISTS_TAKES_NO_VALUE,
    KEYLESS_NEEDS_EXISTS,
    RESERVED_ANNOTATION_MESSAGE,
    RESERVED_ANNOTATION_PREFIXES,
    RESERVED_LABEL_MESSAGE,
    RESERVED_LABEL_PREFIXES,
    ROLLOUT_BLOCKED,
    SECONDS_NEED_NO_EXECUTE,
    SERVICE_ACCOUNT_ANNOTATION_MESSAGE,
)
from streamconsumer.model.processor_settings import MIN_DELAY_ABOVE_MAX
from streamconsumer.model.spec import (
    CLUSTER_NEEDS_DATABASE_0,
    CREDENTIALS_IN_URL,
    HTTP_NEEDS_UTF8,
    HTTP_TAKES_NO_BATCH,
    NAME_TOO_LONG,
    ONE_HANDLER,
    ONE_TOPOLOGY,
    ONE_URL,
    TLS_NEEDS_REDISS,
    URL_MESSAGE,
    URL_NEEDS_HOST,
)
from tests.model.examples import Manifest, manifest

FUNCTION = "must name a function as package.module:function"
START = "must be 0 (the oldest entry), $ (only new entries) or the ID of an entry"
VARIABLE = "must contain only letters, digits and _, and must not begin with a digit"
ENDPOINT = "must begin with http:// or https://, and must not contain credentials"
BAGGAGE = "must be a baggage key: letters, digits, `.`, `_` and `-`"
EXCEPTION = "must name an exception, such as ValueError or package.module.Error"
SERVICE = "must be the name of a Service in the same namespace, without a dot"
PATH = "must begin with / and must not contain a query, such as /orders"
NODE = "must be the address of a sentinel, as host:port"
MASTER = "must be a name in the Sentinel configuration: letters, digits, `.`, `_` and `-`"
IMAGE = "must be the name of an image, such as registry.example/shop:1.4"
OBJECT_KEY = "must be a key of a Secret or ConfigMap: letters, digits, `-`, `_` and `.`, without `..` at the beginning"
CONTROL, OBJECT, LABEL = REDIS_NAME.message, OBJECT_NAME.message, LABEL_KEY.message

SECRET = {"name": "redis", "key": "url"}
SENTINEL = {"masterName": "primary", "nodes": ["sentinel-0.sentinel:26379", "10.0.0.7:26379", "[fd00::1]:26379"]}


@dataclass(frozen=True)
class Case:
    """Invalid StreamConsumer, its invalid field and, for a rule of the CRD, the message."""

    name: str
    invalid_manifest: Manifest
    field: str
    message: str = ""

    def __str__(self) -> str:
        return self.name


def _case(name: str, field: str, message: str = "", **spec: Any) -> Case:
    return Case(name, manifest(**spec), f"spec.{field}", message)


HTTP = {"http": {"service": "billing", "port": 8080, "path": "/orders"}}
KEY = {"name": "bank", "key": "token"}
PLAIN_URL = {"url": "redis://redis"}
TLS_URL = {"url": "rediss://redis"}

BANK_SECRET = {"name": "bank"}
ANY_TAINT = {"key": "shop", "operator": "Exists"}


def _env_var_from(**source: Any) -> Manifest:
    return {"name": "TOKEN", "valueFrom": source}


def _env_from_secret(prefix: str) -> Manifest:
    return {"secretRef": BANK_SECRET, "prefix": prefix}


def blocked_rollout(zero: int | str) -> Manifest:
    return {"maxUnavailable": zero, "maxSurge": zero}


RULES_WITH_MESSAGE = [
    _case("two URLs", "redis", ONE_URL, redis={"url": "redis://redis", "urlSecretRef": SECRET}),
    _case("no URL", "redis", ONE_URL, redis={}),
    _case("a password in the URL", "redis", CREDENTIALS_IN_URL, redis={"url": "redis://:hunter2@redis"}),
    _case("a password as an option", "redis", CREDENTIALS_IN_URL, redis={"url": "redis://redis?password=hunter2"}),
    _case("sentinels and a cluster", "redis", ONE_TOPOLOGY, redis={**PLAIN_URL, "sentinel": SENTINEL, "cluster": True}),
    _case("no host", "redis", URL_NEEDS_HOST, redis={"url": "redis://"}),
    _case("no host, but a port", "redis", URL_NEEDS_HOST, redis={"url": "rediss://:6379/0"}),
    _case("no host, but a database", "redis", URL_NEEDS_HOST, redis={"url": "redis:///0"}),
    _case("TLS without TLS", "redis", TLS_NEEDS_REDISS, redis={**PLAIN_URL, "tls": {"caSecretRef": SECRET}}),
    _case("TLS without TLS, empty", "redis", TLS_NEEDS_REDISS, redis={**PLAIN_URL, "tls": {}}),
    _case(
        "database 1 of a cluster", "redis", CLUSTER_NEEDS_DATABASE_0, redis={"url": "redis://r:1/1", "cluster": True}
    ),
    _case("a cluster's option", "redis", CLUSTER_NEEDS_DATABASE_0, redis={"url": "redis://r?db=1", "cluster": True}),
    _case(
        "a sentinel without a port",
        "redis.sentinel.nodes",
        NODE,
        redis={**PLAIN_URL, "sentinel": {"masterName": "primary", "nodes": ["sentinel"]}},
    ),
    _case("minReplicas above maxReplicas", "autoscaling", MIN_ABOVE_MAX, autoscaling={"minReplicas": 11}),
    _case("a cooldown that is too long", "autoscaling.cooldown", "must be 0s to 24h", autoscaling={"cooldown": "25h"}),
    _case(
        "a window that is too long",
        "autoscaling.scaleUp.stabilizationWindow",
        "must be 0s to 1h",
        autoscaling={"scaleUp": {"stabilizationWindow": "2h"}},
    ),
    _case(
        "two targets",
        "autoscaling.target",
        MULTIPLE_TARGETS,
        autoscaling={"target": {"backlogPerReplica": 100, "drainTime": "1m"}},
    ),
    _case("two handlers", "handler", ONE_HANDLER, handler={"python": "shop:handle", "source": "x = 1"}),
    _case("no handler", "handler", ONE_HANDLER, handler={}),
    _case("a Python and an HTTP handler", "handler", ONE_HANDLER, handler={"python": "shop:handle", **HTTP}),
    _case("batches over HTTP", "handler", HTTP_TAKES_NO_BATCH, handler={**HTTP, "batch": True}),
    Case("bytes over HTTP", manifest(handler=HTTP, encoding="bytes"), "spec", HTTP_NEEDS_UTF8),
    *(
        _case(f"the service {name!r}", "handler.http.service", SERVICE, handler={"http": {"service": name}})
        for name in ("billing.other", "billing.other.svc", "10.0.0.1", "Billing", "billing-", "user@billing")
    ),
    *(
        _case(f"the path {path!r}", "handler.http.path", PATH, handler={"http": {"service": "billing", "path": path}})
        for path in ("", "orders", "/a?b=c", "/a#b", "/a b", "@elsewhere/")
    ),
    _case(
        "a value from a Secret and a ConfigMap",
        "env",
        ONE_KEY,
        env=[_env_var_from(secretKeyRef=KEY, configMapKeyRef=KEY)],
    ),
    _case("a value without a source", "env", ONE_KEY, env=[_env_var_from()]),
    _case("a value and a valueFrom", "env", ONE_VALUE, env=[{**_env_var_from(secretKeyRef=KEY), "value": "x"}]),
    _case(
        "variables from a Secret and a ConfigMap",
        "envFrom",
        ONE_SOURCE,
        envFrom=[{"secretRef": BANK_SECRET, "configMapRef": BANK_SECRET}],
    ),
    _case("variables without a source", "envFrom", ONE_SOURCE, envFrom=[{"prefix": "BANK_"}]),
    _case("a reserved prefix", "envFrom", RESERVED_PREFIX_MESSAGE, envFrom=[_env_from_secret("STREAMCONSUMER_REDIS_")]),
    _case("a prefix with a hyphen", "envFrom", VARIABLE, envFrom=[_env_from_secret("BANK-")]),
    *(
        _case(f"a label of {prefix}", "podLabels", RESERVED_LABEL_MESSAGE, podLabels={f"{prefix}x": "y", "a": "b"})
        for prefix in RESERVED_LABEL_PREFIXES
    ),
    *(
        _case(
            f"the annotation {key} of the ServiceAccount",
            "serviceAccountAnnotations",
            SERVICE_ACCOUNT_ANNOTATION_MESSAGE,
            serviceAccountAnnotations={key: "x", "eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/orders"},
        )
        for key in (
            "kubernetes.io/enforce-mountable-secrets",
            "eks.amazonaws.com.example.com/role-arn",
            "example.com/eks.amazonaws.com",
            "secrets.infisical.com/auto-reload",
            "iam.gke.io",
            "app.kubernetes.io/name",
        )
    ),
    *(
        _case(
            f"an annotation of {prefix}",
            "podAnnotations",
            RESERVED_ANNOTATION_MESSAGE,
            podAnnotations={f"{prefix}x": "y"},
        )
        for prefix in RESERVED_ANNOTATION_PREFIXES
    ),
    _case(
        "operator Exists with a value", "tolerations", EXISTS_TAKES_NO_VALUE, tolerations=[{**ANY_TAINT, "value": "b"}]
    ),
    _case("a taint without a key", "tolerations", KEYLESS_NEEDS_EXISTS, tolerations=[{"effect": "NoSchedule"}]),
    _case(
        "tolerationSeconds without an effect",
        "tolerations",
        SECONDS_NEED_NO_EXECUTE,
        tolerations=[{**ANY_TAINT, "tolerationSeconds": 5}],
    ),
    *(
        _case(f"a blocked rollout: {zero!r}", "rollout", ROLLOUT_BLOCKED, rollout=blocked_rollout(zero))
        for zero in (0, "0", "0%")
    ),
    _case(
        "a progress deadline that is too short",
        "rollout.progressDeadline",
        "must be 10s to 24h",
        rollout={"progressDeadline": "9s"},
    ),
    _case(
        "a reserved variable", "env", RESERVED_VARIABLE_MESSAGE, env=[{"name": "STREAMCONSUMER_STREAM", "value": "x"}]
    ),
    _case("a poll interval that is too short", "pollInterval", "must be 100ms to 1m", pollInterval="99ms"),
    _case("a poll interval that is too long", "pollInterval", "must be 100ms to 1m", pollInterval="61s"),
    _case("an idle time that is too short", "delivery.minIdle", "must be 1s to 24h", delivery={"minIdle": "999ms"}),
    _case(
        "a handler timeout that is too short", "delivery.timeout", "must be 10ms to 24h", delivery={"timeout": "9ms"}
    ),
    _case(
        "an error name that is a number",
        "delivery.terminalErrors",
        EXCEPTION,
        delivery={"terminalErrors": ["ValueError", "1"]},
    ),
    _case(
        "minDelay above maxDelay",
        "delivery.backoff",
        MIN_DELAY_ABOVE_MAX,
        delivery={"backoff": {"minDelay": "2s", "maxDelay": "1s"}},
    ),
    _case(
        "minDelay above the default of maxDelay",
        "delivery.backoff",
        MIN_DELAY_ABOVE_MAX,
        delivery={"backoff": {"minDelay": "6m"}},
    ),
    _case(
        "a minDelay of zero",
        "delivery.backoff.minDelay",
        "must be 1ms to 1h",
        delivery={"backoff": {"minDelay": "0ms"}},
    ),
    _case(
        "a maxDelay that is too long",
        "delivery.backoff.maxDelay",
        "must be 1ms to 24h",
        delivery={"backoff": {"maxDelay": "25h"}},
    ),
    _case(
        "a pause that is too short",
        "delivery.breaker.maxPause",
        "must be 10ms to 1h",
        delivery={"breaker": {"maxPause": "9ms"}},
    ),
    _case(
        "a pause that is too long",
        "delivery.breaker.maxPause",
        "must be 10ms to 1h",
        delivery={"breaker": {"maxPause": "61m"}},
    ),
    _case("an age of zero", "retention.maxAge", "must be 1s to 8760h", retention={"maxAge": "0s"}),
    _case("a drain timeout of zero", "drainTimeout", "must be 1s to 1h", drainTimeout="0s"),
    _case("a drain timeout that is too long", "drainTimeout", "must be 1s to 1h", drainTimeout="1h1ms"),
    _case("an HTTP URL", "redis.url", URL_MESSAGE, redis={"url": "http://redis"}),
    _case("a Unix socket", "redis.url", URL_MESSAGE, redis={"url": "unix:///run/redis"}),
    _case("a host with a label of 64 characters", "redis.url", URL_MESSAGE, redis={"url": f"redis://{'a' * 64}/0"}),
    _case("an encoded host", "redis.url", URL_MESSAGE, redis={"url": "redis://%2e%2e/0"}),
    _case("a fragment", "redis.url", URL_MESSAGE, redis={"url": "redis://redis/0#1"}),
    _case("a function without a module", "handler.python", FUNCTION, handler={"python": "handle"}),
    _case("a function with a line feed", "handler.python", FUNCTION, handler={"python": "shop:handle\n"}),
    _case("a duration without a unit", "drainTimeout", DURATION_MESSAGE, drainTimeout="30"),
    _case("a duration with a line feed", "drainTimeout", DURATION_MESSAGE, drainTimeout="30s\n"),
    _case("a duration in days", "drainTimeout", DURATION_MESSAGE, drainTimeout="1d"),
    _case("an invalid start position", "startFrom", START, startFrom="yesterday"),
    _case("a variable name that begins with a digit", "env", VARIABLE, env=[{"name": "1ST", "value": "x"}]),
    _case("a collector without http", "telemetry.endpoint", ENDPOINT, telemetry={"endpoint": "collector:4318"}),
    _case(
        "a collector with a password", "telemetry.endpoint", ENDPOINT, telemetry={"endpoint": "http://me:word@c:4318"}
    ),
    _case("a baggage key with a space", "telemetry.baggage", BAGGAGE, telemetry={"baggage": ["tenant", "a b"]}),
    *(
        _case(f"the stream {name!r}", "stream", CONTROL, stream=name)
        for name in ("a\r\nb", "a\n", "\0", "a\x9b", "\x7f", "a\u2028", "\u202eb", "a\u2066", "\u061c")
    ),
    _case("a group with a tab", "consumerGroup", CONTROL, consumerGroup="a\tb"),
    _case("an ordering key with an escape", "orderingKey", CONTROL, orderingKey="\x1b[31m"),
    _case(
        "a dead-letter stream with a line feed",
        "delivery.deadLetterStream",
        CONTROL,
        delivery={"deadLetterStream": "a\nb"},
    ),
    _case("a field with a line feed", "telemetry.contextField", CONTROL, telemetry={"contextField": "a\n"}),
    *(
        _case(
            f"the Secret {name!r}", "redis.urlSecretRef.name", OBJECT, redis={"urlSecretRef": {**SECRET, "name": name}}
        )
        for name in ("../../other/secrets/payroll", "..", "x?watch=1", "a#b", "a%2fb", "a\n", "A", "a..b", "-a", "a_b")
    ),
    *(
        _case(f"the key {key!r}", "redis.urlSecretRef.key", OBJECT_KEY, redis={"urlSecretRef": {**SECRET, "key": key}})
        for key in (".", "..", "..a", "a/b", "a b", "a\n", "%2e%2e")
    ),
    _case("a Secret by a path", "envFrom", OBJECT, envFrom=[{"secretRef": {"name": "other/bank"}}]),
    _case("a priority class with a space", "priorityClassName", OBJECT, priorityClassName="High Priority"),
    _case("a label value with a space", "podLabels", LABEL_VALUE.message, podLabels={"team": "the shop"}),
    _case(
        "a topology key with a space",
        "topologySpreadConstraints",
        LABEL,
        topologySpreadConstraints=[{"topologyKey": "a b"}],
    ),
    *(
        _case(f"the label {key!r}", "nodeSelector", LABEL, nodeSelector={"a": "b", key: "c"})
        for key in ("a b", "../x", "a\n", "a/b/c", "/a", "A.b/c", "x" * 64)
    ),
    _case("a label with a space", "podLabels", LABEL, podLabels={"a b": "c"}),
    _case("an annotation with a line feed", "podAnnotations", LABEL, podAnnotations={"a\n": "c"}),
    _case("a resource with a space", "resources.limits", LABEL, resources={"limits": {"a b": 1}}),
    _case("an image with a space", "image", IMAGE, image="shop --privileged"),
    _case("an image with a line feed", "image", IMAGE, image="shop:1.4\n"),
    _case(
        "a master name with a space",
        "redis.sentinel.masterName",
        MASTER,
        redis={**PLAIN_URL, "sentinel": {**SENTINEL, "masterName": "my primary"}},
    ),
    _case(
        "a sentinel with port 0",
        "redis.sentinel.nodes",
        NODE,
        redis={**PLAIN_URL, "sentinel": {**SENTINEL, "nodes": ["sentinel:0"]}},
    ),
    _case("a collector with a space", "telemetry.endpoint", ENDPOINT, telemetry={"endpoint": "http://a\u00a0b"}),
    Case("a name of 51 characters", manifest("o" * 51), "", NAME_TOO_LONG),
]
"""Rejected by a rule of the CRD, with a message."""

RULES_WITHOUT_MESSAGE = [
    *(
        _case(f"the option {option}", "redis", redis={"url": f"rediss://redis/0?{option}"})
        for option in (
            *("ssl_ca_certs=/dev/stdout", "ssl_certfile=/proc/self/fd/8", "pass%77ord=x", "user%6eame=x", "hunter2=1"),
            *("encoding=rot13", "db=-1", "db=1e3", "socket_timeout=nan", "socket_timeout=1&x", "%64b=1", "", "&db=1"),
        )
    ),
    _case("no Redis", "redis", redis=...),
    _case("a ratio above 1", "telemetry.samplingRatio", telemetry={"samplingRatio": 1.1}),
    _case("another trust", "telemetry.context", telemetry={"context": "trust"}),
    _case("no stream", "stream", stream=...),
    _case("no group", "consumerGroup", consumerGroup=...),
    _case("no handler field", "handler", handler=...),
    _case("an empty stream", "stream", stream=""),
    _case("a stream name that is too long", "stream", stream="x" * 513),
    _case("a Secret without a key", "redis.urlSecretRef.key", redis={"urlSecretRef": {"name": "redis"}}),
    _case(
        "a TLS Secret without a key",
        "redis.tls.caSecretRef.key",
        redis={**TLS_URL, "tls": {"caSecretRef": {"name": "r"}}},
    ),
    _case("a TLS Secret with a key", "redis.tls.certSecretRef", redis={**TLS_URL, "tls": {"certSecretRef": SECRET}}),
    _case(
        "no sentinels", "redis.sentinel.nodes", redis={**PLAIN_URL, "sentinel": {"masterName": "primary", "nodes": []}}
    ),
    _case(
        "sentinels without a master name",
        "redis.sentinel.masterName",
        redis={**PLAIN_URL, "sentinel": {"nodes": ["one:26379"]}},
    ),
    _case("text for a boolean", "redis.cluster", redis={**PLAIN_URL, "cluster": "yes"}),
    _case("no deliveries", "delivery.maxDeliveries", delivery={"maxDeliveries": 0}),
    _case("entries too large", "delivery.maxEntryBytes", delivery={"maxEntryBytes": 536870913}),
    _case("a nameless dead-letter stream", "delivery.deadLetterStream", delivery={"deadLetterStream": ""}),
    _case("no dead letters", "delivery.deadLetterMaxLength", delivery={"deadLetterMaxLength": 0}),
    _case("a negative number of failures", "delivery.breaker.failures", delivery={"breaker": {"failures": -1}}),
    _case("a number for a boolean", "retention.acknowledged", retention={"acknowledged": 1}),
    _case("an empty ordering key", "orderingKey", orderingKey=""),
    _case("text for batch", "handler.batch", handler={"python": "shop:handle", "batch": "yes"}),
    _case("an empty source", "handler.source", handler={"source": ""}),
    _case("a number for a duration", "drainTimeout", drainTimeout=30),
    _case("an extremely long duration", "drainTimeout", drainTimeout="9999999999999999999999999999h"),
    _case("a batch count of zero", "batchCount", batchCount=0),
    _case("a batch count that is too large", "batchCount", batchCount=1001),
    _case("text for a number", "batchCount", batchCount="10"),
    _case("a fraction for a number", "batchCount", batchCount=1.5),
    _case("a boolean for a number", "concurrency", concurrency=True),
    _case("a concurrency that is too large", "concurrency", concurrency=1001),
    _case("an unknown encoding", "encoding", encoding="latin-1"),
    _case("an unknown pull policy", "imagePullPolicy", imagePullPolicy="Sometimes"),
    _case("an empty label", "nodeSelector", nodeSelector={"": "c"}),
    _case("a label that is too long", "nodeSelector", nodeSelector={f"{'x' * 317}/a": "c"}),
    _case("an empty image", "image", image=""),
    _case("a negative number of pods", "replicas", replicas=-1),
    _case("too many pods", "replicas", replicas=1001),
    _case("a variable that is a number", "env", env=[{"name": "FIRST", "value": 1}]),
    _case("a duplicate variable", "env", env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
    _case("variables as an object", "env", env={"A": "1"}),
    _case("a key reference without a key", "env", env=[_env_var_from(secretKeyRef=BANK_SECRET)]),
    _case("a Secret of another namespace", "env", env=[_env_var_from(secretKeyRef={**KEY, "namespace": "other"})]),
    _case("a URL for a Service", "handler.http", handler={"http": {"url": "http://169.254.169.254/"}}),
    _case("a Service without a name", "handler.http.service", handler={"http": {"port": 80}}),
    _case("a port by name", "handler.http.port", handler={"http": {"service": "billing", "port": "http"}}),
    _case("port 0", "handler.http.port", handler={"http": {"service": "billing", "port": 0}}),
    _case("a number for a label", "podLabels", podLabels={"team": 1}),
    _case("an unknown effect", "tolerations", tolerations=[{**ANY_TAINT, "effect": "Never"}]),
    _case("an unknown operator", "tolerations", tolerations=[{"key": "a", "operator": "NotIn"}]),
    _case(
        "a skew of zero", "topologySpreadConstraints", topologySpreadConstraints=[{"topologyKey": "zone", "maxSkew": 0}]
    ),
    _case(
        "a spread constraint without a topology key",
        "topologySpreadConstraints",
        topologySpreadConstraints=[{"maxSkew": 1}],
    ),
    _case("an empty runtime class", "runtimeClassName", runtimeClassName=""),
    _case("a duplicate pull secret", "imagePullSecrets", imagePullSecrets=[BANK_SECRET, BANK_SECRET]),
    _case("a percentage above 100", "rollout.maxUnavailable", rollout={"maxUnavailable": "101%"}),
    _case("a negative surge", "rollout.maxSurge", rollout={"maxSurge": -1}),
    _case(
        "a percentage in words", "podDisruptionBudget.maxUnavailable", podDisruptionBudget={"maxUnavailable": "half"}
    ),
    _case("half a pod", "podDisruptionBudget.maxUnavailable", podDisruptionBudget={"maxUnavailable": 0.5}),
    _case("text for suspend", "suspend", suspend="yes"),
    _case("a service account", "serviceAccountName", serviceAccountName="admin"),
    _case("volumes", "volumes", volumes=[{"name": "docker", "hostPath": {"path": "/"}}]),
    _case("text for a quantity", "resources.limits", resources={"limits": {"memory": "much"}}),
    _case("a negative quantity", "resources.limits.cpu", resources={"limits": {"cpu": -1}}),
    _case("a quantity as a fraction", "resources.limits.cpu", resources={"limits": {"cpu": 0.5}}),
    _case("a boolean for a quantity", "resources.limits.cpu", resources={"limits": {"cpu": True}}),
    _case("a string for Redis", "redis", redis="redis://redis"),
]
"""Rejected by type or bounds. pydantic and the API server have different messages."""

VALID_MANIFESTS = {
    "a minimal resource": manifest(),
    "nulls": manifest(replicas=None, image=None, env=None, delivery={"backoff": {"minDelay": None}}),
    "no pods": manifest(replicas=0),
    "a URL from a Secret": manifest(redis={"urlSecretRef": SECRET}),
    "a user and a password from Secrets": manifest(
        redis={"url": "rediss://redis", "usernameSecretRef": SECRET, "passwordSecretRef": SECRET}
    ),
    "certificates": manifest(
        redis={**TLS_URL, "tls": {"caSecretRef": SECRET, "certSecretRef": {"name": "redis-client"}}}
    ),
    "certificates for a URL from a Secret": manifest(
        redis={"urlSecretRef": SECRET, "tls": {"insecureSkipVerify": True}}
    ),
    "options of the URL": manifest(
        redis={"url": "rediss://redis/1?socket_timeout=2.5&socket_keepalive=true&ssl_check_hostname=false"}
    ),
    "a cluster with an option": manifest(redis={"url": "rediss://redis?ssl_cert_reqs=none", "cluster": True}),
    "sentinels": manifest(redis={"url": "redis:///0", "sentinel": SENTINEL, "cluster": False}),
    "sentinels with credentials": manifest(
        redis={**TLS_URL, "sentinel": {**SENTINEL, "usernameSecretRef": SECRET, "passwordSecretRef": SECRET}}
    ),
    "a cluster": manifest(redis={"url": "redis://redis:6379/0", "cluster": True}),
    "a cluster without a database": manifest(redis={"url": "rediss://redis:6379", "cluster": True}),
    "a cluster with a URL from a Secret": manifest(redis={"urlSecretRef": SECRET, "cluster": True}),
    "all of delivery": manifest(
        delivery={
            "maxDeliveries": 3,
            "timeout": "90s",
            "backoff": {"minDelay": "1s", "maxDelay": "1s"},
            "terminalErrors": ["ValueError", "shop.errors.Unknown"],
            "maxEntryBytes": 1024,
            "deadLetterStream": "{orders}:dead",
            "deadLetterMaxLength": 1,
            "breaker": {"failures": 0, "maxPause": "1h"},
        }
    ),
    "all of retention": manifest(retention={"maxAge": "8760h", "acknowledged": True}),
    "an ordering key": manifest(orderingKey="customer"),
    "batches": manifest(handler={"python": "shop:handle", "batch": True}),
    "a source": manifest(handler={"source": "def handle(data): ..."}, image=...),
    "equal delays": manifest(delivery={"backoff": {"minDelay": "1s", "maxDelay": "1s"}}),
    "minDelay at the default of maxDelay": manifest(delivery={"backoff": {"minDelay": "5m"}}),
    "durations at their bounds": manifest(pollInterval="100ms", drainTimeout="1h", delivery={"minIdle": "1440m"}),
    "a duration of several units": manifest(drainTimeout="1m30s500ms"),
    "an empty group of settings": manifest(delivery={}, resources={}, telemetry={}),
    "a start at an ID": manifest(startFrom="1526919030474-55"),
    "a start at the end": manifest(startFrom="$"),
    "quantities": manifest(resources={"limits": {"cpu": "0.5", "memory": "1.5Gi"}}),
    "a quantity as a number": manifest(resources={"limits": {"cpu": 1}, "requests": {"cpu": "100m"}}),
    "a variable without a value": manifest(env=[{"name": "DEBUG"}]),
    "a variable of OpenTelemetry": manifest(env=[{"name": "OTEL_SERVICE_NAME", "value": "orders"}]),
    "a Service": manifest(handler=HTTP, image=...),
    "a Service and defaults": manifest(handler={"http": {"service": "b"}}),
    "a path": manifest(handler={"http": {"service": "b2-x", "port": 65535, "path": "/v1/orders:add@now/%20;a=b,c"}}),
    "suspend": manifest(suspend=True),
    "autoscaling": manifest(
        autoscaling={
            "minReplicas": 1,
            "maxReplicas": 1,
            "scaleDown": {"policies": [{"type": "Pods", "value": 1}]},
            "fallback": {"replicas": 3},
        },
    ),
    "autoscaling at its defaults": manifest(autoscaling={}),
    "autoscaling by drain time": manifest(autoscaling={"target": {"drainTime": "30s"}}),
    "variables from Secrets and ConfigMaps": manifest(
        env=[
            _env_var_from(secretKeyRef={**KEY, "optional": True}),
            {"name": "B", "valueFrom": {"configMapKeyRef": KEY}},
        ],
        envFrom=[_env_from_secret("BANK_"), {"configMapRef": {"name": "shop", "optional": True}}],
    ),
    "a valueFrom and an empty value": manifest(env=[{**_env_var_from(secretKeyRef=KEY), "value": ""}]),
    "labels and annotations": manifest(
        podLabels={"team": "shop", "example.com/Part": "", "x": "a.b_C-1"},
        podAnnotations={"sidecar.istio.io/inject": "true", "note": "any text, 1 $(x)\n"},
    ),
    "an IPv6 address that ends with an IPv4 address": manifest(redis={"url": "redis://[64:ff9b::10.0.0.7]:6379/0"}),
    "cloud identities": manifest(
        serviceAccountAnnotations={
            "eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/orders",
            "iam.gke.io/gcp-service-account": "orders@project.iam.gserviceaccount.com",
            "azure.workload.identity/client-id": "00000000-0000-0000-0000-000000000000",
            "pod-identity.alibabacloud.com/role-name": "orders",
        },
        podLabels={"azure.workload.identity/use": "true"},
    ),
    "scheduling": manifest(
        nodeSelector={"kubernetes.io/arch": "arm64"},
        tolerations=[
            {"operator": "Exists"},
            {"key": "example.com/spot", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 0},
            {"key": "shop"},
        ],
        topologySpreadConstraints=[
            {"topologyKey": "topology.kubernetes.io/zone"},
            {"topologyKey": "kubernetes.io/hostname", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"},
        ],
        priorityClassName="system-of-shop.1",
        runtimeClassName="gvisor",
        imagePullSecrets=[BANK_SECRET, {"name": "registry"}],
    ),
    "a disruption budget and a rollout": manifest(
        podDisruptionBudget={"maxUnavailable": "25%"},
        rollout={"maxUnavailable": 0, "maxSurge": "100%", "progressDeadline": "10s"},
    ),
    "a rollout with one limit": manifest(rollout={"maxUnavailable": "0%"}, podDisruptionBudget={"maxUnavailable": 0}),
    "empty pod settings": manifest(rollout={}, podDisruptionBudget={}, podLabels={}, tolerations=[], envFrom=[]),
    "a name of 50 characters": manifest("o" * 50),
    "a stream with Cyrillic letters": manifest(stream="заказы:{shop}:$1 $(x)"),
}
"""Accepted by pydantic and by the API server."""
