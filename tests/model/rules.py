"""One table of what a StreamConsumer may not say, for pydantic here and for the API server in tests/operator.

Each case is a name, a spec that is wrong in one place, and the sentence that a user is told by both.
"""

from dataclasses import dataclass
from typing import Any

from streamconsumer.model.autoscaling import MIN_ABOVE_MAX, TWO_TARGETS
from streamconsumer.model.container_env import ONE_KEY, ONE_SOURCE, ONE_VALUE, RESERVED_PREFIX, RESERVED_VARIABLE
from streamconsumer.model.fields import DURATION_FORM
from streamconsumer.model.pod_settings import (
    EXISTS_HAS_NO_VALUE,
    KEY_OR_EXISTS,
    RESERVED_ANNOTATION,
    RESERVED_ANNOTATIONS,
    RESERVED_LABEL,
    RESERVED_LABELS,
    ROLLOUT_MOVES,
    SECONDS_OF_NO_EXECUTE,
)
from streamconsumer.model.processor_settings import DELAYS_IN_ORDER
from streamconsumer.model.spec import (
    CLUSTER_DATABASE,
    HTTP_TAKES_TEXT,
    NO_CREDENTIALS,
    NO_HTTP_BATCH,
    ONE_HANDLER,
    ONE_TOPOLOGY,
    ONE_URL,
    SHORT_NAME,
    TLS_SCHEME,
)
from tests.model.examples import Manifest, manifest

REDIS_URL = "must be redis://host:port/database, or rediss:// for TLS"
FUNCTION = "must name a function as package.module:function"
START = "must be 0 (the oldest entry), $ (only new entries) or the id of an entry"
VARIABLE = "must be letters, digits and _, and not begin with a digit"
ENDPOINT = "must begin with http:// or https://, and hold no credentials"
BAGGAGE = "must be a key of baggage: letters, digits, `.`, `_` and `-`"
EXCEPTION = "must name an exception, such as ValueError or package.module.Error"
SERVICE = "must be the name of a Service in the same namespace, without a dot"
PATH = "must begin with / and hold no query, such as /orders"
NODE = "must be a sentinel as host:port"

SECRET = {"name": "redis", "key": "url"}
SENTINEL = {"masterName": "primary", "nodes": ["sentinel-0.sentinel:26379", "10.0.0.7:26379", "[fd00::1]:26379"]}


@dataclass(frozen=True)
class Case:
    """One wrong StreamConsumer, the field at fault and, where it is our own rule, its sentence."""

    name: str
    wrong: Manifest
    field: str
    sentence: str = ""

    def __str__(self) -> str:
        return self.name


def _spec(name: str, field: str, sentence: str = "", **spec: Any) -> Case:
    return Case(name, manifest(**spec), f"spec.{field}", sentence)


HTTP = {"http": {"service": "billing", "port": 8080, "path": "/orders"}}
KEY = {"name": "bank", "key": "token"}
ANY = {"url": "redis://redis"}
TLS = {"url": "rediss://redis"}

BANK = {"name": "bank"}
ANY_TAINT = {"key": "shop", "operator": "Exists"}


def _from(**source: Any) -> Manifest:
    return {"name": "TOKEN", "valueFrom": source}


def _all(prefix: str) -> Manifest:
    return {"secretRef": BANK, "prefix": prefix}


def still(none: int | str) -> Manifest:
    return {"maxUnavailable": none, "maxSurge": none}


OUR_RULES = [
    _spec("two URLs", "redis", ONE_URL, redis={"url": "redis://redis", "urlSecretRef": SECRET}),
    _spec("no URL", "redis", ONE_URL, redis={}),
    _spec("a password in the URL", "redis", NO_CREDENTIALS, redis={"url": "redis://:hunter2@redis"}),
    _spec("a password as an option", "redis", NO_CREDENTIALS, redis={"url": "redis://redis?password=hunter2"}),
    _spec("sentinels and a cluster", "redis", ONE_TOPOLOGY, redis={**ANY, "sentinel": SENTINEL, "cluster": True}),
    _spec("TLS without TLS", "redis", TLS_SCHEME, redis={**ANY, "tls": {"caSecretRef": SECRET}}),
    _spec("TLS without TLS, empty", "redis", TLS_SCHEME, redis={**ANY, "tls": {}}),
    _spec("database 1 of a cluster", "redis", CLUSTER_DATABASE, redis={"url": "redis://r:1/1", "cluster": True}),
    _spec("a cluster's option", "redis", CLUSTER_DATABASE, redis={"url": "redis://r?db=1", "cluster": True}),
    _spec(
        "a sentinel without a port",
        "redis.sentinel.nodes",
        NODE,
        redis={**ANY, "sentinel": {"masterName": "primary", "nodes": ["sentinel"]}},
    ),
    _spec("more at least than at most", "autoscaling", MIN_ABOVE_MAX, autoscaling={"minReplicas": 11}),
    _spec("too long a cooldown", "autoscaling.cooldown", "must be 0s to 24h", autoscaling={"cooldown": "25h"}),
    _spec(
        "too long a window",
        "autoscaling.scaleUp.stabilizationWindow",
        "must be 0s to 1h",
        autoscaling={"scaleUp": {"stabilizationWindow": "2h"}},
    ),
    _spec(
        "two targets",
        "autoscaling.target",
        TWO_TARGETS,
        autoscaling={"target": {"backlogPerReplica": 100, "drainTime": "1m"}},
    ),
    _spec("two handlers", "handler", ONE_HANDLER, handler={"python": "shop:handle", "source": "x = 1"}),
    _spec("no handler", "handler", ONE_HANDLER, handler={}),
    _spec("two handlers, one of them far", "handler", ONE_HANDLER, handler={"python": "shop:handle", **HTTP}),
    _spec("batches over HTTP", "handler", NO_HTTP_BATCH, handler={**HTTP, "batch": True}),
    Case("bytes over HTTP", manifest(handler=HTTP, encoding="bytes"), "spec", HTTP_TAKES_TEXT),
    *(
        _spec(f"the service {name!r}", "handler.http.service", SERVICE, handler={"http": {"service": name}})
        for name in ("billing.other", "billing.other.svc", "10.0.0.1", "Billing", "billing-", "user@billing")
    ),
    *(
        _spec(f"the path {path!r}", "handler.http.path", PATH, handler={"http": {"service": "billing", "path": path}})
        for path in ("", "orders", "/a?b=c", "/a#b", "/a b", "@elsewhere/")
    ),
    _spec("a value from both", "env", ONE_KEY, env=[_from(secretKeyRef=KEY, configMapKeyRef=KEY)]),
    _spec("a value from nowhere", "env", ONE_KEY, env=[_from()]),
    _spec("a value twice", "env", ONE_VALUE, env=[{**_from(secretKeyRef=KEY), "value": "x"}]),
    _spec("variables from both", "envFrom", ONE_SOURCE, envFrom=[{"secretRef": BANK, "configMapRef": BANK}]),
    _spec("variables from nowhere", "envFrom", ONE_SOURCE, envFrom=[{"prefix": "BANK_"}]),
    _spec("a prefix that is ours", "envFrom", RESERVED_PREFIX, envFrom=[_all("STREAMCONSUMER_REDIS_")]),
    _spec("a prefix that is no name", "envFrom", VARIABLE, envFrom=[_all("BANK-")]),
    *(
        _spec(f"a label of {prefix}", "podLabels", RESERVED_LABEL, podLabels={f"{prefix}x": "y", "a": "b"})
        for prefix in RESERVED_LABELS
    ),
    *(
        _spec(f"an annotation of {prefix}", "podAnnotations", RESERVED_ANNOTATION, podAnnotations={f"{prefix}x": "y"})
        for prefix in RESERVED_ANNOTATIONS
    ),
    _spec("any value of a value", "tolerations", EXISTS_HAS_NO_VALUE, tolerations=[{**ANY_TAINT, "value": "b"}]),
    _spec("a taint without a key", "tolerations", KEY_OR_EXISTS, tolerations=[{"effect": "NoSchedule"}]),
    _spec(
        "a while for ever", "tolerations", SECONDS_OF_NO_EXECUTE, tolerations=[{**ANY_TAINT, "tolerationSeconds": 5}]
    ),
    *(
        _spec(f"a rollout that stands still: {none!r}", "rollout", ROLLOUT_MOVES, rollout=still(none))
        for none in (0, "0", "0%")
    ),
    _spec("a hurried rollout", "rollout.progressDeadline", "must be 10s to 24h", rollout={"progressDeadline": "9s"}),
    _spec("a reserved variable", "env", RESERVED_VARIABLE, env=[{"name": "STREAMCONSUMER_STREAM", "value": "x"}]),
    _spec("too short a poll", "pollInterval", "must be 100ms to 1m", pollInterval="99ms"),
    _spec("too long a poll", "pollInterval", "must be 100ms to 1m", pollInterval="61s"),
    _spec("too short an idle time", "delivery.minIdle", "must be 1s to 24h", delivery={"minIdle": "999ms"}),
    _spec("a hurried handler", "delivery.timeout", "must be 10ms to 24h", delivery={"timeout": "9ms"}),
    _spec("no error", "delivery.terminalErrors", EXCEPTION, delivery={"terminalErrors": ["ValueError", "1"]}),
    _spec(
        "waits out of order",
        "delivery.backoff",
        DELAYS_IN_ORDER,
        delivery={"backoff": {"minDelay": "2s", "maxDelay": "1s"}},
    ),
    _spec(
        "a first wait above the default's last",
        "delivery.backoff",
        DELAYS_IN_ORDER,
        delivery={"backoff": {"minDelay": "6m"}},
    ),
    _spec("no first wait", "delivery.backoff.minDelay", "must be 1ms to 1h", delivery={"backoff": {"minDelay": "0ms"}}),
    _spec(
        "a last wait too long",
        "delivery.backoff.maxDelay",
        "must be 1ms to 24h",
        delivery={"backoff": {"maxDelay": "25h"}},
    ),
    _spec("no pause", "delivery.breaker.maxPause", "must be 10ms to 1h", delivery={"breaker": {"maxPause": "9ms"}}),
    _spec(
        "too long a pause", "delivery.breaker.maxPause", "must be 10ms to 1h", delivery={"breaker": {"maxPause": "61m"}}
    ),
    _spec("no age", "retention.maxAge", "must be 1s to 8760h", retention={"maxAge": "0s"}),
    _spec("too short a drain", "drainTimeout", "must be 1s to 1h", drainTimeout="0s"),
    _spec("too long a drain", "drainTimeout", "must be 1s to 1h", drainTimeout="1h1ms"),
    _spec("another kind of URL", "redis.url", REDIS_URL, redis={"url": "http://redis"}),
    _spec("a socket", "redis.url", REDIS_URL, redis={"url": "unix:///run/redis"}),
    _spec("a function without a module", "handler.python", FUNCTION, handler={"python": "handle"}),
    _spec("a function with a line feed", "handler.python", FUNCTION, handler={"python": "shop:handle\n"}),
    _spec("no duration", "drainTimeout", DURATION_FORM, drainTimeout="30"),
    _spec("a duration with a line feed", "drainTimeout", DURATION_FORM, drainTimeout="30s\n"),
    _spec("a duration in days", "drainTimeout", DURATION_FORM, drainTimeout="1d"),
    _spec("a wrong start", "startFrom", START, startFrom="yesterday"),
    _spec("a variable that is no name", "env", VARIABLE, env=[{"name": "1ST", "value": "x"}]),
    _spec("a collector without http", "telemetry.endpoint", ENDPOINT, telemetry={"endpoint": "collector:4318"}),
    _spec(
        "a collector with a password", "telemetry.endpoint", ENDPOINT, telemetry={"endpoint": "http://me:word@c:4318"}
    ),
    _spec("a key with a blank", "telemetry.baggage", BAGGAGE, telemetry={"baggage": ["tenant", "a b"]}),
    Case("a name of 51 characters", manifest("o" * 51), "", SHORT_NAME),
]
"""Refused by a rule that has a sentence."""

SHAPES = [
    _spec("no Redis", "redis", redis=...),
    _spec("more than all", "telemetry.samplingRatio", telemetry={"samplingRatio": 1.1}),
    _spec("another trust", "telemetry.context", telemetry={"context": "trust"}),
    _spec("no stream", "stream", stream=...),
    _spec("no group", "consumerGroup", consumerGroup=...),
    _spec("no handler at all", "handler", handler=...),
    _spec("an empty stream", "stream", stream=""),
    _spec("a stream too long", "stream", stream="x" * 513),
    _spec("half a Secret", "redis.urlSecretRef.key", redis={"urlSecretRef": {"name": "redis"}}),
    _spec("half a Secret of TLS", "redis.tls.caSecretRef.key", redis={**TLS, "tls": {"caSecretRef": {"name": "r"}}}),
    _spec("a key of a TLS Secret", "redis.tls.certSecretRef", redis={**TLS, "tls": {"certSecretRef": SECRET}}),
    _spec("no sentinels", "redis.sentinel.nodes", redis={**ANY, "sentinel": {"masterName": "primary", "nodes": []}}),
    _spec("nobody's sentinels", "redis.sentinel.masterName", redis={**ANY, "sentinel": {"nodes": ["one:26379"]}}),
    _spec("text for yes", "redis.cluster", redis={**ANY, "cluster": "yes"}),
    _spec("no deliveries", "delivery.maxDeliveries", delivery={"maxDeliveries": 0}),
    _spec("entries too large", "delivery.maxEntryBytes", delivery={"maxEntryBytes": 536870913}),
    _spec("a nameless dead-letter stream", "delivery.deadLetterStream", delivery={"deadLetterStream": ""}),
    _spec("no dead letters", "delivery.deadLetterMaxLength", delivery={"deadLetterMaxLength": 0}),
    _spec("fewer than no failures", "delivery.breaker.failures", delivery={"breaker": {"failures": -1}}),
    _spec("a number for yes", "retention.acknowledged", retention={"acknowledged": 1}),
    _spec("no ordering key", "orderingKey", orderingKey=""),
    _spec("text for a batch", "handler.batch", handler={"python": "shop:handle", "batch": "yes"}),
    _spec("an empty source", "handler.source", handler={"source": ""}),
    _spec("a number for a duration", "drainTimeout", drainTimeout=30),
    _spec("an absurd duration", "drainTimeout", drainTimeout="9999999999999999999999999999h"),
    _spec("no entries", "batchCount", batchCount=0),
    _spec("too many entries", "batchCount", batchCount=1001),
    _spec("text for a number", "batchCount", batchCount="10"),
    _spec("a fraction for a number", "batchCount", batchCount=1.5),
    _spec("yes for a number", "concurrency", concurrency=True),
    _spec("too much at once", "concurrency", concurrency=1001),
    _spec("another encoding", "encoding", encoding="latin-1"),
    _spec("another pull policy", "imagePullPolicy", imagePullPolicy="Sometimes"),
    _spec("an empty image", "image", image=""),
    _spec("fewer than no pods", "replicas", replicas=-1),
    _spec("too many pods", "replicas", replicas=1001),
    _spec("a variable that is a number", "env", env=[{"name": "FIRST", "value": 1}]),
    _spec("one variable twice", "env", env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
    _spec("variables as an object", "env", env={"A": "1"}),
    _spec("half a key", "env", env=[_from(secretKeyRef=BANK)]),
    _spec("a Secret of another namespace", "env", env=[_from(secretKeyRef={**KEY, "namespace": "other"})]),
    _spec("a Secret by a path", "envFrom", envFrom=[{"secretRef": {"name": "other/bank"}}]),
    _spec("a URL for a Service", "handler.http", handler={"http": {"url": "http://169.254.169.254/"}}),
    _spec("a Service without a name", "handler.http.service", handler={"http": {"port": 80}}),
    _spec("a port by name", "handler.http.port", handler={"http": {"service": "billing", "port": "http"}}),
    _spec("port 0", "handler.http.port", handler={"http": {"service": "billing", "port": 0}}),
    _spec("a label that is no label", "podLabels", podLabels={"team": "the shop"}),
    _spec("a number for a label", "podLabels", podLabels={"team": 1}),
    _spec("another effect", "tolerations", tolerations=[{**ANY_TAINT, "effect": "Never"}]),
    _spec("another operator", "tolerations", tolerations=[{"key": "a", "operator": "NotIn"}]),
    _spec("no skew", "topologySpreadConstraints", topologySpreadConstraints=[{"topologyKey": "zone", "maxSkew": 0}]),
    _spec("nothing to spread over", "topologySpreadConstraints", topologySpreadConstraints=[{"maxSkew": 1}]),
    _spec("no name of a class", "priorityClassName", priorityClassName="High Priority"),
    _spec("no class", "runtimeClassName", runtimeClassName=""),
    _spec("one pull secret twice", "imagePullSecrets", imagePullSecrets=[BANK, BANK]),
    _spec("a share of more than all", "rollout.maxUnavailable", rollout={"maxUnavailable": "101%"}),
    _spec("fewer than no pods gone", "rollout.maxSurge", rollout={"maxSurge": -1}),
    _spec("a share in words", "podDisruptionBudget.maxUnavailable", podDisruptionBudget={"maxUnavailable": "half"}),
    _spec("half a pod", "podDisruptionBudget.maxUnavailable", podDisruptionBudget={"maxUnavailable": 0.5}),
    _spec("text for suspend", "suspend", suspend="yes"),
    _spec("a service account", "serviceAccountName", serviceAccountName="admin"),
    _spec("volumes", "volumes", volumes=[{"name": "docker", "hostPath": {"path": "/"}}]),
    _spec("no quantity", "resources.limits", resources={"limits": {"memory": "much"}}),
    _spec("a quantity below nothing", "resources.limits.cpu", resources={"limits": {"cpu": -1}}),
    _spec("a quantity as a fraction", "resources.limits.cpu", resources={"limits": {"cpu": 0.5}}),
    _spec("a quantity as yes", "resources.limits.cpu", resources={"limits": {"cpu": True}}),
    _spec("a string for Redis", "redis", redis="redis://redis"),
]
"""Refused by type or bound, each side in its own words."""

RIGHT = {
    "the smallest": manifest(),
    "nulls": manifest(replicas=None, image=None, env=None, delivery={"backoff": {"minDelay": None}}),
    "no pods": manifest(replicas=0),
    "a URL from a Secret": manifest(redis={"urlSecretRef": SECRET}),
    "a user and a password from Secrets": manifest(
        redis={"url": "rediss://redis", "usernameSecretRef": SECRET, "passwordSecretRef": SECRET}
    ),
    "certificates": manifest(redis={**TLS, "tls": {"caSecretRef": SECRET, "certSecretRef": {"name": "redis-client"}}}),
    "certificates for a URL that only the pod knows": manifest(
        redis={"urlSecretRef": SECRET, "tls": {"insecureSkipVerify": True}}
    ),
    "sentinels": manifest(redis={"url": "redis:///0", "sentinel": SENTINEL, "cluster": False}),
    "sentinels with credentials": manifest(
        redis={**TLS, "sentinel": {**SENTINEL, "usernameSecretRef": SECRET, "passwordSecretRef": SECRET}}
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
        env=[_from(secretKeyRef={**KEY, "optional": True}), {"name": "B", "valueFrom": {"configMapKeyRef": KEY}}],
        envFrom=[_all("BANK_"), {"configMapRef": {"name": "shop", "optional": True}}],
    ),
    "a value from elsewhere, and an empty one": manifest(env=[{**_from(secretKeyRef=KEY), "value": ""}]),
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
        imagePullSecrets=[BANK, {"name": "registry"}],
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
