"""Alerts and dashboard, checked with promtool and against the metrics that exist."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from streamconsumer.operator.metrics import GAUGES
from streamconsumer.processor.metrics import Metrics, build_registry
from tools.monitoring import ALERTS, PANELS, Alert

MONITORING = Path(__file__).parents[2] / "charts/streamconsumer-operator/monitoring"
GROUP = '{namespace="shop", stream="orders", consumer_group="billing"}'
RESOURCE = '{resource_namespace="shop", resource_name="orders", stream="orders", consumer_group="billing"}'

RISING, CONSTANT = "0+10x60", "100+0x60"
"""Samples of a rising and of a constant counter, one minute apart."""

FIRING = {
    "StreamConsumerNotReady": {f"streamconsumer_ready{RESOURCE}": "0x60"},
    "StreamConsumerStuck": {
        f"streamconsumer_group_lag{RESOURCE}": "7x60",
        f"streamconsumer_acknowledged_total{GROUP}": CONSTANT,
        f"streamconsumer_dead_lettered_total{GROUP}": CONSTANT,
        f"streamconsumer_deferred_total{GROUP}": CONSTANT,
    },
    "StreamConsumerSlow": {
        f'streamconsumer_queue_duration_seconds_bucket{GROUP[:-1]}, le="300.0"}}': "0x60",
        f'streamconsumer_queue_duration_seconds_bucket{GROUP[:-1]}, le="900.0"}}': RISING,
        f'streamconsumer_queue_duration_seconds_bucket{GROUP[:-1]}, le="+Inf"}}': RISING,
    },
    "StreamConsumerLagUnknown": {f"streamconsumer_group_lag_known{RESOURCE}": "0x60"},
    "StreamConsumerPendingOld": {f"streamconsumer_group_oldest_pending_age_seconds{RESOURCE}": "3601+60x60"},
    "StreamConsumerRetriesMany": {
        f"streamconsumer_retried_total{GROUP}": RISING,
        f"streamconsumer_delivered_total{GROUP}": "0+50x60",
    },
    "StreamConsumerDeadLetters": {f"streamconsumer_dead_lettered_total{GROUP}": "0x30 1x30"},
    "StreamConsumerEntriesLost": {f"streamconsumer_lost_to_trimming_total{GROUP}": RISING},
    "StreamConsumerGroupRecreated": {f"streamconsumer_groups_recreated_total{GROUP}": RISING},
    "StreamConsumerBreakerOpen": {f"streamconsumer_breaker_opened_total{GROUP}": RISING},
    "StreamConsumerDrainTimedOut": {f"streamconsumer_abandoned_total{GROUP}": RISING},
    "StreamConsumerSpansDropped": {f"streamconsumer_spans_dropped_total{GROUP}": RISING},
    "StreamConsumerOperatorFailing": {'streamconsumer_operator_reconciles_total{outcome="error"}': RISING},
}

NORMAL = {
    f"streamconsumer_ready{RESOURCE}": "1x60",
    f"streamconsumer_group_lag{RESOURCE}": "7x60",
    f"streamconsumer_group_lag_known{RESOURCE}": "1x60",
    f"streamconsumer_group_oldest_pending_age_seconds{RESOURCE}": "5x60",
    f"streamconsumer_acknowledged_total{GROUP}": RISING,
    f"streamconsumer_deferred_total{GROUP}": RISING,
    f"streamconsumer_delivered_total{GROUP}": "0+50x60",
    f"streamconsumer_retried_total{GROUP}": "0+1x60",
    f'streamconsumer_queue_duration_seconds_bucket{GROUP[:-1]}, le="1.0"}}': RISING,
    f'streamconsumer_queue_duration_seconds_bucket{GROUP[:-1]}, le="+Inf"}}': RISING,
    f"streamconsumer_dead_lettered_total{GROUP}": CONSTANT,
    f"streamconsumer_lost_to_trimming_total{GROUP}": CONSTANT,
    f"streamconsumer_groups_recreated_total{GROUP}": CONSTANT,
    f"streamconsumer_breaker_opened_total{GROUP}": CONSTANT,
    f"streamconsumer_abandoned_total{GROUP}": CONSTANT,
    f"streamconsumer_spans_dropped_total{GROUP}": CONSTANT,
    'streamconsumer_operator_reconciles_total{outcome="error"}': CONSTANT,
    'streamconsumer_operator_reconciles_total{outcome="success"}': RISING,
}


def run(promtool: Path, folder: Path, series: dict[str, str], firing: dict[str, list[dict[str, str]]]) -> str:
    """Check the alerts at 36 minutes with promtool. Returns its output, or an empty string if all is as expected."""
    shutil.copy(MONITORING / "rules.yaml", folder)
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [
                    {"eval_time": "36m", "alertname": name, "exp_alerts": alerts} for name, alerts in firing.items()
                ],
            }
        ],
    }
    (folder / "test.yaml").write_text(yaml.safe_dump(test))
    completed = subprocess.run(
        [promtool, "test", "rules", "test.yaml"], cwd=folder, capture_output=True, text=True, check=False
    )
    return "" if completed.returncode == 0 else completed.stdout + completed.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_alert_fires_and_names_its_object(alert: Alert, promtool: Path, tmp_path: Path) -> None:
    # No alert is expected, so that promtool prints the alerts that fire.
    output = run(promtool, tmp_path, FIRING[alert.name], {alert.name: []})
    assert f'alertname="{alert.name}"' in output, "the alert did not fire"
    assert "shop" in output or alert.name == "StreamConsumerOperatorFailing", "the alert does not name the namespace"
    assert "<no value>" not in output


def test_no_alert_fires_in_normal_operation(promtool: Path, tmp_path: Path) -> None:
    assert run(promtool, tmp_path, NORMAL, {each.name: [] for each in ALERTS}) == ""


def test_a_healthy_namesake_in_another_namespace_does_not_hide_a_stuck_consumer(promtool: Path, tmp_path: Path) -> None:
    """The stream and the group have the same names in both namespaces."""
    name = "StreamConsumerStuck"
    namesake = {
        series.replace('"shop"', '"bank"'): RISING if "acknowledged" in series else values
        for series, values in FIRING[name].items()
    }
    output = run(promtool, tmp_path, {**FIRING[name], **namesake}, {name: []})
    assert 'resource_namespace="shop"' in output
    assert 'resource_namespace="bank"' not in output


@pytest.mark.parametrize("settles", ["acknowledged", "dead_lettered", "deferred"])
def test_stream_whose_messages_are_settled_is_not_stuck(promtool: Path, tmp_path: Path, settles: str) -> None:
    name = "StreamConsumerStuck"
    series = {**FIRING[name], f"streamconsumer_{settles}_total{GROUP}": RISING}
    assert run(promtool, tmp_path, series, {name: []}) == ""


def test_prometheus_accepts_every_expression_of_the_dashboard(promtool: Path, tmp_path: Path) -> None:
    expressions = [expression for panel in PANELS for expression, _ in panel.lines]
    records = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions)
    ]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    subprocess.run([promtool, "check", "rules", "panels.yaml"], cwd=tmp_path, check=True, capture_output=True)


def used_metrics() -> Iterator[str]:
    """Yield the names of the metrics in alerts and panels."""
    texts = [each.expression for each in ALERTS] + [text for panel in PANELS for text, _ in panel.lines]
    for text in texts:
        yield from re.findall(r"streamconsumer_[a-z_]+", text)


def test_alerts_and_panels_use_only_existing_metrics() -> None:
    pods = {sample.name for family in build_registry(Metrics(), {}).collect() for sample in family.samples}
    operator_counters = {"streamconsumer_operator_reconciles_total"}
    assert set(used_metrics()) <= pods | set(GAUGES) | operator_counters


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    positions = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(positions) == len(set(positions)) == len(PANELS)
    assert all(panel["description"] for panel in dashboard["panels"])
