"""Output of a `dev` session: log lines with the pod name as prefix, traces, and messages of `dev`."""

import os
import signal
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path

from rich.console import Console
from rich.text import Text

from streamconsumer.cli.dev import log_lines, trace_trees
from streamconsumer.cli.dev.log_lines import LogLine
from streamconsumer.cli.dev.trace_trees import Span, TraceBuffer
from streamconsumer.text import printable

MAX_TEXT_LENGTH = 8192
"""Maximum number of characters of a text with one style, such as a message or the value of a field."""

_POD_COLORS = ("cyan", "magenta", "blue", "green", "bright_cyan", "bright_magenta")


class Terminal:
    """Prints lines. rich omits the colors if the output is a pipe or NO_COLOR is set."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._trace_buffer = TraceBuffer()
        self._styles: dict[str, str] = {}
        self._width = 0

    def set_pods(self, pods: Iterable[str]) -> None:
        """Set the names of the pods, so that the log lines of all pods are aligned."""
        self._styles = dict(zip(pods, cycle(_POD_COLORS)))
        self._width = max(map(len, self._styles), default=0)

    def print_message(self, text: str, style: str = "") -> None:
        """Print a message of `dev`."""
        self.print(Text(text, style))

    def print_log_line(self, pod: str, line: LogLine, folders: Sequence[Path]) -> None:
        """Print a log line of a pod."""
        for text in log_lines.render(line, folders):
            self.print_for_pod(pod, text)

    def print_pod_exit(self, pod: str, message: str) -> None:
        """Print in red that a pod exited or was killed."""
        self.print_for_pod(pod, Text(message, "red"))

    def add_spans(self, spans: Iterable[Span], now: float) -> None:
        """Buffer spans. `tick` shows the spans when their trace is complete."""
        self._trace_buffer.add(spans, now)

    def tick(self, now: float) -> None:
        """Show the next trace if a trace is due."""
        if spans := self._trace_buffer.next_trace(now):
            self.print_trace(spans)

    def print_trace(self, spans: Sequence[Span]) -> None:
        for text in trace_trees.render(spans):
            self.print(text)

    def print_for_pod(self, pod: str, text: Text) -> None:
        self.print(Text.assemble((f"{pod:<{self._width}} │ ", self._styles.get(pod, "")), text))

    def print(self, text: Text) -> None:
        """Print a line. Its characters become printable, because most texts come from pods."""
        pieces = ((printable(each.text, MAX_TEXT_LENGTH), each.style or "") for each in text.render(self._console))
        try:
            self._console.print(Text.assemble(*pieces))
        except SystemExit:  # rich exits if the reader of the pipe has exited (`… | head`); drain the pods first
            os.kill(os.getpid(), signal.SIGTERM)
