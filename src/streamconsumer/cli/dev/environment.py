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

_INHERITED = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"),
    *("LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)
_REFERENCE = re.compile(r"\$(?:\$|\((?P<name>[^)]*)\))")


@dataclass(frozen=True)
class Secrets:
    """What Secrets, or ConfigMaps, say, by namespace, name and key."""

    values: Mapping[tuple[str, str, str], str]
    kind: str = "Secret"

    def value(self, namespace: str, name: str, key: str) -> str:
        """Raises InvalidSettings where the Secret or its key is not among the files."""
        found = self.values.get((namespace, name, key))
        if found is not None:
            return found
        keys = sorted(self.all_of(namespace, name))
        there = f"has {', '.join(keys)}" if keys else "is not in the files given"
        raise InvalidSettings(
            f"{self.kind} {namespace}/{name}, key {key!r}: the {self.kind} {there}; "
            f"`dev` takes {self.kind}s only from its FILES"
        )

    def all_of(self, namespace: str, name: str) -> dict[str, str]:
        """Every key of one; none where it is not among the files."""
        return {key: text for (*where, key), text in self.values.items() if where == [namespace, name]}


def expand(text: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` is replaced by what is known, and stays as it is where nothing is; `$$` is a dollar sign."""

    def replaced(found: re.Match[str]) -> str:
        name = found["name"]
        return "$" if name is None else known.get(name, found[0])

    return _REFERENCE.sub(replaced, text)


@dataclass(frozen=True)
class Objects:
    """What variables of a namespace may refer to."""

    namespace: str
    secrets: Secrets
    config_maps: Secrets

    def value(self, kind: str, reference: Mapping[str, Any]) -> str | None:
        """One key. Raises InvalidSettings where it is missing, unless it is optional."""
        of = self.secrets if kind == "secretKeyRef" else self.config_maps
        try:
            return of.value(self.namespace, reference["name"], reference["key"])
        except InvalidSettings:
            if reference.get("optional"):
                return None
            raise

    def all_of(self, source: Mapping[str, Any]) -> dict[str, str]:
        """Every key of an `envFrom`, under its variable's name."""
        of = self.secrets if "secretRef" in source else self.config_maps
        reference = source.get("secretRef") or source["configMapRef"]
        found = of.all_of(self.namespace, reference["name"])
        if not found and not reference.get("optional"):
            raise InvalidSettings(
                f"{of.kind} {self.namespace}/{reference['name']} is not in the files given; "
                f"`dev` takes {of.kind}s only from its FILES"
            )
        return {source.get("prefix", "") + key: text for key, text in found.items()}


def resolve(
    entries: Iterable[Mapping[str, Any]],
    fields: Mapping[str, str],
    objects: Objects | None = None,
    sources: Iterable[Mapping[str, Any]] = (),
) -> dict[str, str]:
    """A container's `envFrom`, then its `env`, as a process's environment; `fields` answers its fieldRefs, `objects`
    what refers to Secrets and ConfigMaps."""
    known: dict[str, str] = {}
    for source in sources:
        assert objects
        known |= objects.all_of(source)
    for entry in entries:
        match entry:
            case {"name": name, "value": text}:
                known[name] = expand(text, known)
            case {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} if path in fields:
                known[name] = fields[path]
            case {"name": name, "valueFrom": {"secretKeyRef": reference}} if objects:
                known |= _given(name, objects.value("secretKeyRef", reference))
            case {"name": name, "valueFrom": {"configMapKeyRef": reference}} if objects:
                known |= _given(name, objects.value("configMapKeyRef", reference))
            case _:
                raise InvalidSettings(f"variable {entry.get('name')}: `dev` cannot resolve {entry}")
    return known


def _given(name: str, value: str | None) -> dict[str, str]:
    return {} if value is None else {name: value}


def of_this_machine(environ: Mapping[str, str], python_path: Iterable[Path]) -> dict[str, str]:
    """What a process needs of the machine it runs on, and where Python finds the handler."""
    inherited = [Path(each).absolute() for each in environ.get("PYTHONPATH", "").split(":") if each]
    return {
        **{name: environ[name] for name in _INHERITED if name in environ},
        "PYTHONPATH": ":".join(map(str, [*python_path, *inherited])),
        "PYTHONUNBUFFERED": "1",
    }
