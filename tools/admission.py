"""ValidatingAdmissionPolicy that prevents privilege escalation: the author of a StreamConsumer needs all permissions
that its pods get.

The policy is computed from the CRD, so it automatically covers new fields that name a Secret.

The API server limits the cost of CEL. A permission check costs 350,000 units. An expression may cost 1,000,000 units,
and a policy 10,000,000 units. The policy therefore has one expression per Secret. If the author is not allowed to read
all Secrets of the namespace, the policy also limits the number of Secrets.
"""

from collections.abc import Iterator
from typing import Any

from streamconsumer.model import names
from streamconsumer.model.fields import cel_matches
from streamconsumer.model.name_fields import OBJECT_NAME
from streamconsumer.model.spec import StreamConsumerSpec
from streamconsumer.model.structural_schema import structural_schema

SECRETS = 16
"""Maximum number of Secrets that an author may name without permission to read all Secrets of the namespace. Each check
costs 350,000 of the 10,000,000 units that the policy may cost."""

_SECRETS = ("secretref", "secretkeyref", "imagepullsecrets")
_CONFIG_MAPS = ("configmapref", "configmapkeyref")
"""Ends of the names of fields that refer to a Secret or a ConfigMap, in lower case."""

_CREATE = "authorizer.group('{group}').resource('{resource}').namespace(request.namespace).check('create').allowed()"
_GET = "authorizer.group('').resource('secrets').namespace(request.namespace){name}.check('get').allowed()"
_ALL = "variables.everySecret || size(variables.secrets) <= "

MAKES_PODS = "a StreamConsumer creates pods in its namespace, so you need permission to create pods or deployments"
TOO_MANY = f"spec names more than {SECRETS} Secrets, so you need permission to get all Secrets of the namespace"
UNREADABLE = (
    "'a StreamConsumer passes the Secrets that it names to its pods, so "
    "you need permission to get Secret ' + variables.secrets[{}]"
)
NOT_A_NAME = f"spec contains an invalid name of a Secret or ConfigMap; each name {OBJECT_NAME.message}"
"""The CRD rejects such a name as well. The policy also applies with an older CRD, and to users who are allowed to get
every Secret of the namespace: with a path as its name, a Secret of another namespace would be read."""


def policy(name: str) -> list[dict[str, Any]]:
    """Return the policy and its binding, without labels."""
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
            # Metadata is not checked: labels and finalizers grant no permissions, and controllers write finalizers.
            {"name": "spec", "expression": "oldObject == null || object.spec != oldObject.spec"}
        ],
        "variables": [
            {"name": "pods", "expression": _CREATE.format(group="", resource="pods")},
            {"name": "deployments", "expression": _CREATE.format(group="apps", resource="deployments")},
            {"name": "everySecret", "expression": _GET.format(name="")},
            {"name": "secrets", "expression": " + ".join(object_names(_SECRETS))},
            {"name": "configMaps", "expression": " + ".join(object_names(_CONFIG_MAPS))},
        ],
        "validations": [
            {"expression": "variables.pods || variables.deployments", "message": MAKES_PODS, "reason": "Forbidden"},
            {"expression": _are_names("secrets"), "message": NOT_A_NAME, "reason": "Forbidden"},
            {"expression": _are_names("configMaps"), "message": NOT_A_NAME, "reason": "Forbidden"},
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


def _are_names(variable: str) -> str:
    return f"variables.{variable}.all(name, {cel_matches(OBJECT_NAME.pattern, 'name')} && size(name) <= 253)"


def object_names(kind: tuple[str, ...]) -> list[str]:
    """Return CEL expressions for lists. The lists contain the names of all objects of a kind that the spec refers
    to."""
    schema = structural_schema(StreamConsumerSpec)
    paths = [f"object.spec{path}.?name" for path in _references(schema, "", kind)]
    return [f"[{', '.join(f'?{path}' for path in paths)}]", *_lists(schema, "object.spec", kind)]


def _references(schema: dict[str, Any], path: str, kind: tuple[str, ...]) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        if field.get("type") == "object" and name.lower().endswith(kind):
            yield f"{path}.?{name}"
        elif field.get("type") == "object":
            yield from _references(field, f"{path}.?{name}", kind)


def _lists(schema: dict[str, Any], path: str, kind: tuple[str, ...]) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        field_path = f"{path}.?{name}"
        if field.get("type") == "object":
            yield from _lists(field, field_path, kind)
        elif field.get("type") == "array":
            references = [""] if name.lower().endswith(kind) else list(_references(field["items"], "", kind))
            for inner in references:
                item = f"each{inner}"
                yield (
                    f"{field_path}.orValue([]).filter(each, each{inner}.?name.hasValue())"
                    f".map(each, {item.replace('?', '')}.name)"
                )
