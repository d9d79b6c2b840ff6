"""Arguments of `RedisStreamProcessor` and `StreamManager`, checked by the rules of the resource.

Tests and programs without a cluster may choose shorter durations than a resource.
"""

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, InstanceOf, ValidationError

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.field_hints import field_path
from streamconsumer.model.fields import Model, format_errors
from streamconsumer.model.processor_settings import BatchCount, Concurrency, Delivery, Retention, StartFrom


class ProcessorArguments(Model):
    """Arguments of `RedisStreamProcessor`."""

    model_config = ConfigDict(strict=True)

    batch_count: BatchCount
    poll_interval: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)]
    concurrency: Concurrency
    drain_timeout: Annotated[timedelta, Field(ge=timedelta(), le=timedelta(hours=1))]
    delivery: InstanceOf[Delivery] | None


class ManagerArguments(Model):
    """Arguments of `StreamManager`."""

    model_config = ConfigDict(strict=True)

    start_from: StartFrom
    encoding: Literal["utf-8", "bytes"]
    min_idle: Annotated[timedelta, Field(gt=timedelta(), le=timedelta(hours=24))] | None
    delivery: InstanceOf[Delivery] | None
    retention: InstanceOf[Retention] | None


def check_arguments(model: type[Model], arguments: dict[str, Any]) -> None:
    """Raise InvalidSettings, which names every invalid argument."""
    try:
        model.model_validate(arguments)
    except ValidationError as error:
        raise InvalidSettings("; ".join(format_errors(error, field_path))) from None
