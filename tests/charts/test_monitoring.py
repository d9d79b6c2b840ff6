"""The alerts and the dashboard as the chart installs them."""

import json

import pytest
import yaml

from tests.charts.rendering import CHART, Helm, of_kind


def test_alerts_and_a_dashboard_are_installed_where_asked_for(helm: Helm) -> None:
    objects = helm.template(
        "--set", "prometheusRule.enabled=true,dashboard.enabled=true", "--set", "prometheusRule.labels.release=kps"
    )
    (rule,) = of_kind("PrometheusRule", objects)
    assert rule["spec"] == yaml.safe_load((CHART / "monitoring/rules.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "kps"
    (board,) = [each for each in of_kind("ConfigMap", objects) if "dashboard" in each["metadata"]["name"]]
    assert json.loads(board["data"]["streamconsumer.json"])["title"] == "StreamConsumer"
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"


@pytest.mark.parametrize("kind", ["PrometheusRule", "ConfigMap"])
def test_otherwise_not(helm: Helm, kind: str) -> None:
    assert of_kind(kind, helm.template()) == []
