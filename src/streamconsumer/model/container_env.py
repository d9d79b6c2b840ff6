"""Variables that a user gives the handler: as they are, or from Secrets and ConfigMaps of the namespace, which the
kubelet reads and the operator does not."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from streamconsumer.model import names
from streamconsumer.model.fields import Model, Pattern, cel_rules

RESERVED_VARIABLE_MESSAGE = (
    "names that begin with STREAMCONSUMER_ are set by the operator: use the field of spec instead"
)
RESERVED_PREFIX_MESSAGE = (
    "a prefix must not begin with STREAMCONSUMER_, which is the operator's: use the field of spec instead"
)
ONE_VALUE = "give value or valueFrom, not both"
ONE_KEY = "give exactly one of secretKeyRef and configMapKeyRef"
ONE_SOURCE = "give exactly one of secretRef and configMapRef"

VariableName = Annotated[
    str,
    Field(max_length=253),
    Pattern("[A-Za-z_][A-Za-z0-9_]*", "must be letters, digits and _, and not begin with a digit"),
]
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]


class KeySelector(Model):
    """A key of a Secret or ConfigMap in the namespace of the StreamConsumer."""

    name: ObjectName
    """The Secret's or ConfigMap's name."""

    key: str = Field(min_length=1, max_length=253)
    """The key in it."""

    optional: bool = False
    """Whether the pod starts, without the variable, where there is no such key."""


class LocalObjectReference(Model):
    """A Secret or ConfigMap in the namespace of the StreamConsumer."""

    name: ObjectName
    """The Secret's or ConfigMap's name."""

    optional: bool = False
    """Whether the pod starts, without the variables, where there is none of this name."""


class EnvVarSource(
    Model, json_schema_extra=cel_rules(("has(self.secretKeyRef) != has(self.configMapKeyRef)", ONE_KEY))
):
    """Where a variable's value comes from. It is read when the container starts; the operator replaces the pods when it
    has changed."""

    secret_key_ref: KeySelector | None = None
    """A key of a Secret."""

    config_map_key_ref: KeySelector | None = None
    """A key of a ConfigMap."""

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
    """One variable for the handler. Wins over what the operator sets, such as OTEL_ variables."""

    name: VariableName
    """The variable's name."""

    value: str = Field("", max_length=32_768)
    """Its value."""

    value_from: EnvVarSource | None = None
    """Where its value comes from instead."""

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
    """Variables for the handler from all keys of a Secret or ConfigMap. They are read when the container starts.
    `env`, and what the operator sets, win over them."""

    secret_ref: LocalObjectReference | None = None
    """The Secret."""

    config_map_ref: LocalObjectReference | None = None
    """The ConfigMap."""

    prefix: VariableName | None = None
    """What the names of the variables begin with, before the key."""

    @model_validator(mode="after")
    def _check_source_and_prefix(self) -> Self:
        if (self.secret_ref is None) == (self.config_map_ref is None):
            raise ValueError(ONE_SOURCE)
        if self.prefix and self.prefix.startswith(names.ENVIRONMENT_PREFIX):
            raise ValueError(RESERVED_PREFIX_MESSAGE)
        return self
