"""Prometheus' own tool for rules and their tests."""

import shutil

from tests.cluster.errors import MissingTool


def promtool() -> str:
    """Where it is. Raises MissingTool."""
    found = shutil.which("promtool")
    if found is None:
        raise MissingTool("promtool is not on PATH: install Debian's package prometheus")
    return found
