"""Trace of a simulation: everything that happens, as a hash, and optionally as text.

Two runs are the same run if their hashes are equal. The hash covers each callback, each command, each reply and each
fault with its virtual time. The text omits the callbacks.
"""

import hashlib
import pkgutil
from collections.abc import Callable
from functools import cache
from importlib import import_module

import streamconsumer.processor
from streamconsumer.redis_client.scripts import Script
from tests.simulation.loop import START_MICROSECONDS
from tests.simulation.server import Arguments

MAX_BUFFERED_BYTES = 65_536
MAX_SHOWN_BYTES = 160

Show = Callable[[str], object]


class Trace:
    """Trace of one simulation."""

    def __init__(self, show: Show | None = None) -> None:
        self.show = show
        """Called with each line of the text. None if only the hash is needed."""
        self._hash, self._buffer = hashlib.sha256(), bytearray()

    def add(self, microseconds: int, subject: bytes, event: bytes = b"") -> None:
        """Add an event to the hash."""
        self._buffer += b"%d %b %b\n" % (microseconds, subject, event)
        if len(self._buffer) > MAX_BUFFERED_BYTES:
            self._hash.update(self._buffer)
            self._buffer.clear()

    def digest(self) -> str:
        """Return the hash of all events so far."""
        copy = self._hash.copy()
        copy.update(self._buffer)
        return copy.hexdigest()[:16]

    def log(self, microseconds: int, subject: str, text: str) -> None:
        """Show a line of the text."""
        if self.show is not None:
            self.show(f"{(microseconds - START_MICROSECONDS) / 1e6:11.6f}  {subject:18} {text}")


def command_text(arguments: Arguments) -> str:
    """Return a command on one line. A Lua script is shown by its name."""
    if arguments[0].upper() in {b"EVAL", b"EVALSHA"}:
        arguments = [b"EVAL", operation_name(arguments).encode(), *script_arguments(arguments)]
    return shortened(b" ".join(arguments))


def shortened(data: bytes) -> str:
    """Return bytes as text on one line. Of long data, the text contains the beginning, the length and a hash."""
    text = data[:MAX_SHOWN_BYTES].decode(errors="backslashreplace").replace("\r\n", " ").replace("\n", " ")
    if len(data) <= MAX_SHOWN_BYTES:
        return text
    return f"{text}… ({len(data)} bytes, {hashlib.sha256(data).hexdigest()[:8]})"


def operation_name(arguments: Arguments) -> str:
    """Return the name of a command: for EVAL the name of the script, for commands with subcommands both words."""
    name = arguments[0].upper().decode(errors="replace")
    match name:
        case "EVAL" | "EVALSHA":
            return script_names().get(arguments[1], "EVAL")
        case "XGROUP" | "XINFO" | "CLIENT" | "CONFIG":
            return f"{name} {arguments[1].upper().decode(errors='replace')}"
        case "XREADGROUP":
            return "XREADGROUP >" if arguments[-1] == b">" else "XREADGROUP own"
        case _:
            return name


def script_arguments(arguments: Arguments) -> Arguments:
    """Return the arguments that a Lua script gets as ARGV."""
    return arguments[3 + int(arguments[2]) :]


@cache
def script_names() -> dict[bytes, str]:
    """Return the names of the engine's Lua scripts by their text. The name is the constant that contains the script."""
    names: dict[bytes, str] = {}
    package = streamconsumer.processor
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if ".telemetry" in module.name or module.name.endswith("main"):
            continue
        for name, value in vars(import_module(module.name)).items():
            if isinstance(value, str) and name.isupper() and ("redis.call" in value or "redis.pcall" in value):
                names.setdefault(value.encode(), name)
                if isinstance(value, Script):
                    names.setdefault(value.sha1.encode(), name)
    return names
