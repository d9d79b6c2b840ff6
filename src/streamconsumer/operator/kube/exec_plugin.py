"""Reason why an exec plugin of a kubeconfig returned no credentials.

The package `kubernetes` only logs the failure of a plugin, and then continues as an anonymous user. Many users see the
failure for the first time in a container or in a CI job that does not contain the plugin.
"""

import ast
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_LOGGER = logging.getLogger("kubernetes.aio.config.kube_config")


@contextmanager
def captured_errors() -> Iterator[list[str]]:
    """Collect the errors that the package `kubernetes` logs, and do not print them."""
    errors: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: errors.append(record.getMessage())  # type: ignore[method-assign]
    propagate = _LOGGER.propagate
    _LOGGER.addHandler(handler)
    _LOGGER.propagate = False
    try:
        yield errors
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.propagate = propagate


def plugin_failure(plugin: Mapping[str, Any], errors: list[str], context: str | None) -> str:
    """Return the error of a plugin that returned no credentials. The arguments of the plugin are not shown, because
    they can contain credentials."""
    reason = _reason(errors[-1]) if errors else "its output contains neither a token nor a certificate with a key"
    if reason.startswith("[Errno 2]"):
        reason = "the command is not on the PATH; install the command"
    option = f" --context {context}" if context else ""
    return (
        f"the exec plugin of the kubeconfig returned no credentials: {plugin['command']}: {reason}; "
        f"run `kubectl{option} auth whoami` to see the whole error"
    )


def _reason(error: str) -> str:
    """Return the exit code and the last line of the plugin's standard error, without the Python syntax of the log
    record."""
    text = error.removeprefix("exec: ")
    if match := re.fullmatch(r"(.*?)\. (b'.*'|b\".*\")", text, re.DOTALL):
        lines = ast.literal_eval(match[2]).decode(errors="replace").split("\n")
        return f"{match[1].replace('process returned', 'exit code')}: {lines[-1].strip()}"
    return " ".join(text.replace("process returned", "exit code").split())
