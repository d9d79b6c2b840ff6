"""Ownership of fields: finds in `metadata.managedFields` the clients that own a field of an object. The functions have
no side effects.

The format of an item of `managedFields` is documented in
https://kubernetes.io/docs/reference/using-api/server-side-apply/ and in the Go package `structured-merge-diff`. For
example, `f:spec` is a field, and `k:{"name":"processor"}` is an item of a named list.
"""

import json
from contextlib import suppress
from typing import Any

from streamconsumer.model import names
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.reconcile.drift import Path, Step


def is_own(live: Manifest, path: Path) -> bool:
    """Return True if the operator has applied the field, and no other client owns the field.

    If another client changes or removes an applied field, the API server removes the field from the operator's item of
    `managedFields`. If an admission controller changes the field while the operator applies the object, the operator
    stays the owner."""
    owners = [each for each in live["metadata"].get("managedFields", []) if _contains(each.get("fieldsV1"), path)]
    return bool(owners) and all(map(_is_operator, owners))


def _is_operator(item: Manifest) -> bool:
    return (
        item.get("manager") == names.FIELD_MANAGER and item.get("operation") == "Apply" and not item.get("subresource")
    )


def _contains(fields: Any, path: Path) -> bool:
    """Return True if the set of fields contains the path, or an atomic field above the path."""
    for step in path:
        fields = _step_into(fields, step)
        if fields is None:
            return False
        if not fields:  # an atomic field, or a value
            return True
    return True


def _step_into(fields: Any, step: Step) -> Any:
    if not isinstance(fields, dict):
        return None
    if isinstance(step, str):
        return fields.get(f"f:{step}")
    key, value = step
    for name, item in fields.items():
        with suppress(ValueError):
            if name.startswith("k:") and json.loads(name.removeprefix("k:")).get(key) == value:
                return item
    return None
