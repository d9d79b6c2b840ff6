"""Formats the output of a pod: parses JSON log lines and renders the lines for a terminal. Has no side effects."""

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
"""Fields that are hidden in the terminal. These fields repeat the line's prefix or are useful only to programs."""

_FRAME = re.compile(r'^ *File "(?P<file>[^"]+)", line (?P<line>\d+)', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class LogLine:
    """An output line of a pod. `level` is empty if the line is not a log line, for example because the handler printed
    the line."""

    message: str
    level: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    stack: str = ""


def parse(text: str) -> LogLine:
    """Parse a line of the JSON log. Any other text is returned as a line without a level."""
    try:
        record = json.loads(text) if text.startswith("{") else None
    except ValueError:
        record = None
    if not isinstance(record, dict) or "message" not in record or "level" not in record:
        return LogLine(text)
    message, level = str(record.pop("message")), str(record.pop("level"))
    stack = str(record.pop("exc_info", None) or record.pop("stack_info", None) or "")
    return LogLine(message, level, record, stack)


def render(line: LogLine, folders: Sequence[Path]) -> list[Text]:
    """Render a log line as `ERROR message failed; will retry  message_id=…  error=…`.

    If the log line has no field `error`, the lines of the stack follow.
    """
    if not line.level:
        return [Text(line.message)]
    first = Text.assemble((f"{line.level:<8}", _LEVEL_STYLES.get(line.level, "")), line.message)
    for name, value in _visible_fields(line, folders):
        first.append(f"  {name}=", "dim").append(str(value))
    stack = [] if "error" in line.fields else line.stack.splitlines()
    return [first, *(Text(each, "dim") for each in stack)]


def _visible_fields(line: LogLine, folders: Sequence[Path]) -> list[tuple[str, Any]]:
    """Return the fields of a log line that the terminal shows. The error and the innermost stack frame come last.
    Counters that are zero are omitted."""
    fields = {name: value for name, value in line.fields.items() if name not in _HIDDEN_FIELDS and value != 0}
    if fields.get("deliveries") == 1:  # only the count of a repeated delivery is useful
        del fields["deliveries"]
    if trace_id := fields.pop("trace_id", ""):
        fields["trace"] = str(trace_id)[:8]
    if error := fields.pop("error", ""):
        fields["error"] = error
        if frame := innermost_frame(line.stack, folders):
            fields["at"] = frame
    return list(fields.items())


def innermost_frame(stack: str, folders: Sequence[Path]) -> str:
    """Return the innermost stack frame whose file is in one of the folders, such as `orders.py:12`. Returns an empty
    text if no stack frame has its file in one of the folders."""
    for match in reversed(list(_FRAME.finditer(stack))):
        for folder in folders:
            if (file := Path(match["file"])).is_relative_to(folder):
                return f"{file.relative_to(folder)}:{match['line']}"
    return ""
