"""The operator's settings, read from the environment variables STREAMCONSUMER_OPERATOR_*, which the chart sets."""

from collections.abc import Mapping
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_snake

from streamconsumer import __version__
from streamconsumer.errors import InvalidSettings
from streamconsumer.model import names
from streamconsumer.model.fields import DurationRange, Model, Pattern, format_errors
from streamconsumer.model.name_fields import NAMESPACE, OBJECT_NAME, NamespaceName

LEASE = Pattern(
    f"({NAMESPACE.pattern}/{OBJECT_NAME.pattern})?", "must be the name of a Lease, such as streamconsumer/operator"
)

PREFIX = f"{names.ENVIRONMENT_PREFIX}OPERATOR_"


def split_namespaces(value: str) -> list[str]:
    """Split a comma-separated list of names."""
    return [part.strip() for part in value.split(",") if part.strip()]


def _split(value: object) -> object:
    return split_namespaces(value) if isinstance(value, str) else value


def _parse_networks(value: object) -> object:
    parts = _split(value)
    return (
        [_parse_network(part) if isinstance(part, str) else part for part in parts]
        if isinstance(parts, list)
        else parts
    )


def _parse_network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(f"{error}; expected CIDRs such as 169.254.20.10/32, separated by commas") from None


class OperatorSettings(Model):
    """The operator's settings. The environment variable of a field is STREAMCONSUMER_OPERATOR_ followed by the field
    name in upper case."""

    model_config = ConfigDict(alias_generator=None)

    watch_namespaces: Annotated[list[NamespaceName], BeforeValidator(_split)] = Field(default=[])
    """The namespaces in which the operator reconciles StreamConsumers, separated by commas. If empty, the operator
    reconciles StreamConsumers in all namespaces."""

    processor_image: str = f"streamconsumer-processor:{__version__}"
    """The pod image for StreamConsumers that do not set spec.image."""

    processor_image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    """The image pull policy for StreamConsumers that do not set spec.imagePullPolicy. If empty, Kubernetes uses its
    default pull policy."""

    telemetry_endpoint: str = ""
    """The OTLP endpoint for StreamConsumers that do not set spec.telemetry.endpoint. The operator also exports its
    traces to this endpoint if no OTEL_* variable sets another endpoint. If empty, there is no default endpoint."""

    allowed_destinations: Annotated[list[IPv4Network | IPv6Network], BeforeValidator(_parse_networks)] = Field(
        default=[]
    )
    """CIDRs, separated by commas, of addresses to which the operator may connect despite the default rules. The default
    rules refuse loopback, unspecified, link-local, multicast and reserved addresses, and the metadata services of
    clouds. Addresses of the API server are always refused. This setting does not restrict pods."""

    http_port: int = Field(default=names.HTTP_PORT, ge=0, le=65535)
    """The port on which the operator serves /livez, /readyz and /metrics."""

    http_host: str = names.ANY_HOST

    stream_interval: Annotated[timedelta, DurationRange("1s", "10m")] = timedelta(seconds=15)
    """The interval, varied randomly by ±25 %, at which the operator polls the streams in Redis."""

    lease: Annotated[str, LEASE] = ""
    """The Lease for leader election, as namespace/name. If empty, this operator is the leader without an election."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "OperatorSettings":
        """Read the settings from environment variables. Raises InvalidSettings with a list of all invalid variables."""
        values = {name: environ[PREFIX + name.upper()] for name in cls.model_fields if PREFIX + name.upper() in environ}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = format_errors(error, lambda location: PREFIX + to_snake(str(location[0])).upper())
            raise InvalidSettings("; ".join(lines)) from None
