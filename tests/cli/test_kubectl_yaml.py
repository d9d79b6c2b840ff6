"""YAML and JSON have the values that kubectl sends to the API server."""

import json
import re
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconsumer.cli.kubectl_yaml import InvalidText, parse_documents
from tests.cluster.binaries import find

HEAD = "apiVersion: example.com/v1\nkind: X\nmetadata:\n  name: a\n"
SCALARS = [
    *("1e3", "1E3", "1.5e3", "1e-1", ".5", "5.", "+.5", "-.5e1", "1.0", "-0.0", "1e21", "1e400", "-1e400", "1.e3"),
    *("0o14", "010", "08", "09.5", "0x1F", "0X1f", "0b11", "-0b11", "0o7_7", "-0o7", "+0O7", "-010", "089", "0b12"),
    *("1_000", "1_000.5", "_1", "1__0", "0x_1", "1e1_0", "0_x1", "+_1", "1_", ".5_0"),
    *("1:30", "1:30.5", "190:20:30", "2024-01-01", "2024-01-01T00:00:00Z", "2001-12-14t21:59:43.10-05:00"),
    *("yes", "no", "on", "off", "y", "n", "Y", "N", "Yes", "NO", "true", "TRUE", "tRue", "null", "Null", "~", ""),
    *("=", ".", "+", "-.", "+-1", "--1", "e5", "1e", "0x", "0b", "1.5.5", "1d", "Inf", "NaN", "0x1p3"),
    *("9223372036854775807", "9223372036854775808", "18446744073709551616", "123456789012345678901234567890"),
    *("'5'", '"yes"', "!!str 5", "!!int '5'", "!!float 5", "!x 5", "!!binary aGk=", "!!bool yes", "!!str yes", "&a 5"),
]


def kubectl_values(scalars: Sequence[str]) -> list[Any]:
    """Return the values that kubectl reads, in one call of kubectl and without a cluster."""
    text = HEAD + "spec:\n" + "".join(f"- v: {scalar}\n" for scalar in scalars)
    command = [str(find("kubectl")), "label", "--local", "-f", "-", "a=b", "-o", "json"]
    ran = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return [item["v"] for item in json.loads(ran.stdout)["spec"]]


def own_values(scalars: Sequence[str]) -> list[Any]:
    (document,) = parse_documents("spec:\n" + "".join(f"- v: {scalar}\n" for scalar in scalars))
    return [item["v"] for item in document["spec"]]


def typed(values: Sequence[Any]) -> list[tuple[type, Any]]:
    """Return each value with its type. kubectl rounds numbers that are not exact as floats, so these are floats."""
    return [(float, float(value)) if is_large(value) else (type(value), value) for value in values]


def is_large(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) >= 2**53


@pytest.mark.cluster
def test_scalars_have_the_values_of_kubectl() -> None:
    assert dict(zip(SCALARS, typed(own_values(SCALARS)), strict=True)) == dict(
        zip(SCALARS, typed(kubectl_values(SCALARS)), strict=True)
    )


@pytest.mark.cluster
@given(scalars=st.lists(st.text("01789abefxoyn_.+-eE:~", min_size=1, max_size=7), min_size=100, max_size=100))
@settings(deadline=None, max_examples=10)
def test_random_scalars_have_the_values_of_kubectl(scalars: list[str]) -> None:
    scalars = [each for each in scalars if not re.fullmatch("[+-]?[.](inf|nan)", each, re.IGNORECASE)]  # refused
    plain = [each for each in scalars if each[-1] != ":" and each != "-" and not each.startswith(("-:", "- ", ":"))]
    assert dict(zip(plain, typed(own_values(plain)), strict=True)) == dict(
        zip(plain, typed(kubectl_values(plain)), strict=True)
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("memory: 1e3", {"memory": 1000}),
        ("batchCount: 0o12", {"batchCount": 10}),
        ("node: 10:30", {"node": "10:30"}),
        ("start: 2024-01-01", {"start": "2024-01-01"}),
        ("1: a\ntrue: b\n1.5: c", {"1": "a", "true": "b", "1.5": "c"}),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("a: &x {b: 1}\nc: {<<: *x, b: 2}", {"a": {"b": 1}, "c": {"b": 2}}),
        ('{"a": 1e3, "b": "\\ud83d\\ude00"}', {"a": 1000, "b": "😀"}),
        ('{\n\t"a": 1\n}', {"a": 1}),
        ("\ufeffa: 1\r\n", {"a": 1}),
    ],
)
def test_text_has_the_value_of_kubectl(text: str, value: Any) -> None:
    assert parse_documents(text) == [value]


def test_documents_without_content_are_omitted() -> None:
    assert parse_documents("---\n---\n# comment\n---\na: 1\n---\n") == [{"a": 1}]
    assert parse_documents('{"a": 1}\n{"b": 2}') == [{"a": 1}, {"b": 2}]
    assert parse_documents('{"a": 1}\n---\nb: 2') == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2", "line 4: found the key 'c', which line 3 also sets, expected unique keys"),
        ("a: 1\na: 1", "line 2: found the key 'a', which line 1 also sets"),
        ("- {a: 1, a: 2}", "found the key 'a', which line 1 also sets"),
        ("1: a\n'1': b", "line 2: found the key '1'"),
        ('{"a": 1, "a": 2}', "found the key 'a' twice"),
        ("~: 1", "line 1: found a key that is null, a list or a mapping"),
        ("[a]: 1", "line 1: found a key that is null, a list or a mapping"),
        ("a: .inf", "line 1: found .inf, expected a finite number"),
        ("a: &x [*x]", "line 1: found an anchor whose value contains itself"),
        ("a: {<<: 1}", "line 1: found a merge"),
        ("\ta: 1", "invalid YAML"),
        ("a: *x", "invalid YAML"),
    ],
)
def test_text_that_kubectl_rejects_or_would_change_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidText) as caught:
        parse_documents(text)
    assert message in str(caught.value)


def test_aliases_do_not_exhaust_the_memory() -> None:
    levels = "".join(f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in pairwise("abcdefgh"))
    with pytest.raises(InvalidText, match="found aliases that expand to more than 1000000 values"):
        parse_documents(f"a: &a [x]\n{levels}")
