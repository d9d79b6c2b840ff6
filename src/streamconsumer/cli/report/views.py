"""A text and its decoded forms, with the way back: each decoded byte knows its place in the text. Pure.

A secret may be percent-encoded, escaped as in JSON or Python, encoded in base64 as part of a larger text, or any of
these within another. A search in every view finds all of them without a list of their spellings.
"""

import re
from base64 import b64decode
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

DEPTH = 3
"""Encodings within each other that are undone."""

_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
_ESCAPE = re.compile(
    rb"\\(?:u([Dd][89ABab][0-9A-Fa-f]{2})\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})"
    rb"|u([0-9A-Fa-f]{4})|U(00[01][0-9A-Fa-f]{5})|x([0-9A-Fa-f]{2})|([abfnrtv0\"'\\/]))"
)
_ESCAPED = dict(zip(b"abfnrtv0", b"\a\b\f\n\r\t\v\0", strict=True))
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-](?:[A-Za-z0-9+/_\r\n-]*[A-Za-z0-9+/_-])?")
_STANDARD = bytes.maketrans(b"-_", b"+/")


Piece = tuple[Sequence[int], int]
"""Positions in the data that a view was decoded from, and how many bits each stands for. 0: all stand for each byte."""


@dataclass(frozen=True)
class View:
    """Bytes, and what they were decoded from. A text itself has no parent."""

    data: bytes
    parent: "View | None" = None
    begins: Sequence[int] = ()
    """Where each of the pieces begins in the data."""
    pieces: Sequence[Piece] = ()

    def place(self, start: int, end: int) -> tuple[int, int]:
        """The place in the text of the bytes from start to end."""
        if self.parent is None:
            return start, end
        return self.parent.place(self._source(start)[0], self._source(end - 1)[1] + 1)

    def _source(self, number: int) -> tuple[int, int]:
        """The first and the last position that the byte was decoded from."""
        index = bisect_right(self.begins, number) - 1
        positions, bits = self.pieces[index]
        bit = (number - self.begins[index]) * 8
        return (positions[bit // bits], positions[(bit + 7) // bits]) if bits else (positions[0], positions[-1])


def views(text: bytes, shortest: int) -> list[View]:
    """The text, and all that it decodes to. Base64 of fewer than `shortest` characters is not decoded."""
    level, seen = [View(text)], {text}
    found = [*level]
    for _ in range(DEPTH):
        decoded = {new.data: new for view in level for new in _decoded(view, shortest)}
        level = [new for data, new in decoded.items() if data not in seen]
        seen.update(decoded)
        found += level
    return found


def _decoded(view: View, shortest: int) -> Iterator[View]:
    yield from _replaced(view, _PERCENT, lambda found: bytes.fromhex(found[1].decode()))
    yield from _replaced(view, _ESCAPE, _unescaped)
    runs = [run for run in _BASE64.finditer(view.data) if run.end() - run.start() >= shortest]
    for offset in range(4 if runs else 0):
        yield _from_base64(view, runs, offset)


def _replaced(view: View, token: re.Pattern[bytes], meaning: Callable[[re.Match[bytes]], bytes]) -> Iterator[View]:
    """The view with each token replaced by its meaning; nothing where there is no token."""
    data, begins, pieces, last = bytearray(), list[int](), list[Piece](), 0
    for found in token.finditer(view.data):
        start, end = found.span()
        begins += [len(data), len(data) + start - last]
        pieces += [(range(last, start), 8), (range(start, end), 0)]
        data += view.data[last:start] + meaning(found)
        last = end
    if last:
        yield View(
            bytes(data + view.data[last:]),
            view,
            [*begins, len(data)],
            [*pieces, (range(last, len(view.data)), 8)],
        )


def _unescaped(found: re.Match[bytes]) -> bytes:
    high, low, short, long, byte, other = found.groups()
    if high:
        return (bytes.fromhex(high.decode()) + bytes.fromhex(low.decode())).decode("utf-16-be").encode()
    if code := short or long:
        return chr(min(int(code, 16), 0x10FFFF)).encode(errors="surrogatepass")
    if byte:
        return bytes.fromhex(byte.decode())
    return bytes([_ESCAPED.get(other[0], other[0])])


def _from_base64(view: View, runs: list[re.Match[bytes]], offset: int) -> View:
    """All runs decoded from their character `offset` on, since a run may begin before the encoded text does."""
    data, begins, pieces = bytearray(), list[int](), list[Piece]()
    for run in runs:
        positions: Sequence[int] = range(*run.span())
        characters = run[0]
        if b"\n" in characters:
            positions = [position for position in positions if view.data[position] not in b"\r\n"]
            characters = characters.translate(None, b"\r\n")
        usable = (len(characters) - offset) // 4 * 4 + (0, 0, 2, 3)[(len(characters) - offset) % 4]
        encoded = characters[offset : offset + usable].translate(_STANDARD)
        begins += [len(data)]
        data += b64decode(encoded + b"=" * (-usable % 4))
        begins += [len(data)]
        data += b"\n"
        pieces += [(positions[offset:], 6), (positions[:1], 0)]
    return View(bytes(data), view, begins, pieces)
