"""Runs `kubectl streamconsumer …` as users do: kubectl finds the plugin on the PATH."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.cluster.binaries import find
from tests.operator.namespace import Namespace

CompletedCommand = subprocess.CompletedProcess[str]
SCRIPTS = Path(sys.executable).parent


def environment(place: Namespace, **more: str) -> dict[str, str]:
    """Return the variables for kubectl, with the plugin on the PATH and without STREAMCONSUMER_ variables."""
    clean = {name: value for name, value in place.cluster.environment.items() if not name.startswith("STREAMCONSUMER_")}
    path = os.pathsep.join([str(SCRIPTS), os.environ["PATH"]])
    return {**clean, "PATH": path, "COLUMNS": "100", **more}


def run_plugin(place: Namespace, verb: str, *arguments: str, **more: str) -> CompletedCommand:
    """Run the command in the namespace, unless the arguments select a namespace."""
    options = () if {"-A", "-n"} & set(arguments) else ("-n", place.name)
    command = [find("kubectl"), "streamconsumer", verb, *arguments, *options]
    return subprocess.run(command, env=environment(place, **more), capture_output=True, text=True, check=False)


def run_json(place: Namespace, *arguments: str) -> Any:
    """Run the command with `-o json` and return the document."""
    ran = run_plugin(place, *arguments, "-o", "json")
    assert ran.stdout, ran.stderr
    return json.loads(ran.stdout)


def restricted_kubeconfig(place: Namespace, folder: Path, *resources: str) -> str:
    """Return a kubeconfig of a user who may only get and list these resources."""
    place.kubectl("create", "serviceaccount", "visitor")
    place.kubectl("create", "role", "visitor", "--verb=get,list", *(f"--resource={each}" for each in resources))
    place.kubectl("create", "rolebinding", "visitor", "--role=visitor", f"--serviceaccount={place.name}:visitor")
    config = json.loads(place.cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": place.kubectl("create", "token", "visitor").strip()}
    path = folder / "visitor.kubeconfig"
    path.write_text(json.dumps(config))
    return str(path)
