"""A pod's output, a line at a time: JSON in, what a person wants to read out. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.text import Text

_LEVEL_STYLES = {
    "DEBUG": "dim",
    "INFO": "dim",
    "WARNING": "yellow",
    "ERROR": "red",
    "CRITICAL": "bold white on red",
}
_HIDDEN_FIELDS = {"time", "logger", "span_id", "trace_flags", "stream", "group", "taskName"}
"""The prefix names the consumer, and the rest is for machines."""

_FRAME = re.compile(r'^ *File "(?P<file>[^"]+)", line (?P<line>\d+)', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class LogLine:
    """What a pod said: logged, or just printed (then it has no level)."""

    message: str
    level: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    stack: str = ""


def parse(text: str) -> LogLine:
    """A line of the JSON log, or whatever else the handler printed."""
    try:
        found = json.loads(text) if text.startswith("{") else None
    except ValueError:
        found = None
    if not isinstance(found, dict) or "message" not in found or "level" not in found:
        return LogLine(text)
    message, level = str(found.pop("message")), str(found.pop("level"))
    stack = str(found.pop("exc_info", None) or found.pop("stack_info", None) or "")
    return LogLine(message, level, found, stack)


def render(line: LogLine, folders: Sequence[Path]) -> list[Text]:
    """`ERROR message failed and stays pending  message_id=…  error=…`; the stack where nothing else tells."""
    if not line.level:
        return [Text(line.message)]
    first = Text.assemble((f"{line.level:<8}", _LEVEL_STYLES.get(line.level, "")), line.message)
    for name, value in _visible_fields(line, folders):
        first.append(f"  {name}=", "dim").append(str(value))
    untold = [] if "error" in line.fields else line.stack.splitlines()
    return [first, *(Text(each, "dim") for each in untold)]


def _visible_fields(line: LogLine, folders: Sequence[Path]) -> list[tuple[str, Any]]:
    """The fields worth reading, the error and where it was raised last. Counters at zero are left out."""
    told = {name: value for name, value in line.fields.items() if name not in _HIDDEN_FIELDS and value != 0}
    if told.get("deliveries") == 1:  # worth a word only when there were more
        del told["deliveries"]
    if trace_id := told.pop("trace_id", ""):
        told["trace"] = str(trace_id)[:8]
    if error := told.pop("error", ""):
        told["error"] = error
        if place := innermost_frame(line.stack, folders):
            told["at"] = place
    return list(told.items())


def innermost_frame(stack: str, folders: Sequence[Path]) -> str:
    """The innermost frame in the user's own folders, as `orders.py:12`."""
    for found in reversed(list(_FRAME.finditer(stack))):
        for folder in folders:
            if (file := Path(found["file"])).is_relative_to(folder):
                return f"{file.relative_to(folder)}:{found['line']}"
    return ""
