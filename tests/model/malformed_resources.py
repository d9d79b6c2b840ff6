"""Malformed StreamConsumers, generated from the CRD schema with fixed seeds. The API server would reject them."""

from random import Random
from typing import Any

from streamconsumer.model.spec import StreamConsumerSpec
from streamconsumer.model.structural_schema import Schema, structural_schema
from tests.model.examples import Manifest, manifest

FIELDS: Schema = structural_schema(StreamConsumerSpec)["properties"]

MALFORMED_VALUES: list[Any] = [
    *(None, True, -1, 0, 2**63 - 1, 1e300),
    *("", " ", "x" * 5000, "\n\t\x7f\u202e", "🦊" * 300, "null", "../../etc/passwd"),
    *([], {}, [[]], [None], [1, "a", {}], {"": ""}, {"a": {"b": [{"c": None}]}}, [{}] * 50, {"name": 3}, "{{ x }}"),
]
"""Values that are invalid in almost every field."""

MALFORMED_SPECS: list[Any] = [
    *({}, {"redis": "text", "stream": [], "handler": 1}, {"redis": [], "autoscaling": True}),
    *({"redis": {"sentinel": "text"}, "env": {"a": 1}}, {"suspend": "true"}, "text", 7, [], True, None),
]
"""Malformed values for the whole spec."""

MALFORMED_RATIO = 0.1
"""Probability that a value has a wrong type. It is low, so that some resources pass the first checks."""


def malformed_manifest(number: int, namespace: str, **spec: Any) -> Manifest:
    """Return the malformed StreamConsumer with this number. `spec` replaces fields that are not malformed."""
    dice = Random(number)
    base = manifest(f"malformed-{number}", namespace, **spec)
    if number < len(MALFORMED_SPECS):
        return {**base, "spec": MALFORMED_SPECS[number]}
    chosen = dice.sample(list(FIELDS), dice.randint(1, 3))
    return {**base, "spec": {**base["spec"], **{name: _value(FIELDS[name], dice) for name in chosen}}}


def _value(schema: Schema, dice: Random) -> Any:
    """Return a value for the schema: of a wrong type, or of the right type with possibly invalid content."""
    if dice.random() < MALFORMED_RATIO:
        return dice.choice(MALFORMED_VALUES)
    match schema.get("type"):
        case "object":
            declared = {
                name: _value(inner, dice) for name, inner in schema.get("properties", {}).items() if dice.random() < 0.5
            }
            additional = schema.get("additionalProperties")
            extra = {dice.choice(["a", "", "A b"]): _value(additional, dice)} if isinstance(additional, dict) else {}
            return {**declared, **extra}
        case "array":
            return [_value(schema["items"], dice) for _ in range(dice.randrange(3))]
        case "integer":
            return dice.choice([-1, 0, 1, 3, 2**31, 2**63 - 1])
        case "boolean":
            return dice.random() < 0.5
    return dice.choice([*schema.get("enum", ()), "1s", "orders", "A_b", "-", "redis://:pw@h/", "0", "x" * 300])
