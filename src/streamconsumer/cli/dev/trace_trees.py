"""Spans → trees worth reading, and which of them to show when a thousand come by in a second.

Pure: the clock is an argument.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

QUIET_SECONDS = 1.0
"""A trace is shown when it has not grown for so long."""

INTERVAL_SECONDS = 2.0
"""One trace is shown in each interval; the others are skipped."""

MOST_TRACES = 10_000
"""How many are remembered, so that a retry finds the trace of its first attempt."""

MESSAGE_ID = "messaging.message.id"
DELIVERY_COUNT = "streamconsumer.delivery.count"
INSTANCE = "k8s.pod.name"


@dataclass(frozen=True, slots=True)
class Span:
    """One finished span; ids in hexadecimal, `parent_id` empty for a root."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start_ns: int
    end_ns: int
    producer: bool = False
    failed: bool = False
    error: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    pod: str = ""


@dataclass(slots=True)
class _Trace:
    grown_at: float
    spans: dict[str, Span] = field(default_factory=dict)
    waiting: bool = True

    @property
    def failed(self) -> bool:
        return any(span.failed for span in self.spans.values())

    def quiet(self, now: float) -> bool:
        """True if the trace can be shown. A trace of nothing but a producer waits for its consumer."""
        handled = not all(span.producer for span in self.spans.values())
        return self.waiting and handled and now - self.grown_at >= QUIET_SECONDS


class TraceBoard:
    """Takes spans as they come and says what to show."""

    def __init__(self) -> None:
        self._traces: OrderedDict[str, _Trace] = OrderedDict()
        self._shown_at = float("-inf")

    def add(self, spans: Iterable[Span], now: float) -> None:
        for span in spans:
            trace = self._traces.setdefault(span.trace_id, _Trace(now))
            self._traces.move_to_end(span.trace_id)
            trace.spans[span.span_id] = span
            trace.grown_at = now
            trace.waiting = True
        while len(self._traces) > MOST_TRACES:
            self._traces.popitem(last=False)

    def due(self, now: float) -> list[Span]:
        """The spans of the trace to show now; a failed trace comes before the others. Empty if no trace is due."""
        if now - self._shown_at < INTERVAL_SECONDS:
            return []
        quiet = [trace for trace in self._traces.values() if trace.quiet(now)]
        if not quiet:
            return []
        for trace in quiet:
            trace.waiting = False
        self._shown_at = now
        return in_order(max(quiet, key=lambda trace: trace.failed).spans.values())


def in_order(spans: Iterable[Span]) -> list[Span]:
    return sorted(spans, key=lambda span: (span.start_ns, span.span_id))


def tree(spans: Sequence[Span]) -> Iterator[tuple[str, Span]]:
    """Each span behind the branch it sits on, parents first. A parent that is not here leaves a root."""
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = {}
    for span in in_order(spans):
        children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)
    for root in children.get("", []):
        yield "", root
        yield from _below(root, children, "")


def _below(parent: Span, children: Mapping[str, Sequence[Span]], indent: str) -> Iterator[tuple[str, Span]]:
    siblings = children.get(parent.span_id, [])
    for number, span in enumerate(siblings, 1):
        here, further = ("└─ ", "   ") if number == len(siblings) else ("├─ ", "│  ")
        yield indent + here, span
        yield from _below(span, children, indent + further)


def rendered(spans: Sequence[Span]) -> list[Text]:
    """A trace as lines: a heading, then a line a span."""
    began, ended = min(span.start_ns for span in spans), max(span.end_ns for span in spans)
    heading = Text(f"trace {spans[0].trace_id[:8]}  ", "bold")
    heading.append(f"{len(spans)} {'span' if len(spans) == 1 else 'spans'}, {duration(ended - began)}", "not bold dim")
    rows = list(tree(spans))
    width = max((len(branch) + len(span.name) for branch, span in rows), default=0)
    return [heading, *(_row(branch, span, began, width) for branch, span in rows)]


def _row(branch: str, span: Span, began: int, width: int) -> Text:
    mark, style = ("✗", "red") if span.failed else ("✓", "green")
    row = Text.assemble((branch, "dim"), span.name.ljust(width - len(branch)), " ", (mark, style))
    row.append(f" {duration(span.end_ns - span.start_ns):>7}")
    row.append(f" {'+' + duration(span.start_ns - began) if span.start_ns > began else '':>8}", "dim")
    for part in _told(span):
        row.append(f"  {part}", "dim")
    if span.error:
        row.append(f"  {span.error}", style)
    row.rstrip()
    return row


def _told(span: Span) -> Iterator[str]:
    if message_id := span.attributes.get(MESSAGE_ID):
        yield str(message_id)
    if deliveries := span.attributes.get(DELIVERY_COUNT):
        yield f"delivery {deliveries}"
    if span.pod:
        yield span.pod


def duration(nanoseconds: int) -> str:
    """`0.4ms`, `12ms`, `3.04s`."""
    milliseconds = nanoseconds / 1e6
    if milliseconds < 10:
        return f"{milliseconds:.1f}ms"
    return f"{milliseconds:.0f}ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f}s"
