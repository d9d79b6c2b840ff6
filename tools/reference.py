"""Text of docs/reference.md, computed from the models, the table of reasons and the metric definitions."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import Metric
from pydantic import BaseModel

from streamconsumer.model.env_codec import env_name, field_paths
from streamconsumer.model.processor_settings import ProcessorSettings
from streamconsumer.model.reasons import CONDITION_MEANINGS, CONDITIONS_OF_REASONS, REASONS
from streamconsumer.model.spec import StreamConsumerSpec
from streamconsumer.model.status import Status
from streamconsumer.model.structural_schema import structural_schema
from streamconsumer.operator.health import Health
from streamconsumer.operator.metrics import GAUGES, LABELS, NamespaceGauges
from streamconsumer.operator.settings import PREFIX, OperatorSettings
from streamconsumer.processor.metrics import Metrics, PrometheusCollector

Schema = dict[str, Any]
Row = tuple[str, ...]

FIELD_COLUMNS = ("Field", "Type and rules", "Default", "Meaning")
METRIC_COLUMNS = ("Metric", "Type", "Labels", "Meaning")

SPEC_TEXT = "`kubectl explain streamconsumer.spec` shows the same descriptions."
CONDITIONS_TEXT = "`kubectl describe stc NAME` shows the conditions with their reasons and messages."
REASONS_TEXT = (
    "`kubectl streamconsumer status NAME` prints the action for each reason that is a problem. Reasons are never "
    "renamed, so you can use reasons in alerts."
)
POD_VARIABLES_TEXT = (
    "The operator sets these variables from the spec. To run `streamconsumer processor` without a "
    "cluster, set the variables yourself. At start, the pod logs a warning for each other variable that begins with "
    "`STREAMCONSUMER_`, with the most similar name of a setting."
)
OPERATOR_VARIABLES_TEXT = (
    "The chart sets these variables. At start, the operator logs a warning for each other variable that begins with "
    "`STREAMCONSUMER_`."
)
POD_METRICS_TEXT = "Each pod serves these metrics at `/metrics`."
OPERATOR_METRICS_TEXT = (
    "The operator serves these metrics at `/metrics`. Metrics with the label `resource_name` describe one "
    "StreamConsumer."
)


def reference(notice: str) -> str:
    """Return the whole page. `notice` names the source of the text."""
    sections = [
        f"# Reference\n\n{notice}",
        f"## The spec of a StreamConsumer\n\n{SPEC_TEXT}\n\n{_fields(StreamConsumerSpec)}",
        f"## The status of a StreamConsumer\n\n{_fields(Status)}",
        f"## Conditions\n\n{CONDITIONS_TEXT}\n\n{_conditions()}",
        f"## Reasons\n\n{REASONS_TEXT}",
        *_reasons(),
        f"## The environment of a pod\n\n{POD_VARIABLES_TEXT}\n\n{_pod_variables()}",
        f"## The environment of the operator\n\n{OPERATOR_VARIABLES_TEXT}\n\n{_operator_variables()}",
        f"## Metrics of the operator\n\n{OPERATOR_METRICS_TEXT}\n\n{_operator_metrics()}",
        f"## Metrics of a pod\n\n{POD_METRICS_TEXT}\n\n{_pod_metrics()}",
    ]
    return "\n\n".join(sections) + "\n"


def _table(head: Row, rows: Iterable[Row]) -> str:
    return "\n".join(_line(row) for row in [head, ("---",) * len(head), *rows])


def _line(cells: Row) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _fields(model: type[BaseModel]) -> str:
    return _table(FIELD_COLUMNS, _field_rows(structural_schema(model)))


def _field_rows(schema: Schema, parent: str = "") -> Iterator[Row]:
    for name, field in schema.get("properties", {}).items():
        path = f"{parent}.{name}".strip(".")
        default = "required" if name in schema.get("required", ()) else _default(field)
        yield f"`{path}`", _type_and_rules(field), default, field.get("description", "")
        if field.get("type") == "array":
            yield from _field_rows(field["items"], f"{path}[]")
        else:
            yield from _field_rows(field, path)


def _default(field: Schema) -> str:
    default = field.get("default", "")
    text = json.dumps(default) if isinstance(default, bool) else str(default)
    return f"`{text}`" if text else ""


def _type_and_rules(field: Schema) -> str:
    parts = [str(field.get("type", "integer or string"))]
    if "enum" in field:
        parts = [" or ".join(f"`{value}`" for value in field["enum"])]
    if "minimum" in field:
        parts.append(f"{field['minimum']} to {field['maximum']}" if "maximum" in field else f"min {field['minimum']}")
    messages = [rule["message"] for rule in field.get("x-kubernetes-validations", [])]
    return "; ".join([*parts, *messages])


def _conditions() -> str:
    return _table(("Condition", "Meaning"), ((f"`{name}`", meaning) for name, meaning in CONDITION_MEANINGS.items()))


def _reasons() -> Iterator[str]:
    """Yield a section per enum of reasons."""
    for reasons, conditions in CONDITIONS_OF_REASONS:
        rows = ((f"`{reason}`", REASONS[reason].meaning, _action(REASONS[reason].action)) for reason in reasons)
        yield f"### Reasons of {_enumeration(conditions)}\n\n{_table(('Reason', 'Meaning', 'Action'), rows)}"


def _enumeration(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _action(action: str | None) -> str:
    return f"{action[0].upper()}{action[1:]}.".replace("{target}", "--name NAME") if action else ""


def _pod_variables() -> str:
    rows = ((f"`{env_name(*path)}`", _description(ProcessorSettings, path)) for path in field_paths(ProcessorSettings))
    return _table(("Variable", "Meaning"), rows)


def _operator_variables() -> str:
    rows = (
        (f"`{PREFIX}{name.upper()}`", field.description or "Same meaning as for a pod.")
        for name, field in OperatorSettings.model_fields.items()
    )
    return _table(("Variable", "Meaning"), rows)


def _description(model: type[BaseModel], path: tuple[str, ...]) -> str:
    field = model.model_fields[path[0]]
    if len(path) > 1 and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
        return _description(field.annotation, path[1:])
    return field.description or ""


def _pod_metrics() -> str:
    labels = {"stream": "", "consumer_group": ""}
    return _table(METRIC_COLUMNS, map(_metric_row, PrometheusCollector(Metrics(), labels).collect()))


def _operator_metrics() -> str:
    gauges = ((f"`{name}`", "gauge", _label_text(LABELS), meaning) for name, meaning in GAUGES.items())
    health = Health(queue_depth=lambda: 0, readiness=lambda: (True, "ok"))
    health.registry.register(NamespaceGauges(lambda: {"": True}))
    health.record_reconcile("success", 0.0)
    return _table(METRIC_COLUMNS, [*gauges, *map(_metric_row, health.registry.collect())])


def _metric_row(metric: Metric) -> Row:
    """Return the row of a metric that has at least one sample. The label `le` of a histogram's buckets is omitted."""
    labels = [label for label in metric.samples[0].labels if label != "le"]
    suffix = "_total" if metric.type == "counter" else ""
    return f"`{metric.name}{suffix}`", metric.type, _label_text(labels), metric.documentation


def _label_text(labels: Iterable[str]) -> str:
    return ", ".join(f"`{label}`" for label in labels)
