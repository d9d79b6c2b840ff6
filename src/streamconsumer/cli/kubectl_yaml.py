"""Parser of YAML and JSON text that returns the values that kubectl sends to the API server.

kubectl follows YAML 1.1 only in part. In kubectl, `1e3`, `0o17` and `08` are numbers, `y` is a boolean, and `1:30` and
a date are text. The loaders of PyYAML interpret these scalars in another way. This module uses only the parser of
PyYAML, and interprets the scalars itself.

kubectl silently uses the last of several equal keys. This module refuses equal keys.
"""

import base64
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

MAX_NODES = 1_000_000
"""Maximum number of values in a text. Aliases can make a small text exponentially large."""

MAX_INTEGER = 2**63
"""Integers from this number on become floats, as in the API server."""

_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_INTEGER = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TAG = "tag:yaml.org,2002:"
_PLAIN = "plain"
_TYPED = {_PLAIN, *(f"{_TAG}{name}" for name in ("bool", "float", "int", "null"))}
_BASES = {"x": 16, "b": 2, "o": 8}


class InvalidText(ValueError):
    """The text is neither valid YAML nor valid JSON. The message begins with the line, if the line is known."""


def parse_documents(text: str) -> list[Any]:
    """Return the documents in the text. Documents without content are omitted. Raises InvalidText."""
    if text.lstrip().startswith("{"):
        try:
            return [*_json_documents(text)]
        except json.JSONDecodeError:
            pass  # a YAML text can begin with a flow mapping
    try:
        nodes = [*yaml.compose_all(text, _Loader)]
    except yaml.YAMLError as error:
        raise InvalidText(f"invalid YAML: {' '.join(str(error).split())}") from None
    documents = [_Converter().convert(node) for node in nodes]
    return [document for document in documents if document is not None]


def _json_documents(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder(object_pairs_hook=_unique_pairs, parse_int=_parse_integer, parse_float=_parse_float)
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        text = text[end:]
        yield document


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise InvalidText(
                f"found the key {key!r:.80} twice in one object, expected unique keys; remove one of them"
            )
        result[key] = value
    return result


class _Loader(yaml.SafeLoader):
    """Parses YAML and gives each plain scalar without a tag the tag _PLAIN."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        if kind is yaml.ScalarNode and implicit[0]:
            return _PLAIN
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]


class _Converter:
    """Converts the nodes of one document to the values of JSON."""

    def __init__(self) -> None:
        self._open: list[yaml.Node] = []
        self._count = 0

    def convert(self, node: yaml.Node) -> Any:
        self._count += 1
        if self._count > MAX_NODES:
            raise _invalid(node, f"found aliases that expand to more than {MAX_NODES} values; write the values out")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if node in self._open:
            raise _invalid(node, "found an anchor whose value contains itself; write the value out")
        self._open.append(node)
        value = (
            [self.convert(item) for item in node.value] if isinstance(node, yaml.SequenceNode) else self._mapping(node)
        )
        self._open.pop()
        return value

    def _mapping(self, node: yaml.Node) -> dict[str, Any]:
        """Convert a mapping. If a merge (`<<`) and a key, or two merges, set the same key, the last one applies, as in
        kubectl."""
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _PLAIN and key_node.value == "<<":
                result |= self._merged(value_node)
                continue
            key, line = _key(key_node), key_node.start_mark.line + 1
            if key in lines:
                problem = f"found the key {key!r:.80}, which line {lines[key]} also sets, expected unique keys"
                raise _invalid(key_node, f"{problem}; remove one of them")
            lines[key] = line
            result[key] = self.convert(value_node)
        return result

    def _merged(self, node: yaml.Node) -> dict[str, Any]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for source in reversed(sources):  # an earlier mapping of a list has precedence
            value = self.convert(source)
            if not isinstance(value, dict):
                raise _invalid(source, "found a merge (`<<`) of a value that is not a mapping; merge mappings only")
            merged |= value
        return merged


def _invalid(node: yaml.Node, problem: str) -> InvalidText:
    return InvalidText(f"line {node.start_mark.line + 1}: {problem}")


def _key(node: yaml.Node) -> str:
    value = _scalar(node) if isinstance(node, yaml.ScalarNode) else None
    match value:
        case str():
            return value
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float():
            short = f"{value:g}"
            return short if float(short) == value else repr(value)
    raise _invalid(node, "found a key that is null, a list or a mapping, expected text; write the key in quotes")


def _scalar(node: yaml.ScalarNode) -> Any:
    text: str = node.value
    if node.tag == f"{_TAG}binary":
        try:
            return base64.b64decode(text).decode()
        except ValueError:
            raise _invalid(node, "found a value that base64 cannot decode to text; correct the value") from None
    value = _plain_scalar(text) if node.tag in _TYPED else text
    if isinstance(value, float) and not math.isfinite(value):
        raise _invalid(node, f"found {text}, expected a finite number; JSON has no such number")
    return value


def _plain_scalar(text: str) -> Any:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    is_number = text[0] in "+-.0123456789"
    digits = text.replace("_", "") if is_number else ""
    if _INTEGER.fullmatch(digits):
        return _parse_integer(digits)
    if _FLOAT.fullmatch(digits) and math.isfinite(float(digits)):
        return _parse_float(digits)
    return text


def _parse_integer(digits: str) -> int | float:
    number = digits.lstrip("+-")
    prefix = number[1:2].lower()
    base = _BASES.get(prefix) or (8 if number.startswith("0") else 10)
    value = int(number[2:] if prefix in _BASES else number, base)
    signed = -value if digits.startswith("-") else value
    return signed if -MAX_INTEGER <= signed < MAX_INTEGER else float(signed)


def _parse_float(digits: str) -> int | float:
    value = float(digits)
    return int(value) if value.is_integer() and abs(value) < MAX_INTEGER else value
