"""Manifests to YAML and back."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconsumer.cli.manifest_files import read, to_yaml
from streamconsumer.errors import InvalidSettings

_text = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n"), max_size=20)
_scalars = st.none() | st.booleans() | st.integers() | _text
_values: st.SearchStrategy[Any] = st.recursive(
    _scalars, lambda inner: st.lists(inner) | st.dictionaries(_text, inner), max_leaves=8
)


@settings(max_examples=40)  # generating and parsing one takes tens of milliseconds
@given(st.lists(st.dictionaries(_text, _values), max_size=3))
def test_documents_are_equal_after_writing_and_parsing_yaml(documents: list[dict[str, Any]]) -> None:
    assert list(yaml.safe_load_all(to_yaml(documents))) == documents


def test_documents_are_equal_after_writing_and_reading_a_file(tmp_path: Path) -> None:
    documents: list[dict[str, Any]] = [{"kind": "A", "text": "two\nlines\n"}, {"kind": "B", "list": [1, None, "on"]}]
    file = tmp_path / "both.yaml"
    file.write_text(to_yaml(documents))
    assert read([file]) == documents


def test_multiline_text_is_written_as_a_block() -> None:
    assert to_yaml([{"source": "def handle(data):\n    pass\n"}]) == "source: |\n  def handle(data):\n      pass\n"


def test_folder_is_read_as_its_yaml_files_in_order(tmp_path: Path) -> None:
    for name, kind in (("2.yml", "Second"), ("1.yaml", "First"), ("notes.txt", "Ignored")):
        (tmp_path / name).write_text(f"kind: {kind}\n")
    assert [document["kind"] for document in read([tmp_path])] == ["First", "Second"]


@pytest.mark.parametrize("text", ["{", "- a list\n", "\x00"])
def test_file_without_manifests_is_named_in_the_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(InvalidSettings, match=r"wrong\.yaml"):
        read([file])
