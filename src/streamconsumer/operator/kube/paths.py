"""Paths and label selectors of requests to the Kubernetes API. No other module builds a path.

A name that contained `/`, `..` or `?` would make a request refer to another object or kind. Each part of a path is
therefore checked against a pattern for valid names, and also percent-encoded. The parts come from the API server, from
a StreamConsumer or from the command line.
"""

from collections.abc import Mapping
from urllib.parse import quote

from streamconsumer.errors import InvalidResource
from streamconsumer.model import names
from streamconsumer.model.fields import Pattern
from streamconsumer.model.name_fields import LABEL_KEY, LABEL_VALUE, NAMESPACE, OBJECT_NAME

MAX_NAME_LENGTH, MAX_LABEL_LENGTH = 253, 63

_PLURALS = {
    "ServiceAccount": "serviceaccounts",
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "Pod": "pods",
    "Event": "events",
    "Secret": "secrets",
    "Lease": "leases",
    "CustomResourceDefinition": "customresourcedefinitions",
    "SelfSubjectAccessReview": "selfsubjectaccessreviews",
    "LocalSubjectAccessReview": "localsubjectaccessreviews",
    "SelfSubjectReview": "selfsubjectreviews",
    names.KIND: names.PLURAL,
}


def group_version_path(api_version: str) -> str:
    """Return the path of the list of all kinds that the API server serves in this version of an API group."""
    return f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"


def collection_path(api_version: str, kind: str, namespace: str | None) -> str:
    """Return the path of all objects of a kind. `namespace` is None for all namespaces, and for a kind without
    namespaces. Raises InvalidResource if the namespace is not a valid name."""
    scope = "" if namespace is None else f"/namespaces/{_segment('namespace', namespace, NAMESPACE, MAX_LABEL_LENGTH)}"
    return f"{group_version_path(api_version)}{scope}/{_PLURALS[kind]}"


def object_path(api_version: str, kind: str, namespace: str | None, name: str, subresource: str = "") -> str:
    """Return the path of one object, or of a subresource such as `status`. Raises InvalidResource if the namespace or
    the name is not valid."""
    path = f"{collection_path(api_version, kind, namespace)}/{_segment(kind, name, OBJECT_NAME, MAX_NAME_LENGTH)}"
    return f"{path}/{subresource}" if subresource else path


def label_selector(labels: Mapping[str, str]) -> str:
    """Return the selector of objects that have all the given labels. Raises InvalidResource if a label is not valid."""
    return ",".join(
        f"{_checked('label', key, LABEL_KEY, MAX_NAME_LENGTH)}={_checked(key, value, LABEL_VALUE, MAX_LABEL_LENGTH)}"
        for key, value in labels.items()
    )


def _segment(subject: str, text: str, pattern: Pattern, max_length: int) -> str:
    return quote(_checked(subject, text, pattern, max_length), safe="")


def _checked(subject: str, text: str, pattern: Pattern, max_length: int) -> str:
    if len(text) > max_length or not pattern.matches(text):
        raise InvalidResource(f"{subject} {text!r:.80}: {pattern.message}, with at most {max_length} characters")
    return text
