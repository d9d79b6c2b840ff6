"""One table of what a StreamConsumer may not say, for pydantic here and for the API server in tests/operator.

Each case is a name, a spec that is wrong in one place, and the sentence that a user is told by both.
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
from streamconsumer.model.pod_settings import (
    EXISTS_TAKES_NO_VALUE,
    KEYLESS_NEEDS_EXISTS,
    RESERVED_ANNOTATION_MESSAGE,
    RESERVED_ANNOTATION_PREFIXES,
    RESERVED_LABEL_MESSAGE,
    RESERVED_LABEL_PREFIXES,
    ROLLOUT_BLOCKED,
    SECONDS_NEED_NO_EXECUTE,
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
)
from tests.model.examples import Manifest, manifest

REDIS_URL = "must be redis://host:port/database, or rediss:// for TLS"
FUNCTION = "must name a function as package.module:function"
START = "must be 0 (the oldest entry), $ (only new entries) or the ID of an entry"
VARIABLE = "must contain only letters, digits and _, and must not begin with a digit"
ENDPOINT = "must begin with http:// or https://, and must not contain credentials"
BAGGAGE = "must be a baggage key: letters, digits, `.`, `_` and `-`"
EXCEPTION = "must name an exception, such as ValueError or package.module.Error"
SERVICE = "must be the name of a Service in the same namespace, without a dot"
PATH = "must begin with / and must not contain a query, such as /orders"
NODE = "must be a sentinel as host:port"

SECRET = {"name": "redis", "key": "url"}
SENTINEL = {"masterName": "primary", "nodes": ["sentinel-0.sentinel:26379", "10.0.0.7:26379", "[fd00::1]:26379"]}


@dataclass(frozen=True)
class Case:
    """One wrong StreamConsumer, the field at fault and, where it is our own rule, its sentence."""

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
    _case("more at least than at most", "autoscaling", MIN_ABOVE_MAX, autoscaling={"minReplicas": 11}),
    _case("too long a cooldown", "autoscaling.cooldown", "must be 0s to 24h", autoscaling={"cooldown": "25h"}),
    _case(
        "too long a window",
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
    _case("two handlers, one of them far", "handler", ONE_HANDLER, handler={"python": "shop:handle", **HTTP}),
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
    _case("a value from both", "env", ONE_KEY, env=[_env_var_from(secretKeyRef=KEY, configMapKeyRef=KEY)]),
    _case("a value from nowhere", "env", ONE_KEY, env=[_env_var_from()]),
    _case("a value twice", "env", ONE_VALUE, env=[{**_env_var_from(secretKeyRef=KEY), "value": "x"}]),
    _case(
        "variables from both", "envFrom", ONE_SOURCE, envFrom=[{"secretRef": BANK_SECRET, "configMapRef": BANK_SECRET}]
    ),
    _case("variables from nowhere", "envFrom", ONE_SOURCE, envFrom=[{"prefix": "BANK_"}]),
    _case(
        "a prefix that is ours", "envFrom", RESERVED_PREFIX_MESSAGE, envFrom=[_env_from_secret("STREAMCONSUMER_REDIS_")]
    ),
    _case("a prefix that is no name", "envFrom", VARIABLE, envFrom=[_env_from_secret("BANK-")]),
    *(
        _case(f"a label of {prefix}", "podLabels", RESERVED_LABEL_MESSAGE, podLabels={f"{prefix}x": "y", "a": "b"})
        for prefix in RESERVED_LABEL_PREFIXES
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
    _case("any value of a value", "tolerations", EXISTS_TAKES_NO_VALUE, tolerations=[{**ANY_TAINT, "value": "b"}]),
    _case("a taint without a key", "tolerations", KEYLESS_NEEDS_EXISTS, tolerations=[{"effect": "NoSchedule"}]),
    _case(
        "a while for ever", "tolerations", SECONDS_NEED_NO_EXECUTE, tolerations=[{**ANY_TAINT, "tolerationSeconds": 5}]
    ),
    *(
        _case(f"a rollout that stands still: {none!r}", "rollout", ROLLOUT_BLOCKED, rollout=blocked_rollout(none))
        for none in (0, "0", "0%")
    ),
    _case("a hurried rollout", "rollout.progressDeadline", "must be 10s to 24h", rollout={"progressDeadline": "9s"}),
    _case(
        "a reserved variable", "env", RESERVED_VARIABLE_MESSAGE, env=[{"name": "STREAMCONSUMER_STREAM", "value": "x"}]
    ),
    _case("too short a poll", "pollInterval", "must be 100ms to 1m", pollInterval="99ms"),
    _case("too long a poll", "pollInterval", "must be 100ms to 1m", pollInterval="61s"),
    _case("too short an idle time", "delivery.minIdle", "must be 1s to 24h", delivery={"minIdle": "999ms"}),
    _case("a hurried handler", "delivery.timeout", "must be 10ms to 24h", delivery={"timeout": "9ms"}),
    _case("no error", "delivery.terminalErrors", EXCEPTION, delivery={"terminalErrors": ["ValueError", "1"]}),
    _case(
        "waits out of order",
        "delivery.backoff",
        MIN_DELAY_ABOVE_MAX,
        delivery={"backoff": {"minDelay": "2s", "maxDelay": "1s"}},
    ),
    _case(
        "a first wait above the default's last",
        "delivery.backoff",
        MIN_DELAY_ABOVE_MAX,
        delivery={"backoff": {"minDelay": "6m"}},
    ),
    _case("no first wait", "delivery.backoff.minDelay", "must be 1ms to 1h", delivery={"backoff": {"minDelay": "0ms"}}),
    _case(
        "a last wait too long",
        "delivery.backoff.maxDelay",
        "must be 1ms to 24h",
        delivery={"backoff": {"maxDelay": "25h"}},
    ),
    _case("no pause", "delivery.breaker.maxPause", "must be 10ms to 1h", delivery={"breaker": {"maxPause": "9ms"}}),
    _case(
        "too long a pause", "delivery.breaker.maxPause", "must be 10ms to 1h", delivery={"breaker": {"maxPause": "61m"}}
    ),
    _case("no age", "retention.maxAge", "must be 1s to 8760h", retention={"maxAge": "0s"}),
    _case("too short a drain", "drainTimeout", "must be 1s to 1h", drainTimeout="0s"),
    _case("too long a drain", "drainTimeout", "must be 1s to 1h", drainTimeout="1h1ms"),
    _case("another kind of URL", "redis.url", REDIS_URL, redis={"url": "http://redis"}),
    _case("a socket", "redis.url", REDIS_URL, redis={"url": "unix:///run/redis"}),
    _case("a function without a module", "handler.python", FUNCTION, handler={"python": "handle"}),
    _case("a function with a line feed", "handler.python", FUNCTION, handler={"python": "shop:handle\n"}),
    _case("no duration", "drainTimeout", DURATION_MESSAGE, drainTimeout="30"),
    _case("a duration with a line feed", "drainTimeout", DURATION_MESSAGE, drainTimeout="30s\n"),
    _case("a duration in days", "drainTimeout", DURATION_MESSAGE, drainTimeout="1d"),
    _case("a wrong start", "startFrom", START, startFrom="yesterday"),
    _case("a variable that is no name", "env", VARIABLE, env=[{"name": "1ST", "value": "x"}]),
    _case("a collector without http", "telemetry.endpoint", ENDPOINT, telemetry={"endpoint": "collector:4318"}),
    _case(
        "a collector with a password", "telemetry.endpoint", ENDPOINT, telemetry={"endpoint": "http://me:word@c:4318"}
    ),
    _case("a key with a blank", "telemetry.baggage", BAGGAGE, telemetry={"baggage": ["tenant", "a b"]}),
    Case("a name of 51 characters", manifest("o" * 51), "", NAME_TOO_LONG),
]
"""Refused by a rule that has a sentence."""

RULES_WITHOUT_MESSAGE = [
    _case("no Redis", "redis", redis=...),
    _case("more than all", "telemetry.samplingRatio", telemetry={"samplingRatio": 1.1}),
    _case("another trust", "telemetry.context", telemetry={"context": "trust"}),
    _case("no stream", "stream", stream=...),
    _case("no group", "consumerGroup", consumerGroup=...),
    _case("no handler at all", "handler", handler=...),
    _case("an empty stream", "stream", stream=""),
    _case("a stream too long", "stream", stream="x" * 513),
    _case("half a Secret", "redis.urlSecretRef.key", redis={"urlSecretRef": {"name": "redis"}}),
    _case(
        "half a Secret of TLS", "redis.tls.caSecretRef.key", redis={**TLS_URL, "tls": {"caSecretRef": {"name": "r"}}}
    ),
    _case("a key of a TLS Secret", "redis.tls.certSecretRef", redis={**TLS_URL, "tls": {"certSecretRef": SECRET}}),
    _case(
        "no sentinels", "redis.sentinel.nodes", redis={**PLAIN_URL, "sentinel": {"masterName": "primary", "nodes": []}}
    ),
    _case("nobody's sentinels", "redis.sentinel.masterName", redis={**PLAIN_URL, "sentinel": {"nodes": ["one:26379"]}}),
    _case("text for yes", "redis.cluster", redis={**PLAIN_URL, "cluster": "yes"}),
    _case("no deliveries", "delivery.maxDeliveries", delivery={"maxDeliveries": 0}),
    _case("entries too large", "delivery.maxEntryBytes", delivery={"maxEntryBytes": 536870913}),
    _case("a nameless dead-letter stream", "delivery.deadLetterStream", delivery={"deadLetterStream": ""}),
    _case("no dead letters", "delivery.deadLetterMaxLength", delivery={"deadLetterMaxLength": 0}),
    _case("fewer than no failures", "delivery.breaker.failures", delivery={"breaker": {"failures": -1}}),
    _case("a number for yes", "retention.acknowledged", retention={"acknowledged": 1}),
    _case("no ordering key", "orderingKey", orderingKey=""),
    _case("text for a batch", "handler.batch", handler={"python": "shop:handle", "batch": "yes"}),
    _case("an empty source", "handler.source", handler={"source": ""}),
    _case("a number for a duration", "drainTimeout", drainTimeout=30),
    _case("an absurd duration", "drainTimeout", drainTimeout="9999999999999999999999999999h"),
    _case("no entries", "batchCount", batchCount=0),
    _case("too many entries", "batchCount", batchCount=1001),
    _case("text for a number", "batchCount", batchCount="10"),
    _case("a fraction for a number", "batchCount", batchCount=1.5),
    _case("yes for a number", "concurrency", concurrency=True),
    _case("too much at once", "concurrency", concurrency=1001),
    _case("another encoding", "encoding", encoding="latin-1"),
    _case("another pull policy", "imagePullPolicy", imagePullPolicy="Sometimes"),
    _case("an empty image", "image", image=""),
    _case("fewer than no pods", "replicas", replicas=-1),
    _case("too many pods", "replicas", replicas=1001),
    _case("a variable that is a number", "env", env=[{"name": "FIRST", "value": 1}]),
    _case("one variable twice", "env", env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
    _case("variables as an object", "env", env={"A": "1"}),
    _case("half a key", "env", env=[_env_var_from(secretKeyRef=BANK_SECRET)]),
    _case("a Secret of another namespace", "env", env=[_env_var_from(secretKeyRef={**KEY, "namespace": "other"})]),
    _case("a Secret by a path", "envFrom", envFrom=[{"secretRef": {"name": "other/bank"}}]),
    _case("a URL for a Service", "handler.http", handler={"http": {"url": "http://169.254.169.254/"}}),
    _case("a Service without a name", "handler.http.service", handler={"http": {"port": 80}}),
    _case("a port by name", "handler.http.port", handler={"http": {"service": "billing", "port": "http"}}),
    _case("port 0", "handler.http.port", handler={"http": {"service": "billing", "port": 0}}),
    _case("a label that is no label", "podLabels", podLabels={"team": "the shop"}),
    _case("a number for a label", "podLabels", podLabels={"team": 1}),
    _case("another effect", "tolerations", tolerations=[{**ANY_TAINT, "effect": "Never"}]),
    _case("another operator", "tolerations", tolerations=[{"key": "a", "operator": "NotIn"}]),
    _case("no skew", "topologySpreadConstraints", topologySpreadConstraints=[{"topologyKey": "zone", "maxSkew": 0}]),
    _case("nothing to spread over", "topologySpreadConstraints", topologySpreadConstraints=[{"maxSkew": 1}]),
    _case("no name of a class", "priorityClassName", priorityClassName="High Priority"),
    _case("no class", "runtimeClassName", runtimeClassName=""),
    _case("one pull secret twice", "imagePullSecrets", imagePullSecrets=[BANK_SECRET, BANK_SECRET]),
    _case("a share of more than all", "rollout.maxUnavailable", rollout={"maxUnavailable": "101%"}),
    _case("fewer than no pods gone", "rollout.maxSurge", rollout={"maxSurge": -1}),
    _case("a share in words", "podDisruptionBudget.maxUnavailable", podDisruptionBudget={"maxUnavailable": "half"}),
    _case("half a pod", "podDisruptionBudget.maxUnavailable", podDisruptionBudget={"maxUnavailable": 0.5}),
    _case("text for suspend", "suspend", suspend="yes"),
    _case("a service account", "serviceAccountName", serviceAccountName="admin"),
    _case("volumes", "volumes", volumes=[{"name": "docker", "hostPath": {"path": "/"}}]),
    _case("no quantity", "resources.limits", resources={"limits": {"memory": "much"}}),
    _case("a quantity below nothing", "resources.limits.cpu", resources={"limits": {"cpu": -1}}),
    _case("a quantity as a fraction", "resources.limits.cpu", resources={"limits": {"cpu": 0.5}}),
    _case("a quantity as yes", "resources.limits.cpu", resources={"limits": {"cpu": True}}),
    _case("a string for Redis", "redis", redis="redis://redis"),
]
"""Refused by type or bound, each side in its own words."""

VALID_MANIFESTS = {
    "the smallest": manifest(),
    "nulls": manifest(replicas=None, image=None, env=None, delivery={"backoff": {"minDelay": None}}),
    "no pods": manifest(replicas=0),
    "a URL from a Secret": manifest(redis={"urlSecretRef": SECRET}),
    "a user and a password from Secrets": manifest(
        redis={"url": "rediss://redis", "usernameSecretRef": SECRET, "passwordSecretRef": SECRET}
    ),
    "certificates": manifest(
        redis={**TLS_URL, "tls": {"caSecretRef": SECRET, "certSecretRef": {"name": "redis-client"}}}
    ),
    "certificates for a URL that only the pod knows": manifest(
        redis={"urlSecretRef": SECRET, "tls": {"insecureSkipVerify": True}}
    ),
    "sentinels": manifest(redis={"url": "redis:///0", "sentinel": SENTINEL, "cluster": False}),
    "sentinels with credentials": manifest(
        redis={**TLS_URL, "sentinel": {**SENTINEL, "usernameSecretRef": SECRET, "passwordSecretRef": SECRET}}
    ),
    "a cluster": manifest(redis={"url": "redis://redis:6379/0", "cluster": True}),
    "a cluster without a database": manifest(redis={"url": "rediss://redis:6379", "cluster": True}),
    "a cluster that only the pod knows": manifest(redis={"urlSecretRef": SECRET, "cluster": True}),
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
    "an order": manifest(orderingKey="customer"),
    "batches": manifest(handler={"python": "shop:handle", "batch": True}),
    "a source": manifest(handler={"source": "def handle(data): ..."}, image=...),
    "delays alike": manifest(delivery={"backoff": {"minDelay": "1s", "maxDelay": "1s"}}),
    "a first delay at the default's last": manifest(delivery={"backoff": {"minDelay": "5m"}}),
    "durations at their bounds": manifest(pollInterval="100ms", drainTimeout="1h", delivery={"minIdle": "1440m"}),
    "a duration of several units": manifest(drainTimeout="1m30s500ms"),
    "an empty group of settings": manifest(delivery={}, resources={}, telemetry={}),
    "starting at an id": manifest(startFrom="1526919030474-55"),
    "starting at the end": manifest(startFrom="$"),
    "quantities": manifest(resources={"limits": {"cpu": "0.5", "memory": "1.5Gi"}}),
    "a quantity as a number": manifest(resources={"limits": {"cpu": 1}, "requests": {"cpu": "100m"}}),
    "a variable without a value": manifest(env=[{"name": "DEBUG"}]),
    "a variable of OpenTelemetry": manifest(env=[{"name": "OTEL_SERVICE_NAME", "value": "orders"}]),
    "a Service": manifest(handler=HTTP, image=...),
    "a Service and defaults": manifest(handler={"http": {"service": "b"}}),
    "a path": manifest(handler={"http": {"service": "b2-x", "port": 65535, "path": "/v1/orders:add@now/%20;a=b,c"}}),
    "a suspended one": manifest(suspend=True),
    "autoscaling": manifest(
        autoscaling={
            "minReplicas": 1,
            "maxReplicas": 1,
            "scaleDown": {"policies": [{"type": "Pods", "value": 1}]},
            "fallback": {"replicas": 3},
        },
    ),
    "autoscaling at its defaults": manifest(autoscaling={}),
    "autoscaling by time": manifest(autoscaling={"target": {"drainTime": "30s"}}),
    "variables from elsewhere": manifest(
        env=[
            _env_var_from(secretKeyRef={**KEY, "optional": True}),
            {"name": "B", "valueFrom": {"configMapKeyRef": KEY}},
        ],
        envFrom=[_env_from_secret("BANK_"), {"configMapRef": {"name": "shop", "optional": True}}],
    ),
    "a value from elsewhere, and an empty one": manifest(env=[{**_env_var_from(secretKeyRef=KEY), "value": ""}]),
    "labels and annotations": manifest(
        podLabels={"team": "shop", "example.com/Part": "", "x": "a.b_C-1"},
        podAnnotations={"sidecar.istio.io/inject": "true", "note": "any text, 1 $(x)\n"},
    ),
    "placement": manifest(
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
    "a budget and a pace": manifest(
        podDisruptionBudget={"maxUnavailable": "25%"},
        rollout={"maxUnavailable": 0, "maxSurge": "100%", "progressDeadline": "10s"},
    ),
    "a pace half said": manifest(rollout={"maxUnavailable": "0%"}, podDisruptionBudget={"maxUnavailable": 0}),
    "empty settings of pods": manifest(rollout={}, podDisruptionBudget={}, podLabels={}, tolerations=[], envFrom=[]),
    "a name of 50 characters": manifest("o" * 50),
    "a stream in other letters": manifest(stream="заказы:{shop}:$1 $(x)"),
}
"""Accepted by both."""
