"""Checks of a manifest around its spec: kind, metadata, unknown fields, and the size of the spec.

The API server performs the same checks on each manifest that it stores. A manifest from a file has not passed these
checks yet.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from difflib import SequenceMatcher
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from streamconsumer.model import names
from streamconsumer.model.field_hints import MIN_SIMILARITY, field_path, quote_name
from streamconsumer.model.fields import Model, Pattern, format_errors
from streamconsumer.model.name_fields import LABEL_KEY, NAMESPACE, OBJECT_NAME, LabelValue
from streamconsumer.model.structural_schema import Schema, structural_schema

MAX_NAMESPACE_LENGTH = 63
MAX_PREFIX_LENGTH = 253
MAX_ANNOTATION_BYTES = 262_144

MAX_ITEMS = 500
"""Maximum number of items of a list or an object in a spec. The limit of each field is lower than this number."""

ANNOTATIONS_TOO_LARGE = f"must have at most {MAX_ANNOTATION_BYTES} bytes in all keys and values together"
GENERATED_NAME = "metadata.name is missing; it is required, also if metadata.generateName is set"

Manifest = Mapping[str, Any]


# -- kind --------------------------------------------------------------------------------------------------------------


def resembles_consumer(document: Manifest) -> bool:
    """Return True if the document is a StreamConsumer, or if its author probably meant a StreamConsumer.

    In this case, the API group or the spelling of the kind is similar, or the kind is missing and the spec has the
    fields of a StreamConsumer. A kind of another API group must have the same spelling except for case and plural."""
    kind, group = str(document.get("kind")), str(document.get("apiVersion") or "").partition("/")[0]
    if _is_similar(group, names.GROUP) or kind.lower().removesuffix("s") == names.KIND.lower():
        return True
    spec = document.get("spec")
    has_fields = isinstance(spec, dict) and {"stream", "consumerGroup"} <= set(spec)
    return (not group and _is_similar(kind, names.KIND)) or ("kind" not in document and has_fields)


def _is_similar(found: str, expected: str) -> bool:
    return SequenceMatcher(None, found.lower(), expected.lower()).ratio() >= MIN_SIMILARITY


def kind_error(document: Manifest) -> str:
    """Return the error if the document is not a StreamConsumer, or an empty text."""
    expected = {"apiVersion": names.API_VERSION, "kind": names.KIND}
    if all(document.get(field) == value for field, value in expected.items()):
        return ""
    found = f"found {quote_name(document.get('apiVersion'))} {quote_name(document.get('kind'))}"
    remedies = [f"`{field}: {value}`" for field, value in expected.items() if document.get(field) != value]
    return f"{found}, expected {names.API_VERSION} {names.KIND}; write {' and '.join(remedies)}"


# -- size --------------------------------------------------------------------------------------------------------------


def size_error(spec: Any) -> str:
    """Return the error if the spec was stored without validation, and is so large that a validation would take too
    long. Return an empty text otherwise."""
    items = spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ()
    if len(items) > MAX_ITEMS:
        found = f"found {len(items)} items in a list or an object"
        return f"spec: {found}, expected at most {MAX_ITEMS}; remove items"
    return next(filter(None, map(size_error, items)), "")


# -- metadata ----------------------------------------------------------------------------------------------------------


def object_name(metadata: Any) -> tuple[str, str]:
    """Return the name and the namespace of the object, for messages and for the parsed object."""
    fields = metadata if isinstance(metadata, dict) else {}
    return str(fields.get("name") or ""), str(fields.get("namespace") or "default")


def metadata_errors(metadata: Any) -> list[str]:
    """Check the fields of the metadata that the operator reads."""
    if not isinstance(metadata, dict | None):
        return ['metadata must be an object, such as {"name": "orders"}']
    metadata = metadata or {}
    errors = []
    name, namespace, generation = (metadata.get(each) for each in ("name", "namespace", "generation"))
    if name in (None, ""):
        errors.append(GENERATED_NAME if metadata.get("generateName") else "metadata.name is missing; it is required")
    elif not isinstance(name, str):
        errors.append(_not_text("metadata.name", name, "orders"))
    elif not OBJECT_NAME.matches(name):
        errors.append(f"metadata.name is {name!r:.80}: {OBJECT_NAME.message}")
    if not isinstance(namespace, str | None):
        errors.append(_not_text("metadata.namespace", namespace, "shop"))
    elif namespace and (len(namespace) > MAX_NAMESPACE_LENGTH or not NAMESPACE.matches(namespace)):
        errors.append(f"metadata.namespace is {namespace!r:.80}: {NAMESPACE.message}")
    if generation is not None and type(generation) is not int:
        errors.append(f"metadata.generation is {generation!r:.80}: must be an integer")
    return errors


def _not_text(path: str, value: Any, example: str) -> str:
    is_scalar = isinstance(value, int | float)
    return f'{path} is {value!r:.80}: must be text in quotes, such as "{value if is_scalar else example!s:.80}"'


def _check_qualified_name(name: str) -> str:
    """Check the name as the API server does. Only the prefix has a maximum length that no pattern limits."""
    if not LABEL_KEY.matches(name) or len(name.rpartition("/")[0]) > MAX_PREFIX_LENGTH:
        raise ValueError(LABEL_KEY.message)
    return name


def _check_annotation_key(name: str) -> str:
    """Check the key of an annotation. Its prefix can contain upper-case letters."""
    _check_qualified_name(name.lower())
    return name


def _check_annotations(annotations: dict[str, str]) -> dict[str, str]:
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > MAX_ANNOTATION_BYTES:
        raise ValueError(ANNOTATIONS_TOO_LARGE)
    return annotations


def _check_time(text: str) -> str:
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\.[0-9]+)?(Z|[+-][0-9:]{5})", text):
        raise ValueError('must be a time such as "2026-01-31T12:00:00Z"')
    datetime.fromisoformat(re.sub(r"\.[0-9]+", "", text))
    return text


def _check_generate_name(text: str) -> str:
    if text and not OBJECT_NAME.matches(re.sub("(?<=.)-$", "a", text)):
        raise ValueError(OBJECT_NAME.message)
    return text


_QualifiedName = Annotated[str, AfterValidator(_check_qualified_name)]
_AnnotationKey = Annotated[str, AfterValidator(_check_annotation_key)]
_Time = Annotated[str, AfterValidator(_check_time)]
_RequiredText = Annotated[str, Field(min_length=1)]


class OwnerReference(Model):
    """Reference to the object that owns the object of the manifest."""

    api_version: Annotated[str, Pattern("([^/]+/)?[^/]+", "must be a group and a version, such as apps/v1")]
    kind: _RequiredText
    name: _RequiredText
    uid: _RequiredText
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ManagedFieldsEntry(Model):
    """Fields that one manager owns."""

    manager: str = ""
    operation: str = ""
    api_version: str = ""
    time: _Time | None = None
    fields_type: str = ""
    fields_v1: dict[str, Any] = Field(default={}, alias="fieldsV1")
    subresource: str = ""


class ObjectMetadata(Model):
    """Metadata of an object. `metadata_errors` checks the fields without a type."""

    name: Any = None
    namespace: Any = None
    generation: Any = None
    generate_name: Annotated[str, AfterValidator(_check_generate_name)] = ""
    labels: dict[_QualifiedName, LabelValue] = Field(default={}, examples=[{"team": "shop"}])
    annotations: Annotated[dict[_AnnotationKey, str], AfterValidator(_check_annotations)] = Field(
        default={}, examples=[{"note": "text"}]
    )
    finalizers: list[_QualifiedName] = Field(default=[], examples=[["example.com/cleanup"]])
    owner_references: list[OwnerReference] = Field(default=[])
    managed_fields: list[ManagedFieldsEntry] = Field(default=[])
    uid: str = ""
    resource_version: str = ""
    self_link: str = ""
    creation_timestamp: _Time | None = None
    deletion_timestamp: _Time | None = None
    deletion_grace_period_seconds: int | None = None


def file_metadata_errors(metadata: Any, schema: Schema) -> list[str]:
    """Check the other fields of the metadata, which only the API server checks for a stored object. `schema` contains
    the examples for the error messages."""
    try:
        ObjectMetadata.model_validate(metadata, strict=True)
    except ValidationError as error:
        return format_errors(error, lambda path: field_path(path, "metadata"), schema)
    return []


def metadata_schema() -> Schema:
    """Return the schema of the metadata."""
    return structural_schema(ObjectMetadata, with_examples=True)
