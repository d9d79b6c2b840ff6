"""What the operator itself is told, from STREAMCONSUMER_OPERATOR_ variables that the chart sets."""

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
    """Each field is STREAMCONSUMER_OPERATOR_ and its name in upper case."""

    model_config = ConfigDict(alias_generator=None)

    watch_namespaces: Annotated[list[str], BeforeValidator(_split)] = Field([])
    """The namespaces to serve, comma-separated; empty serves all."""

    processor_image: str = f"streamconsumer-processor:{__version__}"
    """The image of StreamConsumers that name none."""

    processor_image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    """The pull policy of pods whose StreamConsumer states none."""

    telemetry_endpoint: str = ""
    """The OTLP endpoint of StreamConsumers that name none, and of the operator's own traces where OTEL_ variables say
    nothing else."""

    http_port: int = Field(names.HTTP_PORT, ge=0, le=65535)
    """Where /livez, /readyz and /metrics answer."""

    http_host: str = "0.0.0.0"  # noqa: S104 - the kubelet probes the pod's own address

    stream_interval: Annotated[timedelta, DurationRange("1s", "10m")] = timedelta(seconds=15)
    """How often the operator looks at the streams in Redis; spread by a quarter at random."""

    lease: str = Field("", pattern=r"^([a-z0-9.-]+/[a-z0-9.-]+)?$")
    """The Lease, as namespace/name, that decides which of several operators works; empty: this one does."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "OperatorSettings":
        """Raises InvalidSettings with a line for each variable that is wrong."""
        found = {name: environ[PREFIX + name.upper()] for name in cls.model_fields if PREFIX + name.upper() in environ}
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            lines = format_errors(error, lambda where: PREFIX + to_snake(str(where[0])).upper())
            raise InvalidSettings("; ".join(lines)) from None
