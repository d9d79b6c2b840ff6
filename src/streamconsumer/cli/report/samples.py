"""The metrics of a pod, as a list of samples. Pure."""

from collections.abc import Iterator
from math import isfinite
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from streamconsumer.model import names

PREFIX = f"{names.SINGULAR}_"


def samples(exposition: str, consumers: set[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """StreamConsumer's own samples. The operator's samples of StreamConsumers that are not in the bundle are left out.

    Raises ValueError if the text is not Prometheus' format.
    """
    for family in text_string_to_metric_families(exposition):
        for name, labels, value, *_ in family.samples:
            resource = labels.get("resource_namespace", ""), labels.get("resource_name", "")
            if name.startswith(PREFIX) and resource in consumers | {("", "")}:
                number = value if isfinite(value) else str(value)
                yield {"name": name, "labels": labels, "value": number}
