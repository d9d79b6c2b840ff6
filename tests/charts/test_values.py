"""Chart values: values.yaml, values.schema.json and README.md agree."""

import json
from pathlib import Path

import pytest
import yaml

from tests.charts.rendering import CHART, Helm, Manifest, container, of_kind
from tools.values import leaves

VALUES_TEXT = (CHART / "values.yaml").read_text()
VALUES: Manifest = yaml.safe_load(VALUES_TEXT)
SCHEMA: Manifest = json.loads((CHART / "values.schema.json").read_text())
ONLY_FOR_PARENT_CHARTS = {"global", "enabled"}


def test_each_value_is_described_on_the_line_above_it() -> None:
    lines = [line.strip() for line in VALUES_TEXT.splitlines()]
    for path, description, _ in leaves(SCHEMA, VALUES):
        next_line = lines[lines.index(f"# {description}") + 1]
        assert next_line.startswith(f"{path.split('.')[-1]}:")


def test_schema_has_no_value_that_the_chart_lacks() -> None:
    assert set(SCHEMA["properties"]) - set(VALUES) == ONLY_FOR_PARENT_CHARTS


@pytest.mark.parametrize(
    "values",
    [
        "watchNamespace=shop",
        "image.name=x",
        "watchNamespaces=shop",
        "watchNamespaces={Shop}",
        "watchNamespaces={shop,shop}",
        "rbac.secretNamespaces=shop",
        "rbac.secretNamespaces={Shop}",
        "rbac.secretNamespaces={shop,shop}",
        "rbac.secretNamespaces={../shop}",
        "rbac.secretNamespaces={*}",
        'rbac.secretNamespaces={""}',
        "rbac.readSecrets=true",
        "allowedDestinations={localhost}",
        "allowedDestinations={0.0.0.0/0}",
        "allowedDestinations={::/0}",
        "allowedDestinations={10.0.0.0/33}",
        "allowedDestinations={10.0.0.256}",
        "allowedDestinations={10.0.0}",
        "allowedDestinations={fd00}",
        "allowedDestinations={fd00::/129}",
        "allowedDestinations=127.0.0.0/8",
        "image.digest=sha256:abc",
        "image.repository=https://example.com/x",
        "image.pullPolicy=Sometimes",
        "telemetry.endpoint=collector:4317",
        "telemetry.endpoint=http://me:word@collector:4318",
        r"commonLabels.app\.kubernetes\.io/name=x",
        r"podLabels.app\.kubernetes\.io/instance=x",
        "logLevel=verbose",
        "fullnameOverride=Not_A_Name",
        "crds.keep=maybe",
        "extraEnv[0].name=POD_NAME",
        "extraVolumes[0].name=tmp",
        "podMonitor.renderMode=sometimes",
        "podMonitor.interval=often",
        "hostUsers=maybe",
        "extraEnv[0].name=STREAMCONSUMER_OPERATOR_LOG_LEVEL",
    ],
)
def test_invalid_value_is_rejected(helm: Helm, values: str) -> None:
    assert "specifications of the schema" in helm.template_error("--set", values)


def test_extra_variable_cannot_duplicate_a_variable_of_the_chart(helm: Helm) -> None:
    arguments = "allowedDestinations={::1},telemetry.endpoint=http://collector:4318,processor.image.pullPolicy=Always"
    set_by_the_chart = [variable["name"] for variable in container(helm.template("--set", arguments))["env"]]
    rejected = SCHEMA["properties"]["extraEnv"]["items"]["properties"]["name"]["not"]["enum"]
    assert set(rejected) == set(set_by_the_chart)


def test_common_label_cannot_duplicate_a_label_of_the_chart(helm: Helm) -> None:
    arguments = ("--set", "serviceAccount.create=true,commonLabels.team=shop")
    set_by_the_chart = {
        name for manifest in helm.template(*arguments) for name in manifest["metadata"].get("labels", {})
    }
    rejected = SCHEMA["definitions"]["labels"]["propertyNames"]["not"]["enum"]
    assert {name for name in set_by_the_chart if "kubernetes.io/" in name or "helm.sh/" in name} == set(rejected)


@pytest.mark.parametrize("enabled", [True, False])
def test_chart_works_as_a_subchart_that_can_be_disabled(helm: Helm, tmp_path: Path, enabled: bool) -> None:
    parent = tmp_path / "parent"
    (parent / "charts").mkdir(parents=True)
    (parent / "charts" / CHART.name).symlink_to(CHART)
    dependency = {"name": CHART.name, "version": "0.1.0", "condition": f"{CHART.name}.enabled"}
    chart = {"apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": [dependency]}
    (parent / "Chart.yaml").write_text(yaml.safe_dump(chart))
    values = {"global": {"registry": "example.com"}, CHART.name: {"enabled": enabled}}
    (parent / "values.yaml").write_text(yaml.safe_dump(values))
    assert bool(of_kind("Deployment", helm.template(chart=parent))) is enabled
