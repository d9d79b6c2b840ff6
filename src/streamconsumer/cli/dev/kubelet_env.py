"""Computes the environment variables of a container as the kubelet does. The functions have no side effects.

A pod gets the variables in its manifest. From the shell, a pod gets only the variables that a local process needs. If a
pod got all variables of the shell, a handler could depend on a variable that is missing in the cluster.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamconsumer.errors import InvalidSettings

_INHERITED_VARIABLES = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"),
    *("LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)
_VARIABLE_REFERENCE = re.compile(r"\$(?:\$|\((?P<name>[^)]*)\))")


@dataclass(frozen=True)
class ConfigObjects:
    """Data of the Secrets and ConfigMaps in the files."""

    data_by_object: Mapping[tuple[str, str, str], Mapping[str, str]]
    """Data of each object, by kind, namespace and name of the object."""

    def get_data(self, kind: str, namespace: str, reference: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the data of one object.

        If the object is missing and the reference is optional, returns no data. If the object is missing and the
        reference is not optional, raises InvalidSettings.
        """
        data = self.data_by_object.get((kind, namespace, reference["name"]))
        if data is None and not reference.get("optional"):
            raise InvalidSettings(
                f"{kind} {namespace}/{reference['name']}: not found in FILES; add the {kind} to one of the FILES, "
                f"because `dev` does not read {kind}s from a cluster"
            )
        return data or {}

    def get_variable(self, name: str, kind: str, namespace: str, reference: Mapping[str, Any]) -> dict[str, str]:
        """Return an environment variable `name` with the value of one key of an object.

        If the object or key is missing and the reference is optional, returns no variable. If the object or key is
        missing and the reference is not optional, raises InvalidSettings.
        """
        data, key = self.get_data(kind, namespace, reference), reference["key"]
        if key in data:
            return {name: data[key]}
        if reference.get("optional"):
            return {}
        raise InvalidSettings(
            f"{kind} {namespace}/{reference['name']}: key {key!r} not found; the keys are {', '.join(sorted(data))}"
        )


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` with the value of the variable NAME. A reference to an unknown variable is left unchanged, and
    `$$` becomes a dollar sign."""

    def replacement(match: re.Match[str]) -> str:
        name = match["name"]
        return "$" if name is None else variables.get(name, match[0])

    return _VARIABLE_REFERENCE.sub(replacement, text)


def resolve(container: Mapping[str, Any], fields: Mapping[str, str], objects: ConfigObjects) -> dict[str, str]:
    """Return the environment variables of a container. Variables from `env` override variables from `envFrom`.

    `fields` contains the value of each `fieldRef`, by field path.

    Raises InvalidSettings if a variable cannot be resolved.
    """
    environment: dict[str, str] = {}
    namespace = fields["metadata.namespace"]
    for source in container.get("envFrom", []):
        kind = "Secret" if "secretRef" in source else "ConfigMap"
        data = objects.get_data(kind, namespace, source.get("secretRef") or source["configMapRef"])
        environment |= {source.get("prefix", "") + key: text for key, text in data.items()}
    for entry in container["env"]:
        match entry:
            case {"name": name, "value": text}:
                environment[name] = expand(text, environment)
            case {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} if path in fields:
                environment[name] = fields[path]
            case {"name": name, "valueFrom": {"secretKeyRef": reference}}:
                environment |= objects.get_variable(name, "Secret", namespace, reference)
            case {"name": name, "valueFrom": {"configMapKeyRef": reference}}:
                environment |= objects.get_variable(name, "ConfigMap", namespace, reference)
            case _:
                raise InvalidSettings(
                    f"environment variable {entry.get('name')}: `dev` does not support the source {entry}"
                )
    return environment


def host_env(environ: Mapping[str, str], python_path: Iterable[Path]) -> dict[str, str]:
    """Return the PYTHONPATH for the handler, and the local variables that any process needs, such as PATH."""
    inherited = [Path(each).absolute() for each in environ.get("PYTHONPATH", "").split(":") if each]
    return {
        **{name: environ[name] for name in _INHERITED_VARIABLES if name in environ},
        "PYTHONPATH": ":".join(map(str, [*python_path, *inherited])),
        "PYTHONUNBUFFERED": "1",
    }
