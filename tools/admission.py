"""The ValidatingAdmissionPolicy: who writes a StreamConsumer must be able to have himself what its pods will have.

Computed from the definition, so that a new field that names a Secret is asked about without anybody's doing.

CEL has its price. One check of a right costs 350,000, one expression may cost 1,000,000 and all together 10,000,000:
so there is an expression for each Secret, and a bound on their number for those who may not read all of them.
"""

from collections.abc import Iterator
from typing import Any

from streamconsumer.model import names
from streamconsumer.model.crd import structural_schema
from streamconsumer.model.spec import StreamConsumerSpec

SECRETS = 16
"""How many Secrets may be named by who may not read all of the namespace: 350,000 each, of 10,000,000."""

_REFERENCES = ("secretref", "secretkeyref")
_LISTS = ("imagePullSecrets",)
_CREATE = "authorizer.group('{group}').resource('{resource}').namespace(request.namespace).check('create').allowed()"
_GET = "authorizer.group('').resource('secrets').namespace(request.namespace){name}.check('get').allowed()"
_ALL = "variables.everySecret || size(variables.secrets) <= "

MAKES_PODS = (
    "who writes a StreamConsumer has pods made in its namespace: this needs the right to create pods or deployments "
    "there, which you have not"
)
TOO_MANY = (
    f"names more than {SECRETS} Secrets: this needs the right to get all Secrets of the namespace, which you have not"
)
UNREADABLE = (
    "'a StreamConsumer hands its pods the Secrets that it names: this needs the right to get each, "
    "and you may not get Secret ' + variables.secrets[{}]"
)


def policy(name: str) -> list[dict[str, Any]]:
    """The policy and its binding, without labels."""
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy"}
    binding = {**kind, "kind": "ValidatingAdmissionPolicyBinding"}
    return [
        {**kind, "metadata": {"name": name}, "spec": _spec()},
        {**binding, "metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}},
    ]


def _spec() -> dict[str, Any]:
    rule = {
        "apiGroups": [names.GROUP],
        "apiVersions": ["*"],
        "operations": ["CREATE", "UPDATE"],
        "resources": [names.PLURAL],
    }
    return {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [rule]},
        "matchConditions": [
            # Metadata such as labels and finalizers gives no rights, and garbage collectors write finalizers.
            {"name": "spec", "expression": "oldObject == null || object.spec != oldObject.spec"}
        ],
        "variables": [
            {"name": "pods", "expression": _CREATE.format(group="", resource="pods")},
            {"name": "deployments", "expression": _CREATE.format(group="apps", resource="deployments")},
            {"name": "everySecret", "expression": _GET.format(name="")},
            {"name": "secrets", "expression": " + ".join(secrets())},
        ],
        "validations": [
            {"expression": "variables.pods || variables.deployments", "message": MAKES_PODS, "reason": "Forbidden"},
            {"expression": f"{_ALL}{SECRETS}", "message": TOO_MANY, "reason": "Forbidden"},
            *map(_readable, range(SECRETS)),
        ],
    }


def _readable(position: int) -> dict[str, str]:
    check = _GET.format(name=f".name(variables.secrets[{position}])")
    return {
        "expression": f"{_ALL}{position} || {check}",
        "messageExpression": UNREADABLE.format(position),
        "reason": "Forbidden",
    }


def secrets() -> list[str]:
    """A CEL list for each field of the spec that names a Secret."""
    schema = structural_schema(StreamConsumerSpec)
    single = [f"object.spec{path}.?name" for path in _references(schema, "")]
    return [f"[{', '.join(f'?{each}' for each in single)}]", *_lists(schema, "object.spec")]


def _references(schema: dict[str, Any], path: str) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        if name.lower().endswith(_REFERENCES):
            yield f"{path}.?{name}"
        elif field.get("type") == "object":
            yield from _references(field, f"{path}.?{name}")


def _lists(schema: dict[str, Any], path: str) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.?{name}"
        if field.get("type") == "object":
            yield from _lists(field, here)
        elif field.get("type") == "array":
            found = [""] if name in _LISTS else list(_references(field["items"], ""))
            for inner in found:
                item = f"each{inner}"
                yield (
                    f"{here}.orValue([]).filter(each, each{inner}.?name.hasValue())"
                    f".map(each, {item.replace('?', '')}.name)"
                )
