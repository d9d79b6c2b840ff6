"""A container's environment as the kubelet makes it. Pure.

A pod sees what its manifest says and nothing of the shell that started it, apart from the few variables that
a process on this machine needs: what works here by a variable in somebody's shell would not work there.
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
    """The data of Secrets and ConfigMaps, by kind, namespace and name."""

    data_by_object: Mapping[tuple[str, str, str], Mapping[str, str]]

    def get_data(self, kind: str, namespace: str, reference: Mapping[str, Any]) -> Mapping[str, str]:
        """Every key of one object. Raises InvalidSettings if the files do not contain it, unless it is optional."""
        data = self.data_by_object.get((kind, namespace, reference["name"]))
        if data is None and not reference.get("optional"):
            raise InvalidSettings(
                f"{kind} {namespace}/{reference['name']} is not in the files given; "
                f"`dev` takes {kind}s only from its FILES"
            )
        return data or {}

    def get_variable(self, name: str, kind: str, namespace: str, reference: Mapping[str, Any]) -> dict[str, str]:
        """One key as the variable `name`. Raises InvalidSettings if the key is missing, unless it is optional."""
        data, key = self.get_data(kind, namespace, reference), reference["key"]
        if key in data:
            return {name: data[key]}
        if reference.get("optional"):
            return {}
        raise InvalidSettings(
            f"{kind} {namespace}/{reference['name']} has no key {key!r}; it has {', '.join(sorted(data))}"
        )


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` is replaced by what is known, and stays as it is where nothing is; `$$` is a dollar sign."""

    def replaced(found: re.Match[str]) -> str:
        name = found["name"]
        return "$" if name is None else variables.get(name, found[0])

    return _VARIABLE_REFERENCE.sub(replaced, text)


def resolve(container: Mapping[str, Any], fields: Mapping[str, str], objects: ConfigObjects) -> dict[str, str]:
    """A container's `envFrom`, then its `env`, as a process's environment; `fields` answers its fieldRefs."""
    known: dict[str, str] = {}
    namespace = fields["metadata.namespace"]
    for source in container.get("envFrom", []):
        kind = "Secret" if "secretRef" in source else "ConfigMap"
        data = objects.get_data(kind, namespace, source.get("secretRef") or source["configMapRef"])
        known |= {source.get("prefix", "") + key: text for key, text in data.items()}
    for entry in container["env"]:
        match entry:
            case {"name": name, "value": text}:
                known[name] = expand(text, known)
            case {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} if path in fields:
                known[name] = fields[path]
            case {"name": name, "valueFrom": {"secretKeyRef": reference}}:
                known |= objects.get_variable(name, "Secret", namespace, reference)
            case {"name": name, "valueFrom": {"configMapKeyRef": reference}}:
                known |= objects.get_variable(name, "ConfigMap", namespace, reference)
            case _:
                raise InvalidSettings(f"variable {entry.get('name')}: `dev` cannot resolve {entry}")
    return known


def host_env(environ: Mapping[str, str], python_path: Iterable[Path]) -> dict[str, str]:
    """What a process needs of the machine it runs on, and where Python finds the handler."""
    inherited = [Path(each).absolute() for each in environ.get("PYTHONPATH", "").split(":") if each]
    return {
        **{name: environ[name] for name in _INHERITED_VARIABLES if name in environ},
        "PYTHONPATH": ":".join(map(str, [*python_path, *inherited])),
        "PYTHONUNBUFFERED": "1",
    }
