"""Dashboard panels, declared once for the chart and for docs/monitoring.md.

The lines of pods without data show 0, so that a StreamConsumer without pods is visible.
"""

import json
from dataclasses import dataclass
from typing import Any

from tools.monitoring import GROUP, by_group, of_resource


@dataclass(frozen=True)
class Panel:
    """Graph of the dashboard: its lines (expression, legend), its Grafana unit and a description for the reader."""

    title: str
    unit: str
    lines: list[tuple[str, str]]
    description: str
    empty: str = "No metrics"
    """Text in place of the graph if no line has a value."""


_POD_FILTER = 'namespace=~"$namespace", stream=~"$stream", consumer_group=~"$consumer_group"'
_RESOURCE_FILTER = 'resource_namespace=~"$namespace", stream=~"$stream", consumer_group=~"$consumer_group"'
_POD = "{{namespace}}: {{consumer_group}} on {{stream}}"
_RESOURCE = "{{resource_namespace}}/{{resource_name}}: {{consumer_group}} on {{stream}}"


def _gauge(name: str) -> str:
    return of_resource(f"streamconsumer_{name}{{{_RESOURCE_FILTER}}}")


def _or_zero(expression: str) -> str:
    """Return the expression, with 0 for each StreamConsumer that has no pods."""
    resource = f"streamconsumer_ready{{{_RESOURCE_FILTER}}}"
    return f"{expression} or 0 * {by_group(resource)}"


def _sum(series: str) -> str:
    return _or_zero(f"sum by ({GROUP}) ({series})")


def _rate(counter: str) -> str:
    return _sum(f"rate(streamconsumer_{counter}_total{{{_POD_FILTER}}}[$__rate_interval])")


def _quantile(share: float, histogram: str) -> str:
    rate = f"rate(streamconsumer_{histogram}_seconds_bucket{{{_POD_FILTER}}}[$__rate_interval])"
    return f"histogram_quantile({share}, sum by ({GROUP}, le) ({rate}))"


_RECONCILES = "rate(streamconsumer_operator_reconciles_total[$__rate_interval])"

PANELS = [
    Panel(
        "Ready",
        "short",
        [(_gauge("ready"), _RESOURCE)],
        "1 if the StreamConsumer is Ready, else 0. `kubectl describe stc` shows the reason.",
    ),
    Panel(
        "Pods",
        "short",
        [
            (_gauge("desired_replicas"), f"{_RESOURCE}, desired"),
            (_or_zero(f"count by ({GROUP}) (streamconsumer_in_flight{{{_POD_FILTER}}})"), f"{_POD}, running"),
        ],
        "Desired number of pods, and number of pods from which Prometheus collects metrics. Each step of the desired "
        "number is a scaling decision; `kubectl describe stc` shows its reason.",
    ),
    Panel(
        "Scaling decisions",
        "short",
        [
            (_gauge("scaling_active"), f"{_RESOURCE}, backlog known"),
            (_gauge("scaling_limited"), f"{_RESOURCE}, limited"),
        ],
        "Backlog known: 0 if the operator does not scale down, because the backlog is unknown. Limited: 1 if "
        "`maxReplicas` or a policy prevents the number of pods that the backlog requires. Only with autoscaling.",
        "No StreamConsumer with autoscaling",
    ),
    Panel(
        "Arrivals and throughput of a pod",
        "ops",
        [
            (_gauge("group_arrivals_per_second"), f"{_RESOURCE}, arrivals"),
            (_gauge("replica_entries_per_second"), f"{_RESOURCE}, throughput of one pod"),
        ],
        "Measured rates from which the operator computes the number of pods. Only with autoscaling.",
        "No StreamConsumer with autoscaling",
    ),
    Panel(
        "Messages per second",
        "ops",
        [(_rate("delivered"), f"{_POD}, read"), (_rate("acknowledged"), f"{_POD}, acknowledged")],
        "Read and acknowledged messages should have the same rate. If fewer messages are "
        "acknowledged than read, messages fail or accumulate.",
    ),
    Panel(
        "Backlog",
        "short",
        [
            (_gauge("group_lag"), f"{_RESOURCE}, unread"),
            (_gauge("group_pending"), f"{_RESOURCE}, pending"),
        ],
        "Unread entries of the group, and entries that were read but not acknowledged. A gap in the line of unread "
        "entries means that the lag is unknown.",
    ),
    Panel(
        "Time in the stream",
        "s",
        [
            (_quantile(0.5, "queue_duration"), f"{_POD}, median"),
            (_quantile(0.99, "queue_duration"), f"{_POD}, p99"),
        ],
        "Age of entries when they are first read. A rising line means that there are too few pods.",
        "No messages",
    ),
    Panel(
        "Time in the handler",
        "s",
        [
            (_quantile(0.5, "process_duration"), f"{_POD}, median"),
            (_quantile(0.99, "process_duration"), f"{_POD}, p99"),
        ],
        "Time that the handler takes for one message or one batch.",
        "No messages",
    ),
    Panel(
        "Failures per second",
        "ops",
        [
            (_rate("failed"), f"{_POD}, failed"),
            (_rate("retried"), f"{_POD}, retried"),
            (_rate("dead_lettered"), f"{_POD}, dead letters"),
            (_rate("deferred"), f"{_POD}, deferred"),
        ],
        "Each failure leads to a retry or a dead letter. A deferred message has not failed.",
    ),
    Panel(
        "Circuit breaker",
        "short",
        [(_sum(f"increase(streamconsumer_breaker_opened_total{{{_POD_FILTER}}}[$__rate_interval])"), _POD)],
        "Number of times that the circuit breakers of the pods opened. While the circuit breaker of a pod is open, the "
        "pod tries one message at a time.",
    ),
    Panel(
        "Oldest pending entry",
        "s",
        [(_gauge("group_oldest_pending_age_seconds"), _RESOURCE)],
        "Age of the oldest entry that was read but not acknowledged. A straight rising line means that a message is "
        "stuck.",
    ),
    Panel(
        "Claimed, released, lost",
        "ops",
        [
            (_rate("claimed"), f"{_POD}, claimed from dead consumers"),
            (_rate("released"), f"{_POD}, released at shutdown"),
            (_rate("abandoned"), f"{_POD}, unfinished at shutdown"),
            (_rate("lost_to_trimming"), f"{_POD}, lost to trimming"),
        ],
        "Entries that other pods take over after a pod has stopped or died, and entries lost to trimming. The line for "
        "entries lost to trimming should stay at zero.",
    ),
    Panel(
        "In flight",
        "short",
        [(_sum(f"streamconsumer_in_flight{{{_POD_FILTER}}}"), _POD)],
        "Number of messages that handlers are processing now. All slots are in use when the value reaches `replicas` "
        "times `concurrency`.",
    ),
    Panel(
        "Dead letters",
        "short",
        [(_gauge("group_dead_letters"), _RESOURCE)],
        "Number of dead letters. List them with `kubectl streamconsumer dead-letters list --name NAME`, then replay or "
        "drop them.",
    ),
    Panel(
        "Reconciles per second",
        "ops",
        [(f"sum by (cluster, namespace, outcome) ({_RECONCILES})", "{{namespace}}: {{outcome}}")],
        "Reconciles of the operator by outcome. The operator's log describes persistent errors.",
    ),
    Panel(
        "Served namespaces",
        "short",
        [
            (
                "max by (cluster, namespace, resource_namespace) (streamconsumer_operator_namespace_served)",
                "{{namespace}}: {{resource_namespace}}",
            )
        ],
        "1 if the leader serves the watched namespace, else 0. Without `watchNamespaces`, one line stands for all "
        "namespaces.",
    ),
]


def dashboard() -> str:
    """Return the dashboard as JSON for Grafana's import."""
    panels = [_panel(number, panel) for number, panel in enumerate(PANELS)]
    board = {
        "title": "StreamConsumer",
        "uid": "streamconsumer",
        "tags": ["redis", "streams"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource_variable(), *_label_variables()]},
        "panels": panels,
    }
    return json.dumps(board, indent=2) + "\n"


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": source,
        "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "noValue": panel.empty}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": source, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(panel.lines)
        ],
    }


def _datasource_variable() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}


def _label_variables() -> list[dict[str, Any]]:
    """Return the variables. Their values come from the operator, so that StreamConsumers without pods are listed."""
    by_namespace = 'resource_namespace=~"$namespace"'
    return [
        _label_variable("namespace", "resource_namespace", ""),
        _label_variable("stream", "stream", by_namespace),
        _label_variable("consumer_group", "consumer_group", f'{by_namespace}, stream=~"$stream"'),
    ]


def _label_variable(name: str, label: str, selector: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": f"label_values(streamconsumer_ready{{{selector}}}, {label})",
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }


def table_of_panels() -> str:
    """Return the Markdown table of panels for docs/monitoring.md."""
    rows = [f"| {panel.title} | {panel.description} |" for panel in PANELS]
    return "\n".join(["| Panel | Meaning |", "| --- | --- |", *rows])
