"""Reads and writes YAML manifests in the format that kubectl uses."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from streamconsumer.cli.kubectl_yaml import InvalidText, parse_documents
from streamconsumer.errors import InvalidSettings
from streamconsumer.model.field_hints import quote_name
from streamconsumer.text import printable_lines

Document = dict[str, Any]

_SUFFIXES = (".json", ".yaml", ".yml")
"""Suffixes of the files that kubectl reads in a folder."""


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
    """Return every document in the files.

    A folder stands for all YAML and JSON files in the folder, and `-` stands for standard input. A list, such as the
    output of `kubectl get -o yaml`, stands for its items.

    Raises InvalidSettings if a file cannot be read or does not contain manifests.
    """
    return [document for file in files for path in _expand_folder(file) for document in _read(path)]


def _expand_folder(file: Path) -> list[Path]:
    if not file.is_dir():
        return [file]
    return sorted(path for path in file.iterdir() if path.suffix in _SUFFIXES)


def _read(path: Path) -> list[Document]:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        documents = parse_documents(text)
    except OSError as error:
        raise InvalidSettings(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InvalidSettings(f"{path}: found bytes that are not UTF-8 ({error.reason}); save it as UTF-8") from None
    except InvalidText as error:
        raise InvalidSettings(f"{path}: {error}") from None
    return [each for document in documents for each in _expand_list(path, document)]


def _expand_list(path: Path, document: Any) -> list[Document]:
    if not isinstance(document, dict):
        raise InvalidSettings(f"{path}: found {type(document).__name__}; expected Kubernetes manifests")
    kind = str(document.get("kind"))
    if not kind.endswith("List"):
        return [document]
    items = document.get("items") or []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InvalidSettings(f"{path}: items of kind {quote_name(kind)} must be a list of manifests")
    item_kind = kind.removesuffix("List")
    common = {"apiVersion": document.get("apiVersion"), "kind": item_kind} if item_kind else {}
    return [each for item in items for each in _expand_list(path, {**common, **item})]
