"""Manifests in and out of YAML, as kubectl reads and prints them."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from streamconsumer.errors import InvalidSettings

Document = dict[str, Any]


class _Dumper(yaml.SafeDumper):
    """No aliases, and text of several lines as a block: what people would have written."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def to_yaml(documents: Iterable[Document]) -> str:
    """The documents, `---` between them, keys in the order given."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def read(files: Iterable[Path]) -> list[Document]:
    """Every document of the files, of folders' *.yaml files, or of standard input for `-`."""
    return [document for file in files for path in _expand_folder(file) for document in _read(path)]


def _expand_folder(file: Path) -> list[Path]:
    return sorted(file.glob("*.y*ml")) if file.is_dir() else [file]


def _read(path: Path) -> list[Document]:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except OSError as error:
        raise InvalidSettings(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if wrong := [document for document in documents if not isinstance(document, dict)]:
        raise InvalidSettings(f"{path}: holds {type(wrong[0]).__name__}; expected Kubernetes manifests")
    return documents
