"""`kubectl streamconsumer …` as a person types it: kubectl finds the plugin on PATH."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.cluster.binaries import find
from tests.operator.places import Place

Ran = subprocess.CompletedProcess[str]
SCRIPTS = Path(sys.executable).parent


def environment(place: Place, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in place.cluster.environment.items() if not name.startswith("STREAMCONSUMER_")}
    path = os.pathsep.join([str(SCRIPTS), os.environ["PATH"]])
    return {**clean, "PATH": path, "COLUMNS": "100", **more}


def plugin(place: Place, verb: str, *arguments: str, **more: str) -> Ran:
    """In the namespace of the place, unless the arguments say otherwise."""
    where = () if {"-A", "-n"} & set(arguments) else ("-n", place.namespace)
    command = [find("kubectl"), "streamconsumer", verb, *arguments, *where]
    return subprocess.run(command, env=environment(place, **more), capture_output=True, text=True, check=False)


def document(place: Place, *arguments: str) -> Any:
    ran = plugin(place, *arguments, "-o", "json")
    assert ran.stdout, ran.stderr
    return json.loads(ran.stdout)
