"""Alerts, dashboard and Prometheus Operator objects of the chart."""

import json

import pytest
import yaml

from streamconsumer.operator.manifests.metadata import labels as child_labels
from tests.charts.rendering import CHART, Helm, Manifest, of_kind, pod_template
from tests.model.examples import consumer
from tests.test_documentation_links import anchors


def test_alerts_and_dashboard_are_installed_when_enabled(helm: Helm) -> None:
    objects = helm.template(
        "--set", "prometheusRule.enabled=true,dashboard.enabled=true", "--set", "prometheusRule.labels.release=kps"
    )
    (rule,) = of_kind("PrometheusRule", objects)
    assert rule["spec"] == yaml.safe_load((CHART / "monitoring/rules.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "kps"
    config_maps = of_kind("ConfigMap", objects)
    (board,) = [config_map for config_map in config_maps if "dashboard" in config_map["metadata"]["name"]]
    assert json.loads(board["data"]["streamconsumer.json"])["title"] == "StreamConsumer"
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_runbook_url_leads_to_the_section_of_each_alert(helm: Helm) -> None:
    page = "https://git.example.com/streamconsumer/docs/alerts.md"
    objects = helm.template("--set", f"prometheusRule.enabled=true,prometheusRule.runbookUrl={page}")
    (rule,) = of_kind("PrometheusRule", objects)
    urls = {each["annotations"].pop("runbook_url") for group in rule["spec"]["groups"] for each in group["rules"]}
    sections = anchors((CHART.parents[1] / "docs/alerts.md").read_text())
    assert urls == {f"{page}#{section}" for section in sections if section.startswith("streamconsumer")}
    assert rule["spec"] == yaml.safe_load((CHART / "monitoring/rules.yaml").read_text())


@pytest.mark.parametrize("url", ["alerts.md", "https://example.com/alerts.md#", "https://{{ .x }}", "file:///alerts"])
def test_runbook_url_that_cannot_lead_to_a_section_is_rejected(helm: Helm, url: str) -> None:
    assert "runbookUrl" in helm.template_error("--set-string", f"prometheusRule.runbookUrl={url}")


@pytest.mark.parametrize("kind", ["PrometheusRule", "ConfigMap"])
def test_alerts_and_dashboard_are_left_out_by_default(helm: Helm, kind: str) -> None:
    assert of_kind(kind, helm.template()) == []


def test_pod_monitors_select_the_operator_and_all_processor_pods(all_objects: list[Manifest]) -> None:
    operator, pods = of_kind("PodMonitor", all_objects)
    labels = pod_template(all_objects)["metadata"]["labels"]
    assert operator["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert pods["spec"]["selector"]["matchLabels"].items() <= child_labels(consumer()).items()
    assert pods["spec"]["namespaceSelector"] == {"matchNames": ["shop", "billing"]}
    for monitor in (operator, pods):
        assert monitor["metadata"]["labels"]["release"] == "kps"
        assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "http", "interval": "30s"}]


def test_service_monitor_replaces_the_operators_pod_monitor(helm: Helm) -> None:
    always = "enabled=true,{0}.renderMode=alwaysRender,{0}.interval=30s"
    both = ",".join(f"{name}.{always.format(name)}" for name in ("podMonitor", "serviceMonitor"))
    objects = helm.template("--set", both)
    (monitor,), (service,), (pods,) = (of_kind(kind, objects) for kind in ("ServiceMonitor", "Service", "PodMonitor"))
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"] == [{"port": service["spec"]["ports"][0]["name"], "interval": "30s"}]
    assert service["spec"]["selector"].items() <= pod_template(objects)["metadata"]["labels"].items()
    assert pods["metadata"]["name"] == "streamconsumer-operator-pods"


@pytest.mark.parametrize(("value", "kind"), [("podMonitor", "PodMonitor"), ("serviceMonitor", "ServiceMonitor")])
@pytest.mark.parametrize("served", [True, False])
@pytest.mark.parametrize("mode", ["skipIfMissing", "alwaysRender", "failIfMissing"])
def test_monitors_are_rendered_by_render_mode_when_the_cluster_lacks_their_kind(
    helm: Helm, mode: str, served: bool, value: str, kind: str
) -> None:
    versions = ["--api-versions", f"monitoring.coreos.com/v1/{kind}"] if served else []
    arguments = [*versions, "--set", f"{value}.enabled=true,{value}.renderMode={mode}"]
    if mode == "failIfMissing" and not served:
        assert f"{value}.enabled: the cluster has no {kind}s; install the Prometheus" in helm.template_error(*arguments)
    else:
        rendered = of_kind(kind, helm.template(*arguments)) + of_kind("Service", helm.template(*arguments))
        assert len(rendered) == (2 if served or mode == "alwaysRender" else 0)
