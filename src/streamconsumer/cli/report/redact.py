"""Removes Secret values, PEM blocks and the credentials of URLs from texts, and counts what it removed. Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from streamconsumer.cli.report.named import SecretValue, pattern
from streamconsumer.cli.report.views import views

URL_CREDENTIALS, URL_QUERY, PEM_BLOCK = "URL credentials", "URL query", "PEM block"

SHORTEST_BASE64 = 16
"""Characters. Shorter base64 is decoded only if a value is that short."""

_CREDENTIALS = re.compile(rb'(?<=[A-Za-z0-9]://)[^\s"<>]{0,2048}@')
_QUERY = re.compile(rb'[A-Za-z0-9]://[^\s"<>?#]{1,2048}[?#]([^\s"<>]+)')
_BEGIN = re.compile(rb"-----BEGIN [^-\r\n]+-----")
_END = re.compile(rb"-----END [^-\r\n]+-----")
_BODY = re.compile(rb"(?:\s+[A-Za-z0-9+/=]{16,})*")

Span = tuple[int, int, str]


class Redactor:
    """Removes the values given. Each is replaced by the name and the key of its Secret."""

    def __init__(self, values: Iterable[SecretValue]) -> None:
        self.counts: Counter[str] = Counter()
        """Removed, by what it was: `Secret namespace/name, key`, or one of the constants of this module."""
        labels: dict[bytes, str] = {}
        for each in values:
            for part in each.parts():
                labels.setdefault(part, each.label)
        self._patterns = [(pattern(part), label) for part, label in labels.items()]
        self._shortest_base64 = min([SHORTEST_BASE64, *(len(part) * 8 // 6 for part in labels)])

    def text(self, text: str) -> str:
        """The text without what must not leave the cluster."""
        given = text.encode(errors="surrogatepass")
        kept, last = [], 0
        for start, end, label in _merged(self._spans(given)):
            self.counts[label] += 1
            kept += [given[last:start], f"(removed: {label})".encode()]
            last = end
        return b"".join([*kept, given[last:]]).decode(errors="replace")

    def _spans(self, given: bytes) -> Iterator[Span]:
        for view in views(given, self._shortest_base64):
            for start, end, label in self._found(view.data):
                yield (*view.place(start, end), label)

    def _found(self, data: bytes) -> Iterator[Span]:
        for part, label in self._patterns:
            found = part.search(data)
            while found:
                yield *found.span(), label
                found = part.search(data, found.start() + 1)
        yield from _pem(data)
        yield from ((found.start(), found.end() - 1, URL_CREDENTIALS) for found in _CREDENTIALS.finditer(data))
        yield from ((*found.span(1), URL_QUERY) for found in _QUERY.finditer(data))


def _pem(data: bytes) -> Iterator[Span]:
    """Whole blocks, one that begins before the data, and one that ends after it."""
    end = 0
    while begin := _BEGIN.search(data, end):
        if closing := _END.search(data, begin.end()):
            end = closing.end()
        else:
            body = _BODY.match(data, begin.end())
            end = body.end() if body else begin.end()
        yield begin.start(), end, PEM_BLOCK
    first, closing = _BEGIN.search(data), _END.search(data)
    if closing and not (first and first.start() < closing.start()):
        yield 0, closing.end(), PEM_BLOCK


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Without overlaps; of two the label of the one that begins first, or else is longer."""
    merged: list[Span] = []
    for start, end, label in sorted(spans, key=lambda each: (each[0], -each[1])):
        if end <= start:
            continue
        if merged and start < merged[-1][1]:
            before, until, known = merged[-1]
            merged[-1] = before, max(until, end), known
        else:
            merged.append((start, end, label))
    return merged
