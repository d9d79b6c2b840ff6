"""Alerts, declared once for the chart and for docs/monitoring.md. docs/alerts.md describes each alert."""

from dataclasses import dataclass
from typing import Any

GROUP = "cluster, namespace, stream, consumer_group"
"""Labels that the pods of one StreamConsumer share. Prometheus adds `namespace` when it scrapes, and `cluster` if it
collects the metrics of several clusters. A missing label is ignored."""

RESOURCE = "cluster, resource_namespace, resource_name, stream, consumer_group"
"""Labels of the operator's metrics that identify one StreamConsumer, whichever pod of the operator is the leader."""


def of_resource(gauge: str) -> str:
    """Return the expression for an operator's gauge without the labels of the operator's pod. These labels change with
    each new leader."""
    return f"max by ({RESOURCE}) ({gauge})"


def by_group(operator_series: str) -> str:
    """Return the expression for an operator's metric with the labels of the pods' metrics."""
    renamed = f'label_replace({operator_series}, "namespace", "$1", "resource_namespace", "(.*)")'
    return f"max by ({GROUP}) ({renamed})"


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
        f"{of_resource('streamconsumer_ready')} == 0",
        "10m",
        "critical",
        f"{_RESOURCE_TEXT} has not been ready for 10 minutes",
        "`kubectl describe stc` shows the reason in the Ready condition.",
    ),
    Alert(
        "StreamConsumerStuck",
        f"{of_resource('streamconsumer_group_lag')} > 0 and on (cluster, resource_namespace, stream, consumer_group) "
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
        f"{of_resource('streamconsumer_group_lag_known')} == 0",
        "30m",
        "warning",
        f"Redis does not know the lag of {_RESOURCE_TEXT}",
        "Entries were deleted with XDEL, or the group was moved with XGROUP SETID. The lag is known again after the "
        "group has read all entries.",
    ),
    Alert(
        "StreamConsumerPendingOld",
        f"{of_resource('streamconsumer_group_oldest_pending_age_seconds')} > 3600",
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
        f"sum by ({GROUP}) (increase(streamconsumer_dead_lettered_total[10m])) > 0 "
        f"or {by_group('delta(streamconsumer_group_dead_letters[10m])')} > 0",
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
        "StreamConsumerNamespaceNotServed",
        "max by (cluster, namespace, resource_namespace) (streamconsumer_operator_namespace_served) == 0",
        "5m",
        "critical",
        "The operator in {{ $labels.namespace }} does not serve "
        "{{ with $labels.resource_namespace }}the namespace {{ . }}{{ else }}any namespace{{ end }}",
        "The operator's log contains the error of the API server. Check that the namespace and the operator's "
        "RoleBinding exist. Without an operator that leads, no namespace is served.",
    ),
    Alert(
        "StreamConsumerOperatorFailing",
        'sum by (cluster, namespace) (rate(streamconsumer_operator_reconciles_total{outcome="error"}[10m])) > 0',
        "15m",
        "warning",
        "The operator in {{ $labels.namespace }} repeatedly fails to reconcile StreamConsumers",
        "The operator's log names the StreamConsumer and the error of the API server.",
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


def table_of_alerts() -> str:
    """Return the Markdown table of alerts for docs/monitoring.md."""
    rows = [
        f"| `{alert.name}` | {alert.severity} | `{alert.expression}` for {alert.duration} | {alert.action} |"
        for alert in ALERTS
    ]
    return "\n".join(["| Alert | Severity | Condition | Action |", "| --- | --- | --- | --- |", *rows])
