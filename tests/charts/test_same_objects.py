"""Helm and kustomize install the same: whoever changes one learns here of the other."""

import difflib

import pytest
import yaml

from tests.charts.rendering import Helm, Manifest, kustomize

HELMS_OWN_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by")
HELMS_OWN_ANNOTATION = "helm.sh/resource-policy"


class PlainDumper(yaml.SafeDumper):
    """Writes what is used twice twice: anchors are no difference."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def without_helms_marks(manifest: Manifest) -> Manifest:
    metadata = dict(manifest["metadata"])
    for field, own in (("labels", HELMS_OWN_LABELS), ("annotations", (HELMS_OWN_ANNOTATION,))):
        kept = {name: value for name, value in metadata.pop(field, {}).items() if name not in own}
        metadata |= {field: kept} if kept else {}
    return {**manifest, "metadata": metadata}


def printed(objects: list[Manifest]) -> list[str]:
    """Each object's lines, the objects in one order, whatever order they came in."""
    documents = [yaml.dump(manifest, Dumper=PlainDumper) for manifest in objects]
    return "---\n".join(sorted(documents)).splitlines()


@pytest.mark.parametrize(
    ("overlay", "arguments"),
    [("cluster", ()), ("namespace", ("--set", "watchNamespaces={default}"))],
)
def test_helm_and_kustomize_install_the_same_objects(helm: Helm, overlay: str, arguments: tuple[str, ...]) -> None:
    by_helm = [without_helms_marks(manifest) for manifest in helm.template(*arguments)]
    # `helm install --create-namespace` makes the Namespace, outside of the chart.
    by_kustomize = [found for found in kustomize(f"overlays/{overlay}") if found["kind"] != "Namespace"]
    difference = difflib.unified_diff(
        printed(by_helm), printed(by_kustomize), helm.name, f"k8s/overlays/{overlay}", lineterm=""
    )
    assert not (lines := list(difference)), "\n" + "\n".join(lines)
