"""Formats traces as trees, and selects the traces to show if thousands arrive per second.

The code in this module performs no I/O and reads no clock: the caller passes the current time.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from streamconsumer.text import printable

QUIET_PERIOD_SECONDS = 1.0
"""Number of seconds without a new span after which a trace counts as complete and is shown."""

INTERVAL_SECONDS = 2.0
"""Minimum number of seconds between two traces that are shown. If several traces become complete within this time, one
of these traces is shown, and all others are skipped."""

MAX_TRACES = 10_000
"""Maximum number of buffered traces. Traces that were shown stay in the buffer, so that a retry is shown together with
the first attempt."""

MESSAGE_ID = "messaging.message.id"
DELIVERY_COUNT = "streamconsumer.delivery.count"
POD_NAME = "k8s.pod.name"


@dataclass(frozen=True, slots=True)
class Span:
    """A finished span. Ids are hexadecimal; `parent_id` is empty for a root span."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start_ns: int
    end_ns: int
    is_producer: bool = False
    is_failed: bool = False
    error: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    pod: str = ""


@dataclass(slots=True)
class _Trace:
    updated_at: float
    spans: dict[str, Span] = field(default_factory=dict)
    is_unshown: bool = True

    @property
    def is_failed(self) -> bool:
        return any(span.is_failed for span in self.spans.values())

    def is_ready(self, now: float) -> bool:
        """Return whether the trace can be shown. A trace is not shown while it contains only spans of producers."""
        has_consumer = not all(span.is_producer for span in self.spans.values())
        return self.is_unshown and has_consumer and now - self.updated_at >= QUIET_PERIOD_SECONDS


class TraceBuffer:
    """Collects spans into traces and selects the next trace to show."""

    def __init__(self) -> None:
        self._traces: OrderedDict[str, _Trace] = OrderedDict()
        self._last_shown_at = float("-inf")

    def add(self, spans: Iterable[Span], now: float) -> None:
        """Add spans to their traces. If there are more than MAX_TRACES traces, the oldest traces are removed."""
        for span in spans:
            trace = self._traces.setdefault(span.trace_id, _Trace(now))
            self._traces.move_to_end(span.trace_id)
            trace.spans[span.span_id] = span
            trace.updated_at = now
            trace.is_unshown = True
        while len(self._traces) > MAX_TRACES:
            self._traces.popitem(last=False)

    def next_trace(self, now: float) -> list[Span]:
        """Return the spans of the trace to show now. The list is empty if no trace is due. Failed traces take
        precedence."""
        if now - self._last_shown_at < INTERVAL_SECONDS:
            return []
        quiet = [trace for trace in self._traces.values() if trace.is_ready(now)]
        if not quiet:
            return []
        for trace in quiet:
            trace.is_unshown = False
        self._last_shown_at = now
        return sort_spans(max(quiet, key=lambda trace: trace.is_failed).spans.values())


def sort_spans(spans: Iterable[Span]) -> list[Span]:
    """Sort spans by start time."""
    return sorted(spans, key=lambda span: (span.start_ns, span.span_id))


def span_tree(spans: Sequence[Span]) -> Iterator[tuple[str, Span]]:
    """Yield each span after its parent, with the prefix that draws its branch. A span whose parent is missing is a
    root."""
    span_ids = {span.span_id for span in spans}
    children: dict[str, list[Span]] = {}
    for span in sort_spans(spans):
        children.setdefault(span.parent_id if span.parent_id in span_ids else "", []).append(span)
    for root in children.get("", []):
        yield "", root
        yield from _subtree(root, children, "")


def _subtree(parent: Span, children: Mapping[str, Sequence[Span]], indent: str) -> Iterator[tuple[str, Span]]:
    siblings = children.get(parent.span_id, [])
    for number, span in enumerate(siblings, 1):
        branch, child_indent = ("└─ ", "   ") if number == len(siblings) else ("├─ ", "│  ")
        yield indent + branch, span
        yield from _subtree(span, children, indent + child_indent)


def render(spans: Sequence[Span]) -> list[Text]:
    """Render a trace: a heading, then one line for each span."""
    start_ns, end_ns = min(span.start_ns for span in spans), max(span.end_ns for span in spans)
    heading = Text(f"trace {spans[0].trace_id[:8]}  ", "bold")
    heading.append(
        f"{len(spans)} {'span' if len(spans) == 1 else 'spans'}, {format_nanoseconds(end_ns - start_ns)}",
        "not bold dim",
    )
    rows = list(span_tree(spans))
    width = max((len(branch) + cell_len(printable(span.name)) for branch, span in rows), default=0)
    return [heading, *(_render_span(branch, span, start_ns, width) for branch, span in rows)]


def _render_span(branch: str, span: Span, trace_start_ns: int, width: int) -> Text:
    mark, style = ("✗", "red") if span.is_failed else ("✓", "green")
    name = printable(span.name)  # escaped before padding, because escapes are longer than the characters
    row = Text.assemble((branch, "dim"), name, " " * (width - len(branch) - cell_len(name) + 1), (mark, style))
    row.append(f" {format_nanoseconds(span.end_ns - span.start_ns):>7}")
    row.append(
        f" {'+' + format_nanoseconds(span.start_ns - trace_start_ns) if span.start_ns > trace_start_ns else '':>8}",
        "dim",
    )
    for part in _span_details(span):
        row.append(f"  {part}", "dim")
    if span.error:
        row.append(f"  {span.error}", style)
    row.rstrip()
    return row


def _span_details(span: Span) -> Iterator[str]:
    if message_id := span.attributes.get(MESSAGE_ID):
        yield str(message_id)
    if deliveries := span.attributes.get(DELIVERY_COUNT):
        yield f"delivery {deliveries}"
    if span.pod:
        yield span.pod


def format_nanoseconds(nanoseconds: int) -> str:
    """Format a duration, such as `0.4ms`, `12ms` or `3.04s`."""
    milliseconds = nanoseconds / 1e6
    if milliseconds < 10:
        return f"{milliseconds:.1f}ms"
    return f"{milliseconds:.0f}ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f}s"
