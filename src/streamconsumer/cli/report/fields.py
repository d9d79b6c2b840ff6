"""The fields that a bundle contains, and the function that copies them. Pure.

A field that is not named here is not in a bundle, whether or not the CRD or a newer Kubernetes knows the field.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any

from streamconsumer.model import names


class Leaf(Enum):
    """A field without named fields below it."""

    VALUE = "a text, a number or a boolean"
    KEYS = "the keys of a map, without its values"
    MAP = "a map of texts, numbers and booleans"


Shape = dict[str, Any] | list[Any] | Leaf
"""The named fields of an object; the shape of each item of a list, in a list of one; or a leaf."""


def allowed(value: Any, shape: Shape, clean: Callable[[str], str]) -> Any:
    """Copy the fields that the shape names. Texts pass through `clean`. A value of another type becomes None."""
    match shape, value:
        case dict(), dict():
            return {name: allowed(value[name], inner, clean) for name, inner in shape.items() if name in value}
        case [inner], list():
            return [allowed(each, inner, clean) for each in value]
        case Leaf.KEYS, dict():
            return [clean(str(name)) for name in value]
        case Leaf.MAP, dict():
            return {clean(str(name)): allowed(each, Leaf.VALUE, clean) for name, each in value.items()}
        case Leaf.VALUE, str() | int() | float():
            return clean(value) if isinstance(value, str) else value
    return None


def _values(*fields: str) -> dict[str, Any]:
    return dict.fromkeys(fields, Leaf.VALUE)


_METADATA = _values("namespace", "name", "uid", "generation", "creationTimestamp", "deletionTimestamp")
_KEY = _values("name", "key")
_VARIABLE = _values("name", "key", "optional")
_SCALING = {**_values("stabilizationWindow"), "policies": [_values("type", "value", "period")]}

SPEC: Shape = {
    **_values("stream", "consumerGroup", "startFrom", "batchCount", "pollInterval", "concurrency", "orderingKey"),
    **_values("encoding", "drainTimeout", "image", "imagePullPolicy", "replicas"),
    **_values("suspend", "priorityClassName", "runtimeClassName"),
    "delivery": {
        **_values("minIdle", "maxDeliveries", "timeout", "maxEntryBytes", "deadLetterStream", "deadLetterMaxLength"),
        "backoff": _values("minDelay", "maxDelay"),
        "terminalErrors": [Leaf.VALUE],
        "breaker": _values("failures", "maxPause"),
    },
    "retention": _values("maxAge", "acknowledged"),
    "env": [{**_values("name"), "valueFrom": {"secretKeyRef": _VARIABLE, "configMapKeyRef": _VARIABLE}}],
    "envFrom": [{**_values("prefix"), **dict.fromkeys(("secretRef", "configMapRef"), _values("name", "optional"))}],
    "resources": {"requests": Leaf.MAP, "limits": Leaf.MAP},
    "podLabels": Leaf.KEYS,
    "podAnnotations": Leaf.KEYS,
    "nodeSelector": Leaf.KEYS,
    "tolerations": [_values("key", "operator", "effect", "tolerationSeconds")],
    "topologySpreadConstraints": [_values("topologyKey", "maxSkew", "whenUnsatisfiable")],
    "imagePullSecrets": [_values("name")],
    "podDisruptionBudget": _values("maxUnavailable"),
    "rollout": _values("maxUnavailable", "maxSurge", "progressDeadline"),
    "redis": {
        **_values("url", "cluster"),
        **dict.fromkeys(("urlSecretRef", "usernameSecretRef", "passwordSecretRef"), _KEY),
        "tls": {**_values("insecureSkipVerify"), "caSecretRef": _KEY, "certSecretRef": _values("name")},
        "sentinel": {
            **_values("masterName"),
            "nodes": [Leaf.VALUE],
            "usernameSecretRef": _KEY,
            "passwordSecretRef": _KEY,
        },
    },
    "handler": {**_values("python", "batch"), "http": _values("service", "port", "path")},
    "autoscaling": {
        **_values("minReplicas", "maxReplicas", "cooldown"),
        "target": _values("backlogPerReplica", "drainTime"),
        "activation": _values("backlog"),
        "scaleUp": _SCALING,
        "scaleDown": _SCALING,
        "fallback": _values("replicas", "after"),
    },
    "telemetry": {
        **_values("context", "contextField", "endpoint"),
        **_values("samplingRatio"),
        "baggage": [Leaf.VALUE],
    },
}

_CONDITION = _values("type", "status", "reason", "message", "lastTransitionTime", "observedGeneration")
_FIGURES = {
    **_values("length", "lag", "lagKnown", "pending", "oldestPendingTime", "consumers", "deadLetters"),
    **_values("lastDeliveredId"),
}

STATUS: Shape = {
    **_values("observedGeneration", "desiredReplicas", "replicas", "readyReplicas", "selector"),
    "conditions": [_CONDITION],
    "effective": _values("image", "imagePullPolicy", "telemetryEndpoint"),
    "stream": _FIGURES,
    "autoscaling": _values("desiredReplicas", "reason", "message", "decisionTime"),
}

STREAMCONSUMER: Shape = {**_values("apiVersion", "kind"), "metadata": _METADATA, "spec": SPEC, "status": STATUS}

_FINDING = _values("severity", "object", "found", "expected", "advice")

STATUS_OUTPUT: Shape = {
    **_values("namespace", "name", "stream", "consumerGroup", "generation", "suspended"),
    "status": STATUS,
    "pods": [_values("name", "phase", "ready", "restarts", "lastWords")],
    "redis": {
        **_values("by", "problem"),
        "figures": _FIGURES,
        "consumers": [_values("name", "pending", "idleSeconds", "isPod")],
        "oldest": [_values("messageId", "consumer", "idleSeconds", "deliveries")],
    },
    "findings": [_FINDING],
}
"""One item of `status -o json`."""

_VERDICT = {"checked": [_values("object", "found")], "findings": [_FINDING]}

DOCTOR_OUTPUT: Shape = {"cluster": _VERDICT, "pod": {**_values("name"), **_VERDICT}}
"""`doctor -o json`."""

EVENT: Shape = {
    **_values("type", "reason", "note", "eventTime", "deprecatedFirstTimestamp", "deprecatedLastTimestamp"),
    **_values("deprecatedCount", "reportingController"),
    "metadata": _values("creationTimestamp"),
    "series": _values("count", "lastObservedTime"),
    "regarding": _values("kind", "namespace", "name", "uid"),
}

_OWN_LABELS = _values(names.LABEL_CONSUMER, names.LABEL_MANAGED_BY)
_CONTAINER = {
    **_values("name", "image", "imagePullPolicy", "terminationMessagePolicy"),
    "ports": [_values("name", "containerPort", "protocol")],
    "resources": {"requests": Leaf.MAP, "limits": Leaf.MAP},
}

DEPLOYMENT: Shape = {
    **_values("apiVersion", "kind"),
    "metadata": {
        **_METADATA,
        "labels": _OWN_LABELS,
    },
    "spec": {
        **_values("replicas", "minReadySeconds", "progressDeadlineSeconds", "paused"),
        "strategy": {**_values("type"), "rollingUpdate": _values("maxUnavailable", "maxSurge")},
        "template": {
            "metadata": {"labels": _OWN_LABELS},
            "spec": {
                **_values("serviceAccountName", "terminationGracePeriodSeconds", "priorityClassName"),
                **_values("runtimeClassName", "restartPolicy", "hostNetwork"),
                "containers": [_CONTAINER],
                "initContainers": [_CONTAINER],
                "imagePullSecrets": [_values("name")],
            },
        },
    },
    "status": {
        **_values("observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas"),
        **_values("unavailableReplicas", "terminatingReplicas", "collisionCount"),
        "conditions": [{**_CONDITION, **_values("lastUpdateTime")}],
    },
}

METRICS: Shape = [
    {
        **_values("name", "value"),
        "labels": _values("resource_namespace", "resource_name", "stream", "consumer_group", "le", "outcome"),
    }
]
"""The samples of one pod."""

VERSIONS: Shape = {
    **_values("streamconsumer"),
    "kubernetes": _values("gitVersion", "platform", "goVersion"),
}
