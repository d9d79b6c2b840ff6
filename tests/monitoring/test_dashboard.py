"""Dashboard, evaluated with promtool and checked against the metrics that exist."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamconsumer.operator.metrics import GAUGES, SERVED
from streamconsumer.processor.metrics import Metrics, build_registry
from tools.dashboard import PANELS
from tools.monitoring import ALERTS

ROOT = Path(__file__).parents[2]
BOARD: dict[str, Any] = json.loads((ROOT / "charts/streamconsumer-operator/monitoring/dashboard.json").read_text())
NAMES = ("shop", "bank")
OPERATOR = 'namespace="operators", pod="operator-1"'
LINES = [
    pytest.param(panel, target, id=f"{panel['title']}: {target['legendFormat']}")
    for panel in BOARD["panels"]
    for target in panel["targets"]
]
VARIABLES = {"$__rate_interval": "5m", "$namespace": ".*", "$stream": ".*", "$consumer_group": ".*"}


def operator_series() -> dict[str, str]:
    """Return the operator's series of two StreamConsumers that share name, stream and group, and have no pods."""
    series = {f'{SERVED}{{{OPERATOR}, resource_namespace="{name}"}}': "1x60" for name in NAMES}
    for name in NAMES:
        labels = (
            f'{OPERATOR}, resource_namespace="{name}", resource_name="o", stream="orders", consumer_group="billing"'
        )
        series |= {f"{gauge}{{{labels}}}": "1x60" for gauge in GAUGES}
    series[f'streamconsumer_operator_reconciles_total{{{OPERATOR}, outcome="success"}}'] = "0+1x60"
    return series


def pod_series() -> dict[str, str]:
    """Return the series of a pod in each namespace, with constant counters."""
    families = build_registry(Metrics(), {"stream": "orders", "consumer_group": "billing"}).collect()
    return {
        f'{sample.name}{{namespace="{name}", pod="p", '
        + ", ".join(f'{label}="{value}"' for label, value in sample.labels.items())
        + "}": "0+60x60"
        for family in families
        for sample in family.samples
        for name in NAMES
    }


def evaluate(promtool: Path, folder: Path, expression: str, series: dict[str, str]) -> list[str]:
    """Return the samples of the expression after 30 minutes, as promtool prints them."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    # A wrong sample is expected, so that promtool prints the samples.
    wrong = [{"labels": "nothing", "value": 0}]
    query = {"expr": expression, "eval_time": "30m", "exp_samples": wrong}
    test = {"tests": [{"interval": "1m", "input_series": inputs, "promql_expr_test": [query]}]}
    (folder / "test.yaml").write_text(yaml.safe_dump(test))
    output = subprocess.run(
        [promtool, "test", "rules", "test.yaml"], cwd=folder, capture_output=True, text=True, check=False
    ).stderr
    match = re.search(r"got:(.*)", output, re.DOTALL)
    assert match, output
    return re.findall(r"\{[^{}]*\} [^\s,]+", match[1])


@pytest.mark.parametrize(("panel", "target"), LINES)
def test_line_names_its_namespace_and_group(
    panel: dict[str, Any], target: dict[str, Any], promtool: Path, tmp_path: Path
) -> None:
    """With a pod in each namespace, the legends of all lines of an expression differ."""
    samples = evaluate(promtool, tmp_path, target["expr"], operator_series() | pod_series())
    labels = [dict(re.findall(r'(\w+)="([^"]*)"', sample)) for sample in samples]
    used = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
    legends = {tuple(each[label] for label in used) for each in labels}
    assert labels
    assert len(legends) == len(labels)
    if "reconciles" not in target["expr"]:
        assert {each.get("resource_namespace") or each["namespace"] for each in labels} == set(NAMES)
    if "operator_" not in target["expr"]:
        assert "consumer_group" in used


@pytest.mark.parametrize(("panel", "target"), LINES)
def test_line_exists_without_pods(
    panel: dict[str, Any], target: dict[str, Any], promtool: Path, tmp_path: Path
) -> None:
    """A quantile of no messages is not a number. Grafana then shows the panel's text instead of "No data"."""
    if "histogram_quantile" in target["expr"]:
        assert panel["fieldConfig"]["defaults"]["noValue"] == "No messages"
        return
    samples = evaluate(promtool, tmp_path, target["expr"], operator_series())
    assert len(samples) == (1 if "reconciles" in target["expr"] else len(NAMES))


def test_variables_select_namespace_stream_and_group_of_consumers_without_pods() -> None:
    queries = {each["name"]: each["query"] for each in BOARD["templating"]["list"] if each["type"] == "query"}
    assert list(queries) == ["namespace", "stream", "consumer_group"]
    assert all(query.startswith("label_values(streamconsumer_ready") for query in queries.values())


@pytest.mark.parametrize(
    "metric",
    [
        "streamconsumer_ready",
        "streamconsumer_desired_replicas",
        "streamconsumer_scaling_active",
        "streamconsumer_scaling_limited",
        "streamconsumer_breaker_opened_total",
        SERVED,
    ],
)
def test_dashboard_shows(metric: str) -> None:
    own = [re.sub(r" or .*", "", text) for panel in PANELS for text, _ in panel.lines]
    assert any(f"{metric}" in text for text in own)


def test_filters_apply_to_each_line_of_a_consumer() -> None:
    for panel in PANELS:
        for expression, _ in panel.lines:
            selectors = re.findall(r"streamconsumer_\w+(\{[^}]*\})?", expression)
            if "operator_" not in expression:
                assert all('stream=~"$stream", consumer_group=~"$consumer_group"' in each for each in selectors)


def used_metrics() -> Iterator[str]:
    """Yield the names of the metrics in alerts and panels."""
    texts = [each.expression for each in ALERTS] + [text for panel in PANELS for text, _ in panel.lines]
    for text in texts:
        yield from re.findall(r"streamconsumer_[a-z_]+", text)


def test_alerts_and_panels_use_only_existing_metrics() -> None:
    pods = {sample.name for family in build_registry(Metrics(), {}).collect() for sample in family.samples}
    assert set(used_metrics()) <= pods | set(GAUGES) | {SERVED, "streamconsumer_operator_reconciles_total"}


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    positions = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in BOARD["panels"]]
    assert len(positions) == len(set(positions)) == len(PANELS)
    assert all(panel["description"] for panel in BOARD["panels"])
