"""Environment variables for the handler: `spec.env` and `spec.envFrom`, as in a container.

The values are in the spec, or in Secrets and ConfigMaps of the namespace. The kubelet sets the variables when a
container starts. The operator reads the Secrets and ConfigMaps only to notice a change.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from streamconsumer.model import names
from streamconsumer.model.fields import Model, Pattern, cel_rules
from streamconsumer.model.name_fields import ObjectKey, ObjectName

RESERVED_VARIABLE_MESSAGE = (
    "names that begin with STREAMCONSUMER_ are reserved for the operator; use the corresponding field of spec"
)
RESERVED_PREFIX_MESSAGE = (
    "a prefix must not begin with STREAMCONSUMER_, which is reserved for the operator; use the fields of spec"
)
ONE_VALUE = "set value or valueFrom, not both"
ONE_KEY = "set exactly one of secretKeyRef and configMapKeyRef"
ONE_SOURCE = "set exactly one of secretRef and configMapRef"

VariableName = Annotated[
    str,
    Field(max_length=253),
    Pattern(
        "[A-Za-z_][A-Za-z0-9_]*", "must contain only letters, digits and _, and must not begin with a digit", "DEBUG"
    ),
]


class KeySelector(Model):
    """Key of a Secret or ConfigMap in the namespace of the StreamConsumer."""

    name: ObjectName
    """Name of the referenced object."""

    key: ObjectKey
    """Key in the Secret or ConfigMap."""

    optional: bool = False
    """If true, the pod starts even if the key does not exist. Without the key, the environment variable is not set."""


class LocalObjectReference(Model):
    """Secret or ConfigMap in the namespace of the StreamConsumer."""

    name: ObjectName
    """Name of the referenced object."""

    optional: bool = False
    """If true, the pod starts even if the Secret or ConfigMap does not exist. The variables of a
    missing Secret or ConfigMap are not set."""


class EnvVarSource(
    Model, json_schema_extra=cel_rules(("has(self.secretKeyRef) != has(self.configMapKeyRef)", ONE_KEY))
):
    """Source of a variable's value. The value is read when the container starts. If the value changes, the operator
    replaces the pods."""

    secret_key_ref: KeySelector | None = None
    """Key of a Secret."""

    config_map_key_ref: KeySelector | None = None
    """Key of a ConfigMap."""

    @model_validator(mode="after")
    def _check_one_key(self) -> Self:
        if (self.secret_key_ref is None) == (self.config_map_key_ref is None):
            raise ValueError(ONE_KEY)
        return self


class EnvVar(
    Model,
    json_schema_extra=cel_rules(
        (f"!self.name.startsWith('{names.ENVIRONMENT_PREFIX}')", RESERVED_VARIABLE_MESSAGE),
        ("!has(self.valueFrom) || !has(self.value) || self.value == ''", ONE_VALUE),
    ),
):
    """Environment variable for the handler."""

    name: VariableName
    """Name of the variable."""

    value: str = Field(default="", max_length=32_768)
    """Value of the variable."""

    value_from: EnvVarSource | None = None
    """Source of the value. Alternative to `value`."""

    @model_validator(mode="after")
    def _check_name_and_value(self) -> Self:
        if self.name.startswith(names.ENVIRONMENT_PREFIX):
            raise ValueError(RESERVED_VARIABLE_MESSAGE)
        if self.value_from and self.value:
            raise ValueError(ONE_VALUE)
        return self


class EnvFromSource(
    Model,
    json_schema_extra=cel_rules(
        ("has(self.secretRef) != has(self.configMapRef)", ONE_SOURCE),
        (
            f"!has(self.prefix) || !self.prefix.startsWith('{names.ENVIRONMENT_PREFIX}')",
            RESERVED_PREFIX_MESSAGE,
        ),
    ),
):
    """Environment variables for the handler from all keys of a Secret or ConfigMap. The values are read when the
    container starts."""

    secret_ref: LocalObjectReference | None = None
    """Secret with the variables."""

    config_map_ref: LocalObjectReference | None = None
    """ConfigMap with the variables."""

    prefix: VariableName | None = None
    """Prefix of the variables' names. The name of each variable is the prefix followed by the key."""

    @model_validator(mode="after")
    def _check_source_and_prefix(self) -> Self:
        if (self.secret_ref is None) == (self.config_map_ref is None):
            raise ValueError(ONE_SOURCE)
        if self.prefix and self.prefix.startswith(names.ENVIRONMENT_PREFIX):
            raise ValueError(RESERVED_PREFIX_MESSAGE)
        return self
