"""The settings of the operator, from STREAMCONSUMER_OPERATOR_ variables that the chart sets."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_snake

from streamconsumer import __version__
from streamconsumer.errors import InvalidSettings
from streamconsumer.model import names
from streamconsumer.model.fields import DurationRange, Model, format_errors

PREFIX = f"{names.ENVIRONMENT_PREFIX}OPERATOR_"


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class OperatorSettings(Model):
    """The settings. The variable of a field is STREAMCONSUMER_OPERATOR_ and the field name in upper case."""

    model_config = ConfigDict(alias_generator=None)

    watch_namespaces: Annotated[list[str], BeforeValidator(_split)] = Field(default=[])
    """The namespaces to serve, comma-separated; empty serves all."""

    processor_image: str = f"streamconsumer-processor:{__version__}"
    """The image of the pods of StreamConsumers without spec.image."""

    processor_image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    """The pull policy of the pods of StreamConsumers without spec.imagePullPolicy. Empty: the default of Kubernetes."""

    telemetry_endpoint: str = ""
    """The OTLP endpoint of StreamConsumers without their own endpoint, and of the operator's traces unless OTEL_
    variables set another one. Empty: no telemetry."""

    http_port: int = Field(default=names.HTTP_PORT, ge=0, le=65535)
    """The port of /livez, /readyz and /metrics."""

    http_host: str = "0.0.0.0"  # noqa: S104 - the kubelet probes the pod's own address

    stream_interval: Annotated[timedelta, DurationRange("1s", "10m")] = timedelta(seconds=15)
    """The interval at which the operator polls the streams in Redis. Jittered by 25 %."""

    lease: str = Field(default="", pattern=r"^([a-z0-9.-]+/[a-z0-9.-]+)?$")
    """The Lease for leader election, as namespace/name. Empty: no election, this operator is the leader."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "OperatorSettings":
        """Read the settings from environment variables. Raises InvalidSettings that lists every invalid variable."""
        values = {name: environ[PREFIX + name.upper()] for name in cls.model_fields if PREFIX + name.upper() in environ}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = format_errors(error, lambda location: PREFIX + to_snake(str(location[0])).upper())
            raise InvalidSettings("; ".join(lines)) from None
