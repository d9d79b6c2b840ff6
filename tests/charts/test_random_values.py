"""Random valid values: the objects are valid in each supported Kubernetes version, with Helm 3 and with Helm 4."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from kubernetes_validate import SchemaNotFoundError, utils, validate

from tests.charts.random_values import NULLABLE_SECTIONS, RELEASES, REQUIRED_VALUES, TRICKY_NAMES, values
from tests.charts.rendering import CHART, Helm, Manifest, of_kind, parse_documents

VERSIONS = ("1.30", "1.37")
"""The oldest and the newest supported version. `test_chart.py` checks all objects against each version between them."""
LABEL = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"
SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
LABEL_VALUE = r"(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?"


@pytest.fixture(scope="module", autouse=True)
def cached_schemas() -> Iterator[None]:
    """Parse each schema file once. The library parses 1.3 MB for each object."""
    with patch.object(utils, "schema_contents", cache(utils.schema_contents)):
        yield


def render(helm: Helm, folder: Path, chosen: Manifest, release: str, namespace: str = "shop") -> list[Manifest]:
    """Render the chart, with the hooks."""
    file = folder / "values.yaml"
    file.write_text(json.dumps(chosen))  # each JSON text is YAML
    completed = helm.run(
        "template", release, str(CHART), "--namespace", namespace, "--kube-version", "1.30.0", "--values", str(file)
    )
    assert completed.returncode == 0, f"{release} {chosen}: {completed.stderr}"
    return parse_documents(completed.stdout)


def check_objects(objects: list[Manifest]) -> None:
    """Check the types of all fields against each Kubernetes version, and the names that no schema checks."""
    for each in objects:
        name = each["metadata"]["name"]
        pattern = LABEL if each["kind"] == "Service" else SUBDOMAIN
        assert re.fullmatch(pattern, name), f"{each['kind']} {name!r}"
        assert len(name) <= 63, f"{each['kind']} {name!r}"
        for key, value in each["metadata"].get("labels", {}).items():
            assert re.fullmatch(LABEL_VALUE, value), f"{each['kind']} {name}: label {key}={value!r}"
        for version in VERSIONS:
            if each["apiVersion"].startswith(("monitoring.coreos.com/", "apiextensions.k8s.io/")):
                continue  # the first has no schema; the CRD has tests of its own
            try:
                validate(each, version, strict=True)
            except SchemaNotFoundError:  # the kind is newer than this version
                assert each["apiVersion"].startswith("admissionregistration.k8s.io/"), each["kind"]
    identities = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in objects]
    assert len(identities) == len(set(identities))


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(chosen=values(), release=RELEASES)
def test_random_values_render_valid_objects(
    helm: Helm, tmp_path_factory: pytest.TempPathFactory, chosen: Manifest, release: str
) -> None:
    check_objects(render(helm, tmp_path_factory.mktemp("values"), chosen, release))


@pytest.mark.parametrize("release", [name for name in TRICKY_NAMES if "_" not in name and "2026" not in name])
def test_a_release_whose_name_is_a_yaml_scalar_renders_strings(helm: Helm, tmp_path: Path, release: str) -> None:
    chosen = {"serviceMonitor": {"enabled": True, "renderMode": "alwaysRender"}, "test": {"redisUrl": "redis://redis"}}
    check_objects(render(helm, tmp_path, chosen, release, namespace="1234"))


@pytest.mark.parametrize("release", ["a" * 53, f"{'a' * 32}.{'b' * 20}", "9" * 53, f"{'a' * 51}.b"])
def test_derived_names_of_a_long_release_name_are_valid(helm: Helm, tmp_path: Path, release: str) -> None:
    chosen = {"serviceMonitor": {"enabled": True, "renderMode": "alwaysRender"}, "dashboard": {"enabled": True}}
    objects = render(helm, tmp_path, chosen, release)
    check_objects(objects)
    [service] = of_kind("Service", objects)
    assert service["metadata"]["name"].endswith("-metrics")


def with_null(path: str) -> dict[str, Any]:
    *sections, name = path.split(".")
    nested: dict[str, Any] = {name: None}
    for section in reversed(sections):
        nested = {section: nested}
    return nested


@pytest.mark.parametrize("section", NULLABLE_SECTIONS)
def test_null_has_the_effect_of_an_empty_value(helm: Helm, tmp_path: Path, section: str) -> None:
    check_objects(render(helm, tmp_path, {section: None}, "streamconsumer"))


@pytest.mark.parametrize("path", REQUIRED_VALUES)
def test_null_for_a_necessary_value_is_an_error_that_names_the_value(helm: Helm, tmp_path: Path, path: str) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(with_null(path)))
    error = helm.template_error("--values", str(file))
    assert re.search(rf"{re.escape(path)}[a-zA-Z.]*: found null, expected a value; to use the default", error)
