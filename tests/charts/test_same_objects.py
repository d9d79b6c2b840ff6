"""Helm and kustomize install the same objects. A change of only one of them fails here."""

import difflib

import pytest
import yaml

from tests.charts.rendering import Helm, Manifest, kustomize

HELMS_OWN_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by")
HELMS_OWN_ANNOTATION = "helm.sh/resource-policy"


class PlainDumper(yaml.SafeDumper):
    """Dumper without anchors, so that shared values make no difference."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def without_helm_metadata(manifest: Manifest) -> Manifest:
    metadata = dict(manifest["metadata"])
    for field, own in (("labels", HELMS_OWN_LABELS), ("annotations", (HELMS_OWN_ANNOTATION,))):
        others = {name: value for name, value in metadata.pop(field, {}).items() if name not in own}
        metadata |= {field: others} if others else {}
    return {**manifest, "metadata": metadata}


def to_lines(objects: list[Manifest]) -> list[str]:
    """Return the lines of all objects, in an order that does not depend on the input."""
    documents = [yaml.dump(manifest, Dumper=PlainDumper) for manifest in objects]
    return "---\n".join(sorted(documents)).splitlines()


@pytest.mark.parametrize(
    ("overlay", "arguments"),
    [("cluster", ()), ("namespace", ("--set", "watchNamespaces={default}"))],
)
def test_helm_and_kustomize_install_the_same_objects(helm: Helm, overlay: str, arguments: tuple[str, ...]) -> None:
    by_helm = [without_helm_metadata(manifest) for manifest in helm.template(*arguments)]
    # `helm install --create-namespace` creates the Namespace, which is not part of the chart.
    by_kustomize = [manifest for manifest in kustomize(f"overlays/{overlay}") if manifest["kind"] != "Namespace"]
    difference = difflib.unified_diff(
        to_lines(by_helm), to_lines(by_kustomize), helm.name, f"k8s/overlays/{overlay}", lineterm=""
    )
    assert not (lines := list(difference)), "\n" + "\n".join(lines)
