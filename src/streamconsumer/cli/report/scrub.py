"""What must not leave the cluster, taken out. Pure.

Manifests go by what is known to be harmless: the value of a variable, somebody else's annotation, the text of a
ConfigMap are gone whatever they hold. Free text, as logs and events are, goes by what is known to be secret: values of
Secrets, variables and annotations wherever they occur, credentials in URLs, and what is called a password or a token.
"""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, unquote

from streamconsumer.model import names

REMOVED = "(removed)"

SHORTEST = 3
"""A shorter Secret would be found in every second word, and is none to speak of."""

SHORTEST_GUESS = 6
"""For what is no Secret, but may hold one: variables are often `true` or `INFO`."""

_OURS = f"{names.GROUP}/"
_VALUES = {"data", "stringData", "binaryData", "annotations"}
"""Mappings whose keys are told, and whose values are not."""

_OUR_VARIABLES = (names.ENVIRONMENT_PREFIX, "OTEL_SERVICE_NAME")
"""The latter is the name of the StreamConsumer, which is to stay readable."""

_CODE = {"source", "command", "args"}
_GONE = {"managedFields"}
"""A copy of every field's name, the keys of mappings included."""

_USER = re.compile(r"(?<=://)[^\s\"'<>]*@")
_QUERY = re.compile(r"(://[^\s\"'<>?]+\?)[^\s\"'<>]+")
_PASSWORD = re.compile(r"://[^\s/@:]*:([^\s@]+)@")
_BEARER = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{4,}", re.IGNORECASE)
_CALLED = re.compile(
    r"((?:passw(?:or)?d|secret|token|api[_-]?key|authorization|credentials?)[\"']?\s*[=:]\s*)"
    r"(\"[^\"]*\"|'[^']*'|[^\s,;&\"']+)",
    re.IGNORECASE,
)


class Scrubber:
    """`secrets` are taken out wherever they occur: as they are, line by line, as base64 and as in a URL."""

    def __init__(self, secrets: Iterable[str]) -> None:
        shapes = {shape for secret in secrets for shape in _shapes(secret)}
        longest_first = sorted(shapes, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if shapes else None

    def text(self, text: str) -> str:
        """A log, an event, a sentence."""
        if self._known:
            text = self._known.sub(REMOVED, text)
        text = _QUERY.sub(rf"\1{REMOVED}", _USER.sub(f"{REMOVED}@", text))
        return _CALLED.sub(rf"\1{REMOVED}", _BEARER.sub(rf"\1 {REMOVED}", text))

    def value(self, value: Any) -> Any:
        """A manifest, or whatever JSON can say."""
        match value:
            case dict():
                return {self.text(key): self._field(key, inner) for key, inner in value.items() if key not in _GONE}
            case list():
                return [self.value(each) for each in value]
            case str():
                return self.text(value)
        return value

    def _field(self, key: str, inner: Any) -> Any:
        if key in _VALUES and isinstance(inner, dict):
            return {
                self.text(name): self.value(text) if name.startswith(_OURS) else REMOVED for name, text in inner.items()
            }
        if key in _CODE:
            return REMOVED
        if key == "env" and isinstance(inner, list):
            return [self.value({**each, "value": REMOVED} if _may_hold_one(each) else each) for each in inner]
        return self.value(inner)


def guesses(manifest: Any) -> Iterator[str]:
    """What may be secret of what a manifest itself tells: see `Scrubber.value`, and the passwords in its URLs."""
    match manifest:
        case dict():
            for key, inner in manifest.items():
                yield from _of_field(key, inner)
                yield from guesses(inner)
        case list():
            for each in manifest:
                yield from guesses(each)
        case str():
            for found in _PASSWORD.finditer(manifest):
                yield from (found[1], unquote(found[1]))


def secret_names(manifest: Any) -> Iterator[str]:
    """The Secrets that a manifest names, in whichever field."""
    match manifest:
        case dict():
            for key, inner in manifest.items():
                if isinstance(inner, dict) and key.lower().endswith(("secretref", "secretkeyref", "secret")):
                    yield from (str(inner[name]) for name in ("name", "secretName") if name in inner)
                yield from secret_names(inner)
        case list():
            for each in manifest:
                yield from secret_names(each)


def _of_field(key: str, inner: Any) -> Iterator[str]:
    found: list[Any] = []
    if key in _VALUES and isinstance(inner, dict):
        found = [text for name, text in inner.items() if not name.startswith(_OURS)]
    elif key == "env" and isinstance(inner, list):
        found = [each["value"] for each in inner if _may_hold_one(each)]
    yield from (each for each in found if isinstance(each, str) and len(each) >= SHORTEST_GUESS)


def _may_hold_one(variable: dict[str, Any]) -> bool:
    """Our own hold no secret but in a URL: those come as files."""
    return "value" in variable and not str(variable.get("name")).startswith(_OUR_VARIABLES)


def _shapes(secret: str) -> Iterator[str]:
    """How it may be written."""
    whole = secret.strip()
    lines = {line.strip() for line in whole.splitlines()}
    for each in {whole, *(line for line in lines if len(line) >= SHORTEST_GUESS)}:
        if len(each) >= SHORTEST:
            yield from (each, quote(each, safe=""), repr(each)[1:-1], json.dumps(each)[1:-1])
            yield b64encode(each.encode()).decode()
