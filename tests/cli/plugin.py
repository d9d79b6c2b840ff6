"""`kubectl streamconsumer …` as a person types it: kubectl finds the plugin on PATH."""

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
    clean = {name: value for name, value in place.cluster.environment.items() if not name.startswith("STREAMCONSUMER_")}
    path = os.pathsep.join([str(SCRIPTS), os.environ["PATH"]])
    return {**clean, "PATH": path, "COLUMNS": "100", **more}


def run_plugin(place: Namespace, verb: str, *arguments: str, **more: str) -> CompletedCommand:
    """In the namespace of the place, unless the arguments say otherwise."""
    where = () if {"-A", "-n"} & set(arguments) else ("-n", place.name)
    command = [find("kubectl"), "streamconsumer", verb, *arguments, *where]
    return subprocess.run(command, env=environment(place, **more), capture_output=True, text=True, check=False)


def run_json(place: Namespace, *arguments: str) -> Any:
    ran = run_plugin(place, *arguments, "-o", "json")
    assert ran.stdout, ran.stderr
    return json.loads(ran.stdout)
