"""Access to a cluster of any size: kubectl, Helm, server-side apply."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cluster.binaries import find
from tests.cluster.errors import BenchError


class KubectlError(BenchError):
    """kubectl exited with an error. The message contains its output."""


class Cluster:
    """A running cluster, identified by its kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002 -- as in subprocess
        """Run kubectl and return its output. Pass a manifest as `kubectl("apply", "-f", "-", input=text)`."""
        ran = subprocess.run(
            [find("kubectl"), *arguments],
            input=input,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments)} failed:\n{ran.stderr.strip()}")
        return ran.stdout

    @property
    def environment(self) -> dict[str, str]:
        """The environment of programs that find the cluster by KUBECONFIG: kubectl, helm, the operator."""
        return {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            # Each cluster has its own cache: the next cluster on this port has other resources.
            "KUBECACHEDIR": str(self._scratch / "kubectl"),
            "HELM_CACHE_HOME": str(self._scratch / "helm-cache"),
            "HELM_CONFIG_HOME": str(self._scratch / "helm-config"),
            "HELM_DATA_HOME": str(self._scratch / "helm-data"),
        }

    @property
    def _scratch(self) -> Path:
        return Path(tempfile.gettempdir()) / f"streamconsumer-own-cluster-{os.getuid()}"

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Apply manifests server-side, given as dictionaries."""
        everything = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(everything))

    def get(self, *arguments: str) -> Any:
        """Return an object or list as a dictionary: `get("pod", "web-0", "--namespace", "shop")`."""
        return json.loads(self.kubectl("get", *arguments, "--output", "json"))

    def delete_namespace(self, name: str) -> None:
        self.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")

    def helm(self, *arguments: str, version: int = 4) -> str:
        """Run Helm 4, or Helm 3 with `version=3`, and return its output."""
        program = find("helm" if version == 4 else "helm3")
        ran = subprocess.run([program, *arguments], env=self.environment, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise BenchError(f"helm {' '.join(arguments)} failed:\n{ran.stderr.strip()}")
        return ran.stdout
