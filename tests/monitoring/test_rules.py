"""Alerts, checked with promtool and against the metrics that exist.

Each test has two namespaces with StreamConsumers of the same name, stream and consumer group.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.test_documentation_links import HEADING, anchors
from tools.monitoring import ALERTS, Alert

ROOT = Path(__file__).parents[2]
RULES = ROOT / "charts/streamconsumer-operator/monitoring/rules.yaml"

Series = dict[str, str]

POD = '{namespace="shop", pod="orders-1", stream="orders", consumer_group="billing"}'
"""Labels of a pod's metric after Prometheus has scraped the pod."""

LEADER = 'namespace="operators", pod="operator-1"'
RESOURCE = f'{{{LEADER}, resource_namespace="shop", resource_name="o", stream="orders", consumer_group="billing"}}'
"""Labels of an operator's metric after Prometheus has scraped the operator."""

SERVED = f'streamconsumer_operator_namespace_served{{{LEADER}, resource_namespace="shop"}}'
ERRORS = 'streamconsumer_operator_reconciles_total{namespace="shop", pod="operator-1", outcome="error"}'

RISING, CONSTANT = "0+10x60", "100+0x60"
"""Samples of a rising and of a constant counter, one minute apart."""


def queue_time(count_below: dict[str, str]) -> Series:
    return {
        f'streamconsumer_queue_duration_seconds_bucket{POD[:-1]}, le="{bound}"}}': values
        for bound, values in count_below.items()
    }


FIRING: dict[str, Series] = {
    "StreamConsumerNotReady": {f"streamconsumer_ready{RESOURCE}": "0x60"},
    "StreamConsumerStuck": {
        f"streamconsumer_group_lag{RESOURCE}": "7x60",
        f"streamconsumer_acknowledged_total{POD}": CONSTANT,
        f"streamconsumer_dead_lettered_total{POD}": CONSTANT,
        f"streamconsumer_deferred_total{POD}": CONSTANT,
    },
    "StreamConsumerSlow": queue_time({"1.0": "0x60", "300.0": "0x60", "900.0": RISING, "+Inf": RISING}),
    "StreamConsumerLagUnknown": {f"streamconsumer_group_lag_known{RESOURCE}": "0x60"},
    "StreamConsumerPendingOld": {f"streamconsumer_group_oldest_pending_age_seconds{RESOURCE}": "3601+60x60"},
    "StreamConsumerRetriesMany": {
        f"streamconsumer_retried_total{POD}": RISING,
        f"streamconsumer_delivered_total{POD}": "0+50x60",
    },
    "StreamConsumerDeadLetters": {f"streamconsumer_dead_lettered_total{POD}": "0x30 1x30"},
    "StreamConsumerEntriesLost": {f"streamconsumer_lost_to_trimming_total{POD}": RISING},
    "StreamConsumerGroupRecreated": {f"streamconsumer_groups_recreated_total{POD}": RISING},
    "StreamConsumerBreakerOpen": {f"streamconsumer_breaker_opened_total{POD}": RISING},
    "StreamConsumerDrainTimedOut": {f"streamconsumer_abandoned_total{POD}": RISING},
    "StreamConsumerSpansDropped": {f"streamconsumer_spans_dropped_total{POD}": RISING},
    "StreamConsumerNamespaceNotServed": {SERVED: "0x60"},
    "StreamConsumerOperatorFailing": {ERRORS: RISING},
}
"""Series with which each alert fires."""

NORMAL: Series = {
    f"streamconsumer_ready{RESOURCE}": "1x60",
    f"streamconsumer_group_lag{RESOURCE}": "7x60",
    f"streamconsumer_group_lag_known{RESOURCE}": "1x60",
    f"streamconsumer_group_oldest_pending_age_seconds{RESOURCE}": "5x60",
    f"streamconsumer_acknowledged_total{POD}": RISING,
    f"streamconsumer_deferred_total{POD}": RISING,
    f"streamconsumer_delivered_total{POD}": "0+50x60",
    f"streamconsumer_retried_total{POD}": "0+1x60",
    **queue_time({"1.0": RISING, "300.0": RISING, "900.0": RISING, "+Inf": RISING}),
    f"streamconsumer_dead_lettered_total{POD}": CONSTANT,
    f"streamconsumer_lost_to_trimming_total{POD}": CONSTANT,
    f"streamconsumer_groups_recreated_total{POD}": CONSTANT,
    f"streamconsumer_breaker_opened_total{POD}": CONSTANT,
    f"streamconsumer_abandoned_total{POD}": CONSTANT,
    f"streamconsumer_spans_dropped_total{POD}": CONSTANT,
    SERVED: "1x60",
    ERRORS: CONSTANT,
    ERRORS.replace("error", "success"): RISING,
}
"""Series of a StreamConsumer and an operator that work, and of counters of earlier problems."""

JUST_NORMAL: dict[str, Series] = {
    "StreamConsumerNotReady": {f"streamconsumer_ready{RESOURCE}": "1x27 0x30"},
    "StreamConsumerStuck": {
        f"streamconsumer_group_lag{RESOURCE}": "0x60",
        f"streamconsumer_acknowledged_total{POD}": CONSTANT,
    },
    "StreamConsumerSlow": queue_time({"1.0": "0x60", "300.0": RISING, "900.0": RISING, "+Inf": RISING}),
    "StreamConsumerLagUnknown": {f"streamconsumer_group_lag_known{RESOURCE}": "1x7 0x50"},
    "StreamConsumerPendingOld": {f"streamconsumer_group_oldest_pending_age_seconds{RESOURCE}": "3600x60"},
    "StreamConsumerRetriesMany": {f"streamconsumer_retried_total{POD}": "0+5x60"},
    "StreamConsumerDeadLetters": {f"streamconsumer_dead_lettered_total{POD}": "0x20 1x40"},
    "StreamConsumerEntriesLost": {f"streamconsumer_lost_to_trimming_total{POD}": "0x20 1x40"},
    "StreamConsumerGroupRecreated": {f"streamconsumer_groups_recreated_total{POD}": "0x20 1x40"},
    "StreamConsumerBreakerOpen": {f"streamconsumer_breaker_opened_total{POD}": "0x20 1x40"},
    "StreamConsumerDrainTimedOut": {f"streamconsumer_abandoned_total{POD}": "0x4 1x50"},
    "StreamConsumerSpansDropped": {f"streamconsumer_spans_dropped_total{POD}": "0x20 1x40"},
    "StreamConsumerNamespaceNotServed": {SERVED: "1x33 0x20"},
    "StreamConsumerOperatorFailing": {ERRORS: "0x20 0+1x40"},
}
"""Changes of `NORMAL` with which the alert is just below its limit 36 minutes after the start."""


def in_namespace(namespace: str, series: Series) -> Series:
    return {name.replace('"shop"', f'"{namespace}"'): values for name, values in series.items()}


def firing(promtool: Path, folder: Path, series: Series, *names: str) -> str:
    """Return the alerts of these names that fire after 36 minutes, as promtool prints them."""
    shutil.copy(RULES, folder)
    test = {
        "rule_files": [RULES.name],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                # No alert is expected, so that promtool prints the alerts that fire.
                "alert_rule_test": [{"eval_time": "36m", "alertname": name, "exp_alerts": []} for name in names],
            }
        ],
    }
    (folder / "test.yaml").write_text(yaml.safe_dump(test))
    command = [str(promtool), "test", "rules", "test.yaml"]
    completed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    output = completed.stdout + completed.stderr
    assert ("FAILED" in output) == (completed.returncode == 1), output
    return "" if completed.returncode == 0 else output


def namespaces(output: str) -> list[str]:
    """Return the namespaces that the labels of the firing alerts name. The operator's own namespace does not count."""
    labels = re.findall(r"Labels:\{(alertname=.*?)\}", output)
    return sorted(re.findall(r'namespace="(shop|bank)"', " ".join(labels)))


def of_alert(value: Alert) -> str:
    return value.name


@pytest.mark.parametrize("alert", ALERTS, ids=of_alert)
def test_alert_fires_only_for_the_namespace_with_the_problem(alert: Alert, promtool: Path, tmp_path: Path) -> None:
    series = {**in_namespace("bank", NORMAL), **NORMAL, **FIRING[alert.name]}
    output = firing(promtool, tmp_path, series, alert.name)
    assert namespaces(output) == ["shop"]
    assert "shop" in output.split("Annotations:", 1)[1], "the text does not name the namespace"
    assert "<no value>" not in output


@pytest.mark.parametrize("alert", ALERTS, ids=of_alert)
def test_alert_fires_once_for_each_namespace_with_the_problem(alert: Alert, promtool: Path, tmp_path: Path) -> None:
    series = {**FIRING[alert.name], **in_namespace("bank", FIRING[alert.name])}
    assert namespaces(firing(promtool, tmp_path, series, alert.name)) == ["bank", "shop"]


@pytest.mark.parametrize("alert", ALERTS, ids=of_alert)
def test_alert_does_not_fire_just_below_its_limit(alert: Alert, promtool: Path, tmp_path: Path) -> None:
    series = {**in_namespace("bank", NORMAL), **NORMAL, **JUST_NORMAL[alert.name]}
    assert firing(promtool, tmp_path, series, alert.name) == ""


def test_no_alert_fires_in_normal_operation(promtool: Path, tmp_path: Path) -> None:
    series = {**NORMAL, **in_namespace("bank", NORMAL)}
    assert firing(promtool, tmp_path, series, *map(of_alert, ALERTS)) == ""


OF_THE_LEADER = [each for each in ALERTS if any(LEADER in name for name in FIRING[each.name])]


@pytest.mark.parametrize("alert", OF_THE_LEADER, ids=of_alert)
def test_new_leader_neither_resolves_nor_repeats_an_alert(alert: Alert, promtool: Path, tmp_path: Path) -> None:
    """The first leader ends after 28 minutes. Its last samples remain visible for five minutes."""
    before, after = {}, {}
    for name, values in FIRING[alert.name].items():
        if LEADER in name:
            first = re.split(r"\D", values)[0]
            before[name] = f"{first}x28"
            after[name.replace("operator-1", "operator-2")] = f"_x27 {values}"
    series = {**FIRING[alert.name], **before, **after}
    assert namespaces(firing(promtool, tmp_path, series, alert.name)) == ["shop"]


@pytest.mark.parametrize("alert", ALERTS, ids=of_alert)
def test_namesake_in_another_cluster_hides_no_alert(alert: Alert, promtool: Path, tmp_path: Path) -> None:
    """A Prometheus that collects the metrics of several clusters adds the label `cluster`."""
    normal = {name.replace("{", '{cluster="a", '): values for name, values in NORMAL.items()}
    problem = {name.replace("{", '{cluster="b", '): values for name, values in FIRING[alert.name].items()}
    output = firing(promtool, tmp_path, {**normal, **problem}, alert.name)
    assert namespaces(output) == ["shop"]
    assert 'cluster="b"' in output


def test_dead_letter_of_a_pod_that_prometheus_has_not_scraped_is_reported(promtool: Path, tmp_path: Path) -> None:
    """A pod that was started for one message can end before Prometheus collects its metrics."""
    name = "StreamConsumerDeadLetters"
    gauge = f"streamconsumer_group_dead_letters{RESOURCE}"
    series = {gauge: "4x30 5x30", **in_namespace("bank", {gauge: "4x60"})}
    assert namespaces(firing(promtool, tmp_path, series, name)) == ["shop"]
    assert namespaces(firing(promtool, tmp_path, {**series, **FIRING[name]}, name)) == ["shop"]


def test_replayed_dead_letters_are_not_reported(promtool: Path, tmp_path: Path) -> None:
    series = {f"streamconsumer_group_dead_letters{RESOURCE}": "4x30 0x30"}
    assert firing(promtool, tmp_path, series, "StreamConsumerDeadLetters") == ""


@pytest.mark.parametrize("settles", ["acknowledged", "dead_lettered", "deferred"])
def test_stream_whose_messages_are_settled_is_not_stuck(promtool: Path, tmp_path: Path, settles: str) -> None:
    name = "StreamConsumerStuck"
    series = {**FIRING[name], f"streamconsumer_{settles}_total{POD}": RISING}
    assert firing(promtool, tmp_path, series, name) == ""


def test_stuck_pod_does_not_fire_while_another_pod_settles_messages(promtool: Path, tmp_path: Path) -> None:
    name = "StreamConsumerStuck"
    other = {series.replace("orders-1", "orders-2"): RISING for series in FIRING[name] if POD in series}
    assert firing(promtool, tmp_path, {**FIRING[name], **other}, name) == ""


def test_followers_do_not_serve_namespaces_and_cause_no_alert(promtool: Path, tmp_path: Path) -> None:
    """A follower lists nothing before it becomes the leader, so that its metric is 0."""
    follower = {SERVED.replace("operator-1", "operator-2"): "0x60"}
    assert firing(promtool, tmp_path, {**NORMAL, **follower}, "StreamConsumerNamespaceNotServed") == ""


def test_operator_that_watches_all_namespaces_and_serves_none_is_reported(promtool: Path, tmp_path: Path) -> None:
    """Prometheus drops the empty label `resource_namespace`."""
    series = {f"streamconsumer_operator_namespace_served{{{LEADER}}}": "0x60"}
    output = firing(promtool, tmp_path, series, "StreamConsumerNamespaceNotServed")
    assert "The operator in operators does not serve any namespace" in output


def test_page_of_alerts_has_a_section_for_each_alert() -> None:
    page = (ROOT / "docs/alerts.md").read_text()
    assert [heading for heading in HEADING.findall(page) if heading.startswith("StreamConsumer")] == [
        alert.name for alert in ALERTS
    ]
    assert {alert.name.lower() for alert in ALERTS} <= anchors(page)


@pytest.mark.parametrize("alert", ALERTS, ids=of_alert)
def test_section_of_an_alert_has_all_parts(alert: Alert) -> None:
    page = (ROOT / "docs/alerts.md").read_text()
    section = page.partition(f"## {alert.name}\n")[2].partition("\n## ")[0]
    parts = [section.find(part) for part in ("**Symptom.**", "**Causes.**", "**Check.**", "```sh\n", "**Remedy.**")]
    assert parts == sorted(parts)
    assert -1 not in parts
