"""Pods for the commands: no kubelet runs, so the tests write the status and replace `kubectl exec`."""

import os
import sys
from pathlib import Path
from typing import Any

from tests.cli.plugin import SCRIPTS
from tests.model.examples import Manifest
from tests.operator.namespace import Namespace

FAKE_KUBECTL = """#!{python}
import os, sys
open({log!r}, "w").write(" ".join(sys.argv[1:]))
os.environ.update({environment!r})
os.chdir({folder!r})
command = sys.argv[sys.argv.index("--") + 1 :]
os.execvp(command[0], command)
"""


def create_pod(place: Namespace, name: str, consumer: str = "orders", **status: Any) -> None:
    """Create a pod with the status that a kubelet would report."""
    place.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"streamconsumer.dev/name": consumer}},
            "spec": {"containers": [{"name": "processor", "image": "shop:1.4"}]},
        }
    )
    place.patch("Pod", name, {"status": status}, "/status")


def container_status(**fields: Any) -> Manifest:
    """Return the status of a container, changed by `fields`."""
    return {"name": "processor", "image": "shop:1.4", "imageID": "", "ready": False, "restartCount": 0, **fields}


def path_with_fake_kubectl(folder: Path, environment: dict[str, str]) -> str:
    """Return a PATH on which `kubectl exec` runs its command on this machine with the environment of a pod.

    The fake kubectl writes its arguments to the file `kubectl-arguments` in the folder.
    """
    programs, kubectl = folder / "bin", folder / "bin" / "kubectl"
    programs.mkdir()
    log = str(folder / "kubectl-arguments")
    kubectl.write_text(FAKE_KUBECTL.format(python=sys.executable, log=log, environment=environment, folder=str(folder)))
    kubectl.chmod(0o755)
    return os.pathsep.join([str(programs), str(SCRIPTS), os.environ["PATH"]])
