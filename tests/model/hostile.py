"""StreamConsumers that no API server with our definition would store, fuzzed from its schema: the same each time."""

from random import Random
from typing import Any

from streamconsumer.model.crd import Schema, structural_schema
from streamconsumer.model.spec import StreamConsumerSpec
from tests.model.examples import Manifest, manifest

FIELDS: Schema = structural_schema(StreamConsumerSpec)["properties"]

MALFORMED_VALUES: list[Any] = [
    *(None, True, -1, 0, 2**63 - 1, 1e300),
    *("", " ", "x" * 5000, "\n\t\x7f\u202e", "🦊" * 300, "null", "../../etc/passwd"),
    *([], {}, [[]], [None], [1, "a", {}], {"": ""}, {"a": {"b": [{"c": None}]}}, [{}] * 50, {"name": 3}, "{{ x }}"),
]
"""What fits almost nowhere, and might where nobody thought of it."""

MALFORMED_SPECS: list[Any] = [
    *({}, {"redis": "text", "stream": [], "handler": 1}, {"redis": [], "autoscaling": True}),
    *({"redis": {"sentinel": "text"}, "env": {"a": 1}}, {"suspend": "true"}, "text", 7, [], True, None),
]
"""In place of a whole spec."""

MALFORMED_RATIO = 0.1
"""How likely a value is of no right type: where everything is wrong, nothing gets past the first check."""


def malformed_manifest(number: int, namespace: str, **spec: Any) -> Manifest:
    """The hostile StreamConsumer of this number, called so. Where it does not get other ideas, it has this spec."""
    dice = Random(number)
    made = manifest(f"hostile-{number}", namespace, **spec)
    if number < len(MALFORMED_SPECS):
        return {**made, "spec": MALFORMED_SPECS[number]}
    chosen = dice.sample(list(FIELDS), dice.randint(1, 3))
    return {**made, "spec": {**made["spec"], **{name: _value(FIELDS[name], dice) for name in chosen}}}


def _value(schema: Schema, dice: Random) -> Any:
    """Sometimes of the right type; then what is in it may be wrong."""
    if dice.random() < MALFORMED_RATIO:
        return dice.choice(MALFORMED_VALUES)
    match schema.get("type"):
        case "object":
            known = {
                name: _value(each, dice) for name, each in schema.get("properties", {}).items() if dice.random() < 0.5
            }
            more = schema.get("additionalProperties")
            return {**known, **({dice.choice(["a", "", "A b"]): _value(more, dice)} if isinstance(more, dict) else {})}
        case "array":
            return [_value(schema["items"], dice) for _ in range(dice.randrange(3))]
        case "integer":
            return dice.choice([-1, 0, 1, 3, 2**31, 2**63 - 1])
        case "boolean":
            return dice.random() < 0.5
    return dice.choice([*schema.get("enum", ()), "1s", "orders", "A_b", "-", "redis://:pw@h/", "0", "x" * 300])
