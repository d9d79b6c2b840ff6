"""Reads and writes YAML manifests in the format that kubectl uses."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from streamconsumer.errors import InvalidSettings
from streamconsumer.text import printable_lines

Document = dict[str, Any]


class _Dumper(yaml.SafeDumper):
    """Writes YAML without aliases and writes multi-line text as a block, as in manifests written by hand."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    block_or_plain = "|" if "\n" in text else None
    is_printable = printable_lines(text) == text  # only a quoted text can contain escapes
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=block_or_plain if is_printable else '"')


_Dumper.add_representer(str, _represent_text)


def to_yaml(documents: Iterable[Document]) -> str:
    """Return the documents as YAML, separated by `---`, with the keys in their original order.

    Characters that are not printable are replaced by Python escapes, which are also valid escapes in YAML.
    """
    return printable_lines(yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True))


def read(files: Iterable[Path]) -> list[Document]:
    """Return every document in the files. A folder stands for all YAML files in the folder, and `-` stands for standard
    input.

    Raises InvalidSettings if a file cannot be read or does not contain manifests.
    """
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
        raise InvalidSettings(f"{path}: invalid YAML: {' '.join(str(error).split())}") from None
    if invalid := [document for document in documents if not isinstance(document, dict)]:
        raise InvalidSettings(f"{path}: found {type(invalid[0]).__name__}; expected Kubernetes manifests")
    return documents
