"""Traces as trees, and the selection of the traces to show."""

from dataclasses import replace

from rich.cells import cell_len

from streamconsumer.cli.dev.trace_trees import (
    INTERVAL_SECONDS,
    QUIET_PERIOD_SECONDS,
    Span,
    TraceBuffer,
    format_nanoseconds,
    render,
)
from streamconsumer.text import printable

MILLISECOND = 1_000_000
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SEND = Span(TRACE, "a", "", "send orders", 0, MILLISECOND, is_producer=True)
FAILED = Span(
    TRACE,
    "b",
    "a",
    "process orders",
    2 * MILLISECOND,
    5 * MILLISECOND,
    is_failed=True,
    error="TimeoutError: no answer",
    attributes={"messaging.message.id": "17-0"},
    pod="orders-x",
)
RETRIED = Span(
    TRACE,
    "c",
    "a",
    "process orders",
    2500 * MILLISECOND,
    2512 * MILLISECOND,
    attributes={"messaging.message.id": "17-0", "streamconsumer.delivery.count": 2},
    pod="orders-y",
)


def consumer_span(number: int) -> Span:
    return Span(f"{number:032x}", "s", "missing-parent", "process orders", 0, MILLISECOND)


def test_columns_are_aligned_after_names_are_escaped_and_for_wide_characters() -> None:
    names = ("process orders", "process \x1b[31m\u202eorders", "process 注文")
    spans = [replace(SEND, span_id=str(number), name=name) for number, name in enumerate(names)]
    lines = [line.plain for line in render(spans)[1:]]
    assert {cell_len(printable(line.split("✓")[0])) for line in lines} == {len(r"process \x1b[31m\u202eorders ")}
    assert r"\x1b[31m\u202e" in lines[1]


def test_trace_is_rendered_as_a_tree_with_its_attempts_in_order() -> None:
    assert [line.plain for line in render([RETRIED, FAILED, SEND])] == [
        "trace 4bf92f35  3 spans, 2.51s",
        "send orders       ✓   1.0ms",
        "├─ process orders ✗   3.0ms   +2.0ms  17-0  orders-x  TimeoutError: no answer",
        "└─ process orders ✓    12ms   +2.50s  17-0  delivery 2  orders-y",
    ]


def test_nested_spans_are_indented() -> None:
    inner = Span(TRACE, "d", "b", "pay", 3 * MILLISECOND, 4 * MILLISECOND)
    lines = [line.plain[:20] for line in render([SEND, FAILED, inner, RETRIED])]
    assert [line.rstrip() for line in lines[1:]] == [
        "send orders       ✓",
        "├─ process orders ✗",
        "│  └─ pay         ✓",
        "└─ process orders ✓",
    ]


def test_span_without_its_parent_is_a_root() -> None:
    assert [line.plain for line in render([consumer_span(7)])] == [
        "trace 00000000  1 span, 1.0ms",
        "process orders ✓   1.0ms",
    ]


def test_cyclic_parents_do_not_block_rendering() -> None:
    first = Span(TRACE, "a", "b", "one", 0, 1)
    second = Span(TRACE, "b", "a", "two", 0, 1)
    assert render([first, second])


def test_durations_are_formatted_in_one_unit() -> None:
    assert [format_nanoseconds(n) for n in (400_000, 12_345_678, 3_040_000_000)] == ["0.4ms", "12ms", "3.04s"]


def test_trace_is_shown_after_the_quiet_period() -> None:
    buffer = TraceBuffer()
    buffer.add([SEND, FAILED], 10)
    assert buffer.next_trace(10 + QUIET_PERIOD_SECONDS / 2) == []
    assert buffer.next_trace(10 + QUIET_PERIOD_SECONDS) == [SEND, FAILED]
    assert buffer.next_trace(100) == []


def test_complete_trace_is_shown_again_after_a_retry() -> None:
    buffer = TraceBuffer()
    buffer.add([SEND, FAILED], 0)
    assert buffer.next_trace(1)
    buffer.add([RETRIED], 4)
    assert buffer.next_trace(5) == [SEND, FAILED, RETRIED]


def test_one_trace_is_shown_in_each_interval() -> None:
    buffer = TraceBuffer()
    buffer.add(map(consumer_span, range(1000)), 0)
    assert buffer.next_trace(1) == [consumer_span(0)]
    buffer.add(map(consumer_span, range(1000, 2000)), 1)
    assert buffer.next_trace(1 + INTERVAL_SECONDS / 2) == []
    assert buffer.next_trace(1 + INTERVAL_SECONDS) == [consumer_span(1000)]
    assert buffer.next_trace(1 + 2 * INTERVAL_SECONDS) == []


def test_failed_trace_is_shown_before_others() -> None:
    buffer = TraceBuffer()
    buffer.add([*map(consumer_span, range(100)), FAILED, *map(consumer_span, range(100, 200))], 0)
    assert buffer.next_trace(1) == [FAILED]


def test_producer_span_waits_for_its_consumer() -> None:
    buffer = TraceBuffer()
    buffer.add([SEND], 0)
    assert buffer.next_trace(100) == []
    buffer.add([RETRIED], 100)
    assert buffer.next_trace(100 + QUIET_PERIOD_SECONDS) == [SEND, RETRIED]
