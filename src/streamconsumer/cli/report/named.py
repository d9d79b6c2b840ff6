"""The Secrets that a resource or a pod names, and the patterns by which their values are found. Pure."""

import json
import re
from base64 import b64decode
from binascii import Error
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

SHORTEST = 4
"""Bytes. A shorter value occurs in every log by chance."""

SHORTEST_LINE = 8
"""Bytes of a line of a longer value. A shorter line occurs in every log by chance."""

COMMON = {b"true", b"false", b"none", b"null", b"enabled", b"disabled", b"default", b"localhost"}
"""Values that are words of every log."""

_DOCKER = (".dockerconfigjson", ".dockercfg")
_DOCKER_SECRETS = ("password", "auth", "identitytoken", "registrytoken")


@dataclass(frozen=True, order=True)
class Reference:
    """A Secret by its name. `key` is empty if all its keys count."""

    name: str
    key: str = ""
    optional: bool = False


def references(manifest: Any) -> Iterator[Reference]:
    """The Secrets that a StreamConsumer or a pod names, in whichever field."""
    match manifest:
        case dict():
            for field_name, inner in manifest.items():
                if isinstance(inner, dict) and field_name.lower().endswith(("secretref", "secretkeyref", "secret")):
                    yield from _reference(inner, optional=inner.get("optional") is True)
                if field_name == "imagePullSecrets" and isinstance(inner, list):
                    for each in inner:
                        yield from _reference(each, optional=True)  # a pod starts without it
                yield from references(inner)
        case list():
            for each in manifest:
                yield from references(each)


def _reference(given: Any, *, optional: bool) -> Iterator[Reference]:
    if isinstance(given, dict) and (name := given.get("name") or given.get("secretName")):
        yield Reference(str(name), str(given.get("key") or ""), optional)


@dataclass(frozen=True)
class SecretValue:
    """The value of a key of a Secret."""

    secret: str
    """Namespace and name."""
    key: str
    value: bytes = field(repr=False)

    @property
    def label(self) -> str:
        return f"Secret {self.secret}, key {self.key}"

    @property
    def why_not_removed(self) -> str:
        """The reason why the value is left in texts; empty if it is removed."""
        whole = self.value.strip()
        if len(whole) < SHORTEST:
            return f"shorter than {SHORTEST} bytes"
        return "a common word" if whole.lower() in COMMON else ""

    def parts(self) -> set[bytes]:
        """The byte strings to remove: the value, its lines and the secrets within it."""
        if self.why_not_removed:
            return set()
        whole = self.value.strip()
        lines = {line.strip() for line in whole.splitlines()}
        parts = {whole, *(line for line in lines if len(line) >= SHORTEST_LINE)}
        within = {part for part in _within(self.key, whole) if len(part) >= SHORTEST and part.lower() not in COMMON}
        return parts | within


def _within(key: str, value: bytes) -> Iterator[bytes]:
    """The password of a URL; the passwords of a registry's credentials."""
    with suppress(ValueError):
        if password := urlsplit(value.decode()).password:
            yield from (password.encode(), unquote_to_bytes(password))
    if key in _DOCKER:
        with suppress(ValueError):
            yield from _of_docker(json.loads(value))


def _of_docker(config: Any) -> Iterator[bytes]:
    for name, inner in config.items() if isinstance(config, dict) else ():
        if name in _DOCKER_SECRETS and isinstance(inner, str):
            yield inner.encode()
            if name == "auth":
                with suppress(Error):
                    yield b64decode(inner).partition(b":")[2]
        yield from _of_docker(inner)


def pattern(part: bytes) -> re.Pattern[bytes]:
    """Matches the part in a decoded text."""
    return re.compile(b"".join(map(_pattern, part.decode(errors="surrogateescape"))))


def _pattern(character: str) -> bytes:
    """The character in UTF-8. In a form a space may be a plus; Python escapes 128 to 255 as one byte."""
    if character == " ":
        return b"[ +]"
    encoded = re.escape(character.encode(errors="surrogateescape"))
    if 0x80 <= ord(character) <= 0xFF:
        return b"(?:%b|%b)" % (encoded, re.escape(character.encode("latin-1")))
    return encoded
