"""How a test speaks to a cluster, whichever size it has and whoever started it."""

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
    """kubectl ended with an error; the message holds what it said."""


class Cluster:
    """A cluster that answers, known by its kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002 -- as in subprocess
        """What kubectl prints; a manifest goes in as `kubectl("apply", "-f", "-", input=text)`."""
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
        """For programs that find the cluster by KUBECONFIG: kubectl, helm, the operator."""
        return {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            # One cache a cluster: the next cluster on this port has other resources.
            "KUBECACHEDIR": str(self._scratch / "kubectl"),
            "HELM_CACHE_HOME": str(self._scratch / "helm-cache"),
            "HELM_CONFIG_HOME": str(self._scratch / "helm-config"),
            "HELM_DATA_HOME": str(self._scratch / "helm-data"),
        }

    @property
    def _scratch(self) -> Path:
        return Path(tempfile.gettempdir()) / f"streamconsumer-own-cluster-{os.getuid()}"

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Server-side apply of manifests given as dictionaries."""
        everything = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(everything))

    def get(self, *arguments: str) -> Any:
        """One object or list as a dictionary: `get("pod", "web-0", "--namespace", "shop")`."""
        return json.loads(self.kubectl("get", *arguments, "--output", "json"))

    def delete_namespace(self, name: str) -> None:
        self.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")

    def helm(self, *arguments: str, version: int = 4) -> str:
        """What helm prints; `version=3` asks for the older one."""
        program = find("helm" if version == 4 else "helm3")
        ran = subprocess.run([program, *arguments], env=self.environment, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise BenchError(f"helm {' '.join(arguments)} failed:\n{ran.stderr.strip()}")
        return ran.stdout
