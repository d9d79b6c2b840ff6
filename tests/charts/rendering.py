"""Objects that Helm and kustomize render from charts/ and k8s/."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import binaries

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "streamconsumer-operator"
NAMESPACE = "streamconsumer-system"
KUBERNETES = "1.30.0"
"""Oldest Kubernetes version that the chart supports. A Helm 3 that is built from source assumes 1.20 by default."""

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Helm:
    """Helm binary; `name` is its name in `tests.cluster.binaries`."""

    name: str

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = binaries.find(self.name)
        return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)

    def template(
        self, *arguments: str, release: str = "streamconsumer-operator", chart: Path = CHART
    ) -> list[Manifest]:
        """Render a release. Returns the objects in Helm's order."""
        completed = self._template(release, chart, *arguments)
        assert completed.returncode == 0, completed.stderr
        return parse_documents(completed.stdout)

    def template_error(self, *arguments: str) -> str:
        """Return the error for values that Helm rejects."""
        completed = self._template("streamconsumer-operator", CHART, *arguments)
        assert completed.returncode != 0, f"{self.name} accepts {arguments}"
        return completed.stderr

    def _template(self, release: str, chart: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        target = ("--namespace", NAMESPACE, "--kube-version", KUBERNETES)
        return self.run("template", release, str(chart), *target, *arguments)


def kustomize(overlay: str) -> list[Manifest]:
    """Render a folder below k8s/."""
    command = [str(binaries.find("kubectl")), "kustomize", str(ROOT / "k8s" / overlay)]
    return parse_documents(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def parse_documents(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(kind: str, objects: list[Manifest]) -> list[Manifest]:
    return [manifest for manifest in objects if manifest["kind"] == kind]


def pod_template(objects: list[Manifest]) -> Manifest:
    """Return the pod template of the operator, from the only Deployment."""
    (deployment,) = of_kind("Deployment", objects)
    template: Manifest = deployment["spec"]["template"]
    return template


def container(objects: list[Manifest]) -> Manifest:
    (only,) = pod_template(objects)["spec"]["containers"]
    operator: Manifest = only
    return operator


def environment(objects: list[Manifest]) -> dict[str, str]:
    """Return the operator's variables with a literal value, as its container gets them."""
    literals = {variable["name"]: variable["value"] for variable in container(objects)["env"] if "value" in variable}
    return {name: value.replace("$(POD_NAMESPACE)", NAMESPACE) for name, value in literals.items()}
