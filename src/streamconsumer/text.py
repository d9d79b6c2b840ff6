"""Printable forms of untrusted text, for terminals, logs, conditions, Events and JSON.

An untrusted text could send commands to a terminal, change the order of the characters around it, or add lines to a
log. Each dangerous character is therefore replaced by its Python escape, such as `\\x1b`, `\\n` or `\\u202e`. Letters,
digits and symbols of all scripts are unchanged.

A backslash is unchanged too. Paths and regular expressions therefore stay readable, and escaping a text a second time
does not change the text. However, the result does not show whether `\\n` was a line break or two characters. JSON from
`to_json` preserves the difference between a line break and the two characters.
"""

import json
from typing import Any

_INVISIBLE_LETTERS_AND_MARKS = frozenset(
    [
        *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
        *range(0x180B, 0x1810),
        *range(0xFE00, 0xFE10),
        *range(0xE0100, 0xE01F0),
    ]
)
"""Characters that have no shape, although Unicode classifies them as letters, marks or symbols: fillers, joiners and
variation selectors. `str.isprintable` rejects all other invisible characters."""

_LINE_FEED = ord("\n")

ELLIPSIS = "…"


class _Escapes:
    """Translation table in which `str.translate` looks up each character."""

    def __getitem__(self, code: int) -> str:
        character = chr(code)
        return character if _is_visible(character) else ascii(character)[1:-1]


class _LineEscapes(_Escapes):
    """Translation table that keeps line feeds."""

    def __getitem__(self, code: int) -> str:
        return "\n" if code == _LINE_FEED else super().__getitem__(code)


class _JsonEscapes:
    """Translation table for JSON. Line feeds are kept, because JSON contains line feeds only as white space between
    values."""

    def __getitem__(self, code: int) -> str:
        character = chr(code)
        if code == _LINE_FEED or _is_visible(character):
            return character
        units = character.encode("utf-16-be", errors="surrogatepass")
        return "".join(f"\\u{units[start : start + 2].hex()}" for start in range(0, len(units), 2))


_ESCAPES, _LINE_ESCAPES, _JSON_ESCAPES = _Escapes(), _LineEscapes(), _JsonEscapes()


def printable(text: str, max_length: int | None = None) -> str:
    """Escape control characters, line breaks, invisible characters, characters that change the direction of text, and
    lone surrogates.

    If the result is longer than `max_length`, the result is cut and ends with an ellipsis.
    """
    if max_length is not None and len(text) > max_length:
        text = text[:max_length] + ELLIPSIS  # truncating before escaping keeps the cost of long texts low
    if not (text.isascii() and text.isprintable()):
        text = text.translate(_ESCAPES)
    return text if max_length is None or len(text) <= max_length else text[: max_length - 1] + ELLIPSIS


def printable_lines(text: str) -> str:
    """Return the text in printable form, with its line feeds. Use this function for texts of several lines, such as
    tracebacks."""
    return text.translate(_LINE_ESCAPES)


def to_json(document: Any, *, indent: int | None = 2) -> str:
    """Return JSON in which every character is printable. JSON parsers return the original document."""
    return json_printable(json.dumps(document, ensure_ascii=False, indent=indent))


def json_printable(text: str) -> str:
    """Escape the non-printable characters of a JSON text, for example as `\\u202e`. A JSON parser returns the same
    value as before."""
    return text if text.isascii() and text.isprintable() else text.translate(_JSON_ESCAPES)


def _is_visible(character: str) -> bool:
    return character.isprintable() and ord(character) not in _INVISIBLE_LETTERS_AND_MARKS
