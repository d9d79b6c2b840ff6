"""Encoding of manifests: every text arrives unchanged, and no text takes long to encode."""

import time
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from streamconsumer.operator.kube.api import as_yaml

texts = st.text(max_size=30) | st.text(st.sampled_from('"\\\x7f\x85\u2028\ufeff\uffff\U0001f600é{}:'), max_size=30)


@given(st.dictionaries(texts, texts | st.integers() | st.booleans() | st.none(), max_size=4))
def test_yaml_parser_reads_the_same_values(value: dict[str, Any]) -> None:
    assert yaml.safe_load(as_yaml(value)) == value


@pytest.mark.parametrize("character", ["€", "\x7f", "\U0001f600", "é", "\\"])
def test_text_of_unusual_characters_is_encoded_within_50_ms(character: str) -> None:
    value = {"source": f"{character}a" * 131_072}
    began = time.thread_time()
    as_yaml(value)
    assert time.thread_time() - began < 0.05
