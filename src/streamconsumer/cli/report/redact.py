"""Removes secrets from texts and counts the removals: values of Secrets, PEM blocks, credentials in URLs, and texts
with the shape of a secret.

For each value, one regular expression matches all spellings of the value. In each spelling, every character is plain,
percent-encoded, or escaped as in JSON or Python. A character can be encoded or escaped several times. Further
expressions find the base64 encoding of the value, at any position in a longer encoded text.
"""

import json
import re
from base64 import b64encode
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from streamconsumer.cli.report.secret_shapes import OPAQUE, Span, secret_spans

URL_CREDENTIALS, URL_QUERY, PEM_BLOCK = "URL credentials", "URL query", "PEM block"

MIN_VALUE_BYTES, MIN_LINE_BYTES = 4, 8
"""Minimum lengths of a value and of a line of a value. Shorter values and lines are not removed, because such texts
occur in every log by chance."""

COMMON_VALUES = {b"true", b"false", b"none", b"null", b"enabled", b"disabled", b"default", b"localhost"}
"""Common words in logs. If a value is one of these words, the value is not removed."""

_PERCENT = "%(?:25){0,3}"
_BACKSLASHES = rf"(?:\\|{_PERCENT}5[Cc]){{1,8}}"
_LINE_END = rf"(?:\s|{_BACKSLASHES}[rn]|{_PERCENT}0[ADad])"
_SCHEME = rf"[A-Za-z0-9](?::|{_PERCENT}3[Aa])(?:\\{{0,8}}/|{_PERCENT}2[Ff]){{2}}"
_REST_OF_WORD = r'[^\s"<>]*'  # skips a word without credentials or query, so that no search starts within it
_PEM_BEGIN, _PEM_END = r"-----BEGIN[^-\r\n]+-----", r"-----END[^-\r\n]+-----"

_GENERAL_PATTERNS = [
    (re.compile(rf'{_SCHEME}(?:([^\s"<>]+)(?:@|{_PERCENT}40)|{_REST_OF_WORD})'), URL_CREDENTIALS),
    (re.compile(rf'{_SCHEME}(?:[^\s"<>?#]+?(?:[?#]|{_PERCENT}(?:3[Ff]|23))([^\s"<>]+)|{_REST_OF_WORD})'), URL_QUERY),
    (
        re.compile(rf"(?s){_PEM_BEGIN}(?:(?:(?!-----BEGIN).)*?{_PEM_END}|(?:{_LINE_END}+[A-Za-z0-9+/=%]{{16,}})*)"),
        PEM_BLOCK,
    ),
    (re.compile(rf"(?s)\A(?:(?!-----BEGIN).)*?{_PEM_END}"), PEM_BLOCK),  # the text begins within a block
]

_SETTING_VALUE = re.compile(rb"""[=:][\s"']*([^\s"'][^\r\n]*?)["',\s]*$""")
"""Pattern for the value in `NAME=value` and `name: value`, without quotes."""

_BASE64_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_DIGIT_SPELLINGS = {"+": rf"(?:\+|-|{_PERCENT}2[Bb])", "/": rf"(?:_|\\{{0,8}}/|{_PERCENT}2[Ff])"}
"""Spellings of the base64 digits `+` and `/`: plain, URL-safe, percent-encoded or escaped."""


class Redactor:
    """Replaces each secret value in a text with a label, which names the Secret and the key, or the kind of value."""

    def __init__(self, values: Mapping[str, bytes]) -> None:
        self.removed_counts: Counter[str] = Counter()
        """Number of removals, by the label that replaces the value."""
        self.kept_reasons = {label: reason for label, value in values.items() if (reason := keep_reason(value))}
        """Reason why a value is not removed, by the label of the value."""
        labels = {part: label for label in {*values} - {*self.kept_reasons} for part in _secret_parts(values[label])}
        self._patterns = [(re.compile(each), label) for part, label in labels.items() for each in _part_patterns(part)]

    def redact(self, text: str) -> str:
        """Return the text without secret values, URL credentials, PEM blocks and other texts with the shape of a
        secret."""
        known = _merge(
            (*match.span(match.lastindex or 0), label)
            for pattern, label in (*self._patterns, *_GENERAL_PATTERNS)
            for match in pattern.finditer(text)
            if match.lastindex or not pattern.groups
        )
        shapes = [part for span in secret_spans(text) for part in _outside(span, known)]
        parts, position = [], 0
        for start, end, label in _merge([*known, *shapes]):
            self.removed_counts[label] += 1
            parts += [text[position:start], f"(removed: {label})"]
            position = end
        return "".join([*parts, text[position:]])


def _merge(spans: Iterable[Span]) -> list[Span]:
    """Return sorted spans without overlaps. Overlapping spans become one span with the label of the first span."""
    merged: list[Span] = []
    for start, end, label in sorted(spans, key=lambda span: (span[0], -span[1])):
        if merged and start < merged[-1][1]:
            first, last, first_label = merged[-1]
            merged[-1] = first, max(last, end), first_label
        else:
            merged.append((start, end, label))
    return merged


def _outside(span: Span, known: Sequence[Span]) -> Iterator[Span]:
    """Yield the parts of a span that are outside the known spans, so that a known value keeps its own label.

    If an opaque token contains a known value, the token as a whole is an encoding of this value. The function yields
    nothing for such a token.
    """
    position, end, label = span
    index = bisect_right(known, position, key=lambda each: each[1])
    if label == OPAQUE and index < len(known) and known[index][0] < end:
        return
    while index < len(known) and known[index][0] < end:
        if position < known[index][0]:
            yield position, known[index][0], label
        position, index = known[index][1], index + 1
    if position < end:
        yield position, end, label


def keep_reason(value: bytes) -> str:
    """Return the reason why a value is not removed from texts. The reason is empty if the value is removed."""
    whole = value.strip()
    if len(whole) < MIN_VALUE_BYTES:
        return f"shorter than {MIN_VALUE_BYTES} bytes"
    if whole.startswith(b"-----BEGIN CERTIFICATE-----") and b"PRIVATE KEY" not in whole:
        return "public certificates, which are removed as PEM blocks"
    return "a common word" if whole.lower() in COMMON_VALUES else ""


def _secret_parts(value: bytes) -> set[bytes]:
    """Return the byte strings to remove: the whole value, its lines, the values in `NAME=value` lines, the texts in
    JSON, and the password in a URL."""
    whole = value.strip()
    lines = {line.strip() for line in whole.splitlines()}
    settings = {value for line in lines for part in line.split(b";") for value in _SETTING_VALUE.findall(part)}
    parts = {whole, *(each for each in {*lines, *settings} if len(each) >= MIN_LINE_BYTES)}
    with suppress(ValueError, RecursionError):
        for text in _json_texts(json.loads(whole)):
            if len(text.encode(errors="replace")) >= MIN_LINE_BYTES:
                parts |= _secret_parts(text.encode(errors="replace"))
    with suppress(ValueError):
        password = urlsplit(whole.decode()).password or ""
        parts |= {password.encode(), unquote_to_bytes(password)}
    return {part for part in parts if not keep_reason(part)}


def _json_texts(document: Any) -> Iterator[str]:
    """Yield the texts in a JSON document, without the names of fields."""
    match document:
        case str():
            yield document
        case dict() | list():
            for inner in document.values() if isinstance(document, dict) else document:
                yield from _json_texts(inner)


def _part_patterns(part: bytes) -> Iterator[str]:
    """Yield several patterns for a part of a secret value. The first pattern matches all spellings of the part. The
    other patterns match the base64 encoding of the part, of the JSON-escaped part and of the percent-encoded part."""
    text = part.decode(errors="surrogateescape")
    yield "".join(map(_character_pattern, re.sub(r"\\+", r"\\", text)))
    for form in {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], quote(part, safe="")}:
        for offset in range(3):
            yield _base64_pattern(form.encode(errors="surrogateescape"), offset)


def _character_pattern(character: str) -> str:
    """Return a pattern that matches every escaped or encoded form of the character.

    Form data encodes a space as a plus.
    """
    encoded = character.encode(errors="surrogateescape")
    percent = "".join(f"{_PERCENT}(?i:{byte:02x})" for byte in encoded)
    if character.isascii() and character.isalnum():
        return f"(?:{character}|{percent})"
    plain = rf"[ +]|{_PERCENT}2[Bb]" if character == " " else re.escape(character)
    texts = (str(encoded)[2:-1], ascii(character)[1:-1], json.dumps(character)[1:-1], f"\\u{ord(character):04x}")
    escapes = "|".join(text[1:].replace("\\", _BACKSLASHES) for text in texts if text[0] == "\\" and text[1].isalnum())
    return f"(?:{_BACKSLASHES}(?:{percent}|{plain}|(?i:{escapes}))|{percent}|{plain})"


def _base64_pattern(part: bytes, offset: int) -> str:
    """Return a pattern for the base64 encoding of the part, possibly with line breaks. `offset` is the position of the
    part in a group of three bytes: 0, 1 or 2."""
    minimum, maximum = (b64encode(fill * offset + part + fill * 2) for fill in (b"\0", b"\xff"))
    first, last = offset * 8 // 6, -(-(offset + len(part)) * 8 // 6)
    return r"[\r\n]*".join(map(_digit_pattern, minimum[first:last], maximum[first:last]))


def _digit_pattern(minimum: int, maximum: int) -> str:
    """Return a pattern that matches the possible base64 digits at one position. A bit that is equal in `minimum` and
    `maximum` has the same value in each of these digits. All other bits can have any value."""
    low, high = _BASE64_ALPHABET.index(minimum), _BASE64_ALPHABET.index(maximum)
    digits = (chr(_BASE64_ALPHABET[number]) for number in range(64) if number & ~(low ^ high) == low)
    spellings = [_DIGIT_SPELLINGS.get(digit, digit) for digit in digits]
    return f"(?:{'|'.join(spellings)})" if len(spellings) > 1 else spellings[0]
