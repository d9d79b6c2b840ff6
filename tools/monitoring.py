"""Alerts and dashboard panels, declared once for the chart and for docs/monitoring.md."""

import json
from dataclasses import dataclass
from typing import Any

GROUP = "namespace, stream, consumer_group"
"""Labels that the pods of one StreamConsumer share. Prometheus adds `namespace` when it scrapes."""

RESOURCE = "resource_namespace, resource_name"
"""Labels of the operator's metrics that identify one StreamConsumer."""


@dataclass(frozen=True)
class Alert:
    """Alert rule. `summary` may contain Prometheus label templates; `action` is for the person who gets the alert."""

    name: str
    expression: str
    duration: str
    severity: str
    summary: str
    action: str


_GROUP_TEXT = "{{ $labels.consumer_group }} on {{ $labels.stream }} in {{ $labels.namespace }}"
_RESOURCE_TEXT = "StreamConsumer {{ $labels.resource_namespace }}/{{ $labels.resource_name }}"

ALERTS = [
    Alert(
        "StreamConsumerNotReady",
        "streamconsumer_ready == 0",
        "10m",
        "critical",
        f"{_RESOURCE_TEXT} has not been ready for 10 minutes",
        "`kubectl describe stc` shows the reason in the Ready condition.",
    ),
    Alert(
        "StreamConsumerStuck",
        "streamconsumer_group_lag > 0 and on (resource_namespace, stream, consumer_group) "
        f"label_replace(sum by ({GROUP}) (rate(streamconsumer_acknowledged_total[10m]) + "
        "rate(streamconsumer_dead_lettered_total[10m]) + rate(streamconsumer_deferred_total[10m])) == 0, "
        '"resource_namespace", "$1", "namespace", "(.*)")',
        "10m",
        "critical",
        f"{_RESOURCE_TEXT} has a backlog and settles no entries",
        "Check the pod logs for a handler that hangs, an open circuit breaker or a paused Redis server. If a handler "
        "hangs, set `delivery.timeout`.",
    ),
    Alert(
        "StreamConsumerSlow",
        "histogram_quantile(0.99, "
        f"sum by ({GROUP}, le) (rate(streamconsumer_queue_duration_seconds_bucket[5m]))) > 300",
        "10m",
        "warning",
        f"Messages for {_GROUP_TEXT} wait more than 5 minutes before they are read",
        "Increase `replicas` or `concurrency`, or make the handler faster.",
    ),
    Alert(
        "StreamConsumerLagUnknown",
        "streamconsumer_group_lag_known == 0",
        "30m",
        "warning",
        f"Redis does not know the lag of {_RESOURCE_TEXT}",
        "Entries were deleted with XDEL, or the group was moved with XGROUP SETID. The lag is known again after the "
        "group has read all entries.",
    ),
    Alert(
        "StreamConsumerPendingOld",
        "streamconsumer_group_oldest_pending_age_seconds > 3600",
        "10m",
        "warning",
        f"An entry of {_RESOURCE_TEXT} has been pending for more than an hour",
        "Find the entry with `XPENDING`. Possible causes: the entry is retried with long waits, its handler is very "
        "slow, or its consumer belongs to another program and that program has ended.",
    ),
    Alert(
        "StreamConsumerRetriesMany",
        f"sum by ({GROUP}) (rate(streamconsumer_retried_total[10m])) "
        f"> 0.1 * sum by ({GROUP}) (rate(streamconsumer_delivered_total[10m]))",
        "15m",
        "warning",
        f"More than a tenth of the messages for {_GROUP_TEXT} fail and are retried",
        "Find the errors in the handler's log lines and spans. Check whether a dependency of the handler is down.",
    ),
    Alert(
        "StreamConsumerDeadLetters",
        f"sum by ({GROUP}) (increase(streamconsumer_dead_lettered_total[10m])) > 0",
        "0m",
        "warning",
        f"Messages for {_GROUP_TEXT} became dead letters",
        "Show the errors with `kubectl streamconsumer dead-letters list --name NAME`. Fix the cause, then run "
        "`replay`.",
    ),
    Alert(
        "StreamConsumerEntriesLost",
        f"sum by ({GROUP}) (increase(streamconsumer_lost_to_trimming_total[10m])) > 0",
        "0m",
        "critical",
        f"Entries for {_GROUP_TEXT} were trimmed from the stream before they were handled",
        "A producer's MAXLEN is too small for the backlog. Use `retention` instead, because `retention` trims an "
        "entry only after every group has acknowledged it.",
    ),
    Alert(
        "StreamConsumerGroupRecreated",
        f"sum by ({GROUP}) (increase(streamconsumer_groups_recreated_total[10m])) > 0",
        "0m",
        "warning",
        f"Consumer group {_GROUP_TEXT} was missing and was created again at its last position",
        "Possible causes: Redis was flushed, the key was deleted, the group was destroyed, or Redis lost its data. "
        "Check the persistence and the eviction policy of Redis.",
    ),
    Alert(
        "StreamConsumerBreakerOpen",
        f"sum by ({GROUP}) (increase(streamconsumer_breaker_opened_total[10m])) > 0",
        "0m",
        "warning",
        f"The circuit breaker opened after consecutive failures for {_GROUP_TEXT}; pods try one message at a time",
        "A dependency of the handler is down, or a new version of the handler is broken.",
    ),
    Alert(
        "StreamConsumerDrainTimedOut",
        f"sum by ({GROUP}) (increase(streamconsumer_abandoned_total[30m])) > 0",
        "0m",
        "warning",
        f"Pods of {_GROUP_TEXT} stopped before their messages were finished",
        "The messages run again in another pod. Set `drainTimeout` to more time than the handler needs.",
    ),
    Alert(
        "StreamConsumerSpansDropped",
        f"sum by ({GROUP}) (increase(streamconsumer_spans_dropped_total[10m])) > 0",
        "0m",
        "warning",
        f"Pods of {_GROUP_TEXT} dropped spans that did not reach the collector",
        "The collector is unavailable or slow, or it rejects the spans. The pod logs contain the cause.",
    ),
    Alert(
        "StreamConsumerOperatorFailing",
        'sum(rate(streamconsumer_operator_reconciles_total{outcome="error"}[10m])) > 0',
        "15m",
        "warning",
        "The operator repeatedly fails to reconcile StreamConsumers",
        "The operator's log names the StreamConsumer and the error of the API server.",
    ),
]


@dataclass(frozen=True)
class Panel:
    """Graph of the dashboard: its lines (expression, legend), its Grafana unit and a description for the reader."""

    title: str
    unit: str
    lines: list[tuple[str, str]]
    description: str


def _rate(counter: str) -> str:
    return f"sum by ({GROUP}) (rate(streamconsumer_{counter}_total{{{_POD_FILTER}}}[$__rate_interval]))"


def _quantile(share: float, histogram: str) -> str:
    rate = f"rate(streamconsumer_{histogram}_seconds_bucket{{{_POD_FILTER}}}[$__rate_interval])"
    return f"histogram_quantile({share}, sum by ({GROUP}, le) ({rate}))"


_POD_FILTER = 'namespace=~"$namespace", stream=~"$stream"'
_OPERATOR_FILTER = 'resource_namespace=~"$namespace", stream=~"$stream"'

PANELS = [
    Panel(
        "Messages per second",
        "ops",
        [(_rate("delivered"), "{{stream}} read"), (_rate("acknowledged"), "{{stream}} acknowledged")],
        "Read and acknowledged messages should have the same rate. If fewer messages are "
        "acknowledged than read, messages fail or accumulate.",
    ),
    Panel(
        "Backlog",
        "short",
        [
            (f"streamconsumer_group_lag{{{_OPERATOR_FILTER}}}", "{{stream}} unread"),
            (f"streamconsumer_group_pending{{{_OPERATOR_FILTER}}}", "{{stream}} pending"),
        ],
        "Unread entries of the group, and entries that were read but not acknowledged. A gap in the line of unread "
        "entries means that the lag is unknown.",
    ),
    Panel(
        "Time in the stream",
        "s",
        [
            (_quantile(0.5, "queue_duration"), "{{stream}} median"),
            (_quantile(0.99, "queue_duration"), "{{stream}} p99"),
        ],
        "Age of entries when they are first read. A rising line means that there are too few pods.",
    ),
    Panel(
        "Time in the handler",
        "s",
        [
            (_quantile(0.5, "process_duration"), "{{stream}} median"),
            (_quantile(0.99, "process_duration"), "{{stream}} p99"),
        ],
        "Time that the handler takes for one message or one batch.",
    ),
    Panel(
        "Failures per second",
        "ops",
        [
            (_rate("failed"), "{{stream}} failed"),
            (_rate("retried"), "{{stream}} retried"),
            (_rate("dead_lettered"), "{{stream}} dead letters"),
            (_rate("deferred"), "{{stream}} deferred"),
        ],
        "Each failure leads to a retry or a dead letter. A deferred message has not failed.",
    ),
    Panel(
        "Oldest pending entry",
        "s",
        [(f"streamconsumer_group_oldest_pending_age_seconds{{{_OPERATOR_FILTER}}}", "{{stream}}")],
        "Age of the oldest entry that was read but not acknowledged. A straight rising line means that a message is "
        "stuck.",
    ),
    Panel(
        "Claimed, released, lost",
        "ops",
        [
            (_rate("claimed"), "{{stream}} claimed from dead consumers"),
            (_rate("released"), "{{stream}} released at shutdown"),
            (_rate("abandoned"), "{{stream}} unfinished at shutdown"),
            (_rate("lost_to_trimming"), "{{stream}} lost to trimming"),
        ],
        "Entries that other pods take over after a pod has stopped or died, and entries lost to trimming. The line for "
        "entries lost to trimming should stay at zero.",
    ),
    Panel(
        "In flight",
        "short",
        [(f"sum by ({GROUP}) (streamconsumer_in_flight{{{_POD_FILTER}}})", "{{stream}}")],
        "Number of messages that handlers are processing now. All slots are in use when the value reaches `replicas` "
        "times `concurrency`.",
    ),
    Panel(
        "Dead letters",
        "short",
        [(f"streamconsumer_group_dead_letters{{{_OPERATOR_FILTER}}}", "{{stream}}")],
        "Number of dead letters. List them with `kubectl streamconsumer dead-letters list --name NAME`, then replay or "
        "drop them.",
    ),
    Panel(
        "Reconciles per second",
        "ops",
        [("sum by (outcome) (rate(streamconsumer_operator_reconciles_total[$__rate_interval]))", "{{outcome}}")],
        "Reconciles of the operator by outcome. The operator's log describes persistent errors.",
    ),
]


def rules() -> dict[str, Any]:
    """Return the rule groups, for a PrometheusRule and for a Prometheus rules file."""
    alerts = [
        {
            "alert": alert.name,
            "expr": alert.expression,
            "for": alert.duration,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.summary, "description": alert.action},
        }
        for alert in ALERTS
    ]
    return {"groups": [{"name": "streamconsumer", "rules": alerts}]}


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
        "templating": {"list": [_datasource_variable(), _label_variable("namespace"), _label_variable("stream")]},
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
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": source, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(panel.lines)
        ],
    }


def _datasource_variable() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}


def _label_variable(label: str) -> dict[str, Any]:
    return {
        "name": label,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": f"label_values(streamconsumer_delivered_total, {label})",
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }


def table_of_alerts() -> str:
    """Return the Markdown table of alerts for docs/monitoring.md."""
    rows = [
        f"| `{alert.name}` | {alert.severity} | `{alert.expression}` for {alert.duration} | {alert.action} |"
        for alert in ALERTS
    ]
    return "\n".join(["| Alert | Severity | Condition | Action |", "| --- | --- | --- | --- |", *rows])


def table_of_panels() -> str:
    """Return the Markdown table of panels for docs/monitoring.md."""
    rows = [f"| {panel.title} | {panel.description} |" for panel in PANELS]
    return "\n".join(["| Panel | Meaning |", "| --- | --- |", *rows])
