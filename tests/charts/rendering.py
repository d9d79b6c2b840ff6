"""What Helm and kustomize make of the files in charts/ and k8s/, as parsed objects."""

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
"""The oldest Kubernetes the chart admits. A Helm 3 built from source believes in 1.20 when not told."""

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Helm:
    """One Helm: its name among the bench's programs."""

    name: str

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = binaries.find(self.name)
        return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)

    def template(
        self, *arguments: str, release: str = "streamconsumer-operator", chart: Path = CHART
    ) -> list[Manifest]:
        """The objects of a release, in Helm's order."""
        done = self._template(release, chart, *arguments)
        assert done.returncode == 0, done.stderr
        return parse_documents(done.stdout)

    def template_error(self, *arguments: str) -> str:
        """Why Helm does not render these values."""
        done = self._template("streamconsumer-operator", CHART, *arguments)
        assert done.returncode != 0, f"{self.name} accepts {arguments}"
        return done.stderr

    def _template(self, release: str, chart: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        place = ("--namespace", NAMESPACE, "--kube-version", KUBERNETES)
        return self.run("template", release, str(chart), *place, *arguments)


def kustomize(overlay: str) -> list[Manifest]:
    """The objects of a folder below k8s/."""
    command = [str(binaries.find("kubectl")), "kustomize", str(ROOT / "k8s" / overlay)]
    return parse_documents(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def parse_documents(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(kind: str, objects: list[Manifest]) -> list[Manifest]:
    return [found for found in objects if found["kind"] == kind]


def pod_template(objects: list[Manifest]) -> Manifest:
    """The operator's pod: of the only Deployment."""
    (deployment,) = of_kind("Deployment", objects)
    template: Manifest = deployment["spec"]["template"]
    return template


def container(objects: list[Manifest]) -> Manifest:
    (found,) = pod_template(objects)["spec"]["containers"]
    operator: Manifest = found
    return operator


def environment(objects: list[Manifest]) -> dict[str, str]:
    """The operator's variables that have a plain value, as its container sees them."""
    plain = {variable["name"]: variable["value"] for variable in container(objects)["env"] if "value" in variable}
    return {name: value.replace("$(POD_NAMESPACE)", NAMESPACE) for name, value in plain.items()}
