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
    """What Secrets say, by namespace, name and key."""

    values: Mapping[tuple[str, str, str], str]

    def value(self, namespace: str, name: str, key: str) -> str:
        """Raises InvalidSettings where the Secret or its key is not among the files."""
        found = self.values.get((namespace, name, key))
        if found is not None:
            return found
        keys = sorted(each[2] for each in self.values if each[:2] == (namespace, name))
        there = f"has {', '.join(keys)}" if keys else "is not in the files given"
        raise InvalidSettings(
            f"Secret {namespace}/{name}, key {key!r}: the Secret {there}; `dev` takes Secrets only from its FILES"
        )


def expand(text: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` is replaced by what is known, and stays as it is where nothing is; `$$` is a dollar sign."""

    def replaced(found: re.Match[str]) -> str:
        name = found["name"]
        return "$" if name is None else known.get(name, found[0])

    return _REFERENCE.sub(replaced, text)


def resolve(entries: Iterable[Mapping[str, Any]], fields: Mapping[str, str]) -> dict[str, str]:
    """A container's `env` as a process's environment; `fields` answers its fieldRefs."""
    known: dict[str, str] = {}
    for entry in entries:
        match entry:
            case {"name": name, "value": text}:
                known[name] = expand(text, known)
            case {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} if path in fields:
                known[name] = fields[path]
            case _:
                raise InvalidSettings(f"variable {entry.get('name')}: `dev` cannot resolve {entry}")
    return known


def of_this_machine(environ: Mapping[str, str], python_path: Iterable[Path]) -> dict[str, str]:
    """What a process needs of the machine it runs on, and where Python finds the handler."""
    inherited = [Path(each).absolute() for each in environ.get("PYTHONPATH", "").split(":") if each]
    return {
        **{name: environ[name] for name in _INHERITED if name in environ},
        "PYTHONPATH": ":".join(map(str, [*python_path, *inherited])),
        "PYTHONUNBUFFERED": "1",
    }
