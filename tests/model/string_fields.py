"""Every text field and every map key of a StreamConsumer's spec, with hostile values for each of them."""

import json
from collections.abc import Iterator
from typing import Any

from streamconsumer.model.spec import StreamConsumerSpec
from streamconsumer.model.structural_schema import Schema, structural_schema
from tests.model.examples import Manifest, manifest

Path = tuple[str | int, ...]
"""Path of a field in a spec. The part KEY stands for the only key of a map."""

KEY = "{key}"

FREE_TEXTS = ("handler.source", "env.0.value", f"podAnnotations.{KEY}", f"serviceAccountAnnotations.{KEY}")
"""Fields that name nothing: the content of a file, of a variable and of an annotation. The cloud, and not Kubernetes,
interprets the annotations of a ServiceAccount."""

ATTACKS = {
    "another namespace": "../../other/secrets/payroll",
    "another kind": "../configmaps/x",
    "a path": "a/b",
    "a parent": "..",
    "this folder": ".",
    "an encoded path": "%2e%2e%2fother",
    "a doubly encoded path": "%252e%252e%252fother",
    "a query": "x?watch=1",
    "a fragment": "a#b",
    "a backslash": "..\\other",
    "a fullwidth slash": "a\uff0fb",
    "a division slash": "a\u2215b",
    "Unicode dots": "\u2024\u2024/x",
    "one dot leader": "\u2025",
    "NUL": "a\0b",
    "a trailing line feed": "a\n",
    "a header": "a\r\nX-Evil: 1",
    "DEL": "a\x7f",
    "a C1 control": "a\x9b31m",
    "next line": "a\x85",
    "an escape sequence": "\x1b]0;x\x07",
    "a line separator": "a\u2028b",
    "a paragraph separator": "a\u2029",
    "an override": "a\u202egpj",
    "an isolate": "a\u2066b\u2069",
    "a bidi mark": "a\u200fb",
    "10 kB": "x" * 10_000,
    "a flag": "--token=x",
    "a space": " ",
    "an expansion": "$(STREAMCONSUMER_REDIS_PASSWORD)",
    "a letter of another script": "\u0430dmin",
    "a digit of another script": "\u0663",
}
"""Values that no name of Kubernetes may have. The names in Redis may have some of them."""

CONTROL_ATTACKS = (
    *("NUL", "a trailing line feed", "a header", "DEL", "a C1 control", "next line", "an escape sequence"),
    *("a line separator", "a paragraph separator", "an override", "an isolate", "a bidi mark", "10 kB"),
)
"""Attacks that are refused in every name."""

_REF, _KEY_REF = {"name": "a"}, {"name": "a", "key": "b"}

FULL_SPECS: list[Manifest] = [
    {
        "redis": {
            "url": "rediss://redis/0",
            "usernameSecretRef": _KEY_REF,
            "passwordSecretRef": _KEY_REF,
            "tls": {"caSecretRef": _KEY_REF, "certSecretRef": _REF},
            "sentinel": {
                "masterName": "primary",
                "nodes": ["sentinel:26379"],
                "usernameSecretRef": _KEY_REF,
                "passwordSecretRef": _KEY_REF,
            },
        },
        "startFrom": "0",
        "pollInterval": "1s",
        "orderingKey": "customer",
        "encoding": "utf-8",
        "drainTimeout": "1s",
        "logLevel": "DEBUG",
        "delivery": {
            "minIdle": "30s",
            "timeout": "1s",
            "backoff": {"minDelay": "1s", "maxDelay": "1s"},
            "terminalErrors": ["ValueError"],
            "deadLetterStream": "dead",
            "breaker": {"maxPause": "1m"},
        },
        "retention": {"maxAge": "1h"},
        "imagePullPolicy": "Always",
        "autoscaling": {
            "target": {"drainTime": "1m"},
            "cooldown": "1m",
            "scaleUp": {"stabilizationWindow": "1m", "policies": [{"type": "Pods", "value": 1, "period": "1m"}]},
            "scaleDown": {"stabilizationWindow": "1m", "policies": [{"type": "Pods", "value": 1, "period": "1m"}]},
            "fallback": {"replicas": 1, "after": "1m"},
        },
        "telemetry": {"context": "link", "contextField": "trace", "baggage": ["a"], "endpoint": "http://c:4318"},
        "env": [
            {"name": "A", "value": "x"},
            {"name": "B", "valueFrom": {"secretKeyRef": _KEY_REF}},
        ],
        "envFrom": [{"secretRef": _REF, "prefix": "A_"}],
        "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}},
        "podLabels": {"a": "b"},
        "podAnnotations": {"a": "b"},
        "serviceAccountAnnotations": {"eks.amazonaws.com/a": "b"},
        "nodeSelector": {"a": "b"},
        "tolerations": [{"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute"}],
        "topologySpreadConstraints": [{"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        "priorityClassName": "high",
        "runtimeClassName": "gvisor",
        "imagePullSecrets": [_REF],
        "podDisruptionBudget": {"maxUnavailable": "1"},
        "rollout": {"maxUnavailable": "1", "maxSurge": "1", "progressDeadline": "1m"},
    },
    {
        "redis": {"urlSecretRef": _KEY_REF},
        "handler": {"source": "def handle(data): ..."},
        "env": [{"name": "C", "valueFrom": {"configMapKeyRef": _KEY_REF}}],
        "envFrom": [{"configMapRef": _REF}],
    },
    {"handler": {"http": {"service": "billing", "path": "/orders"}}},
]
"""Valid specs that together contain every text field."""


def string_fields() -> Iterator[tuple[str, Schema]]:
    """Yield the path of every text field and every map key of the spec, with its schema. A key has no schema."""
    yield from _string_fields(structural_schema(StreamConsumerSpec), ())


def _string_fields(schema: Schema, path: Path) -> Iterator[tuple[str, Schema]]:
    if schema.get("type") == "string" or "x-kubernetes-int-or-string" in schema:
        yield ".".join(map(str, path)), schema
    for name, inner in schema.get("properties", {}).items():
        yield from _string_fields(inner, (*path, name))
    if "items" in schema:
        yield from _string_fields(schema["items"], (*path, 0))
    if "additionalProperties" in schema:
        yield ".".join([*map(str, path), KEY, "key"]), {}
        yield from _string_fields(schema["additionalProperties"], (*path, KEY))


def map_fields() -> Iterator[tuple[str, Schema]]:
    """Yield the path of every map of the spec, with its schema."""
    yield from _map_fields(structural_schema(StreamConsumerSpec), ())


def _map_fields(schema: Schema, path: Path) -> Iterator[tuple[str, Schema]]:
    if "additionalProperties" in schema:
        yield ".".join(map(str, path)), schema
    for name, inner in schema.get("properties", {}).items():
        yield from _map_fields(inner, (*path, name))


def with_value(field: str, value: Any, name: str = "orders") -> Manifest:
    """Return a valid manifest except for the value of the field."""
    path = [int(part) if part.isdecimal() else part for part in field.split(".")]
    for full in FULL_SPECS:
        changed: Manifest = json.loads(json.dumps(manifest(name, **full)))  # no shared parts
        for position in range(2):  # of a list, whose items have different fields
            if _replace(changed["spec"], [position if part == 0 else part for part in path], value):
                return changed
    raise LookupError(f"{field} is in none of FULL_SPECS")


def _replace(node: Any, path: list[str | int], value: Any) -> bool:
    for part in path[:-1]:
        if part == KEY and path[-1] == "key":
            break
        node = _inner(node, part)
        if node is None:
            return False
    last = path[-1]
    if path[-2:] == [KEY, "key"]:
        ((key, inner),) = node.items()
        del node[key]
        node[value] = inner
    elif last == KEY:
        node[next(iter(node))] = value
    elif _inner(node, last) is None:
        return False
    else:
        node[last] = value
    return True


def _inner(node: Any, part: str | int) -> Any:
    if isinstance(node, list):
        return node[part] if isinstance(part, int) and part < len(node) else None
    return node.get(part) if isinstance(node, dict) else None
