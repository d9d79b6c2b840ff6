"""Variables that a user gives the handler: as they are, or from Secrets and ConfigMaps of the namespace, which the
kubelet reads and the operator does not."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from streamconsumer.model import names
from streamconsumer.model.fields import Matching, Model, rules

RESERVED_VARIABLE = "names that begin with STREAMCONSUMER_ are set by the operator: use the field of spec instead"
RESERVED_PREFIX = "a prefix must not begin with STREAMCONSUMER_, which is the operator's: use the field of spec instead"
ONE_VALUE = "give value or valueFrom, not both"
ONE_KEY = "give exactly one of secretKeyRef and configMapKeyRef"
ONE_SOURCE = "give exactly one of secretRef and configMapRef"

VariableName = Annotated[
    str,
    Field(max_length=253),
    Matching("[A-Za-z_][A-Za-z0-9_]*", "must be letters, digits and _, and not begin with a digit"),
]
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]


class KeyRef(Model):
    """A key of a Secret or ConfigMap in the namespace of the StreamConsumer."""

    name: ObjectName
    """The Secret's or ConfigMap's name."""

    key: str = Field(min_length=1, max_length=253)
    """The key in it."""

    optional: bool = False
    """Whether the pod starts, without the variable, where there is no such key."""


class ObjectRef(Model):
    """A Secret or ConfigMap in the namespace of the StreamConsumer."""

    name: ObjectName
    """The Secret's or ConfigMap's name."""

    optional: bool = False
    """Whether the pod starts, without the variables, where there is none of this name."""


class ValueFrom(Model, json_schema_extra=rules(("has(self.secretKeyRef) != has(self.configMapKeyRef)", ONE_KEY))):
    """Where a variable's value comes from. It is read when the container starts; the operator replaces the pods when it
    has changed."""

    secret_key_ref: KeyRef | None = None
    """A key of a Secret."""

    config_map_key_ref: KeyRef | None = None
    """A key of a ConfigMap."""

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if (self.secret_key_ref is None) == (self.config_map_key_ref is None):
            raise ValueError(ONE_KEY)
        return self


class EnvironmentVariable(
    Model,
    json_schema_extra=rules(
        (f"!self.name.startsWith('{names.ENVIRONMENT_PREFIX}')", RESERVED_VARIABLE),
        ("!has(self.valueFrom) || !has(self.value) || self.value == ''", ONE_VALUE),
    ),
):
    """One variable for the handler. Wins over what the operator sets, such as OTEL_ variables."""

    name: VariableName
    """The variable's name."""

    value: str = Field("", max_length=32_768)
    """Its value."""

    value_from: ValueFrom | None = None
    """Where its value comes from instead."""

    @model_validator(mode="after")
    def _ours_and_theirs(self) -> Self:
        if self.name.startswith(names.ENVIRONMENT_PREFIX):
            raise ValueError(RESERVED_VARIABLE)
        if self.value_from and self.value:
            raise ValueError(ONE_VALUE)
        return self


class EnvironmentSource(
    Model,
    json_schema_extra=rules(
        ("has(self.secretRef) != has(self.configMapRef)", ONE_SOURCE),
        (
            f"!has(self.prefix) || !self.prefix.startsWith('{names.ENVIRONMENT_PREFIX}')",
            RESERVED_PREFIX,
        ),
    ),
):
    """Variables for the handler from all keys of a Secret or ConfigMap. They are read when the container starts.
    `env`, and what the operator sets, win over them."""

    secret_ref: ObjectRef | None = None
    """The Secret."""

    config_map_ref: ObjectRef | None = None
    """The ConfigMap."""

    prefix: VariableName | None = None
    """What the names of the variables begin with, before the key."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.secret_ref is None) == (self.config_map_ref is None):
            raise ValueError(ONE_SOURCE)
        if self.prefix and self.prefix.startswith(names.ENVIRONMENT_PREFIX):
            raise ValueError(RESERVED_PREFIX)
        return self
