"""Traces as trees, and which of them are shown."""

from streamconsumer.cli.dev.trace_trees import (
    INTERVAL_SECONDS,
    QUIET_PERIOD_SECONDS,
    Span,
    TraceBuffer,
    format_nanoseconds,
    render,
)

MILLISECOND = 1_000_000
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SENT = Span(TRACE, "a", "", "send orders", 0, MILLISECOND, is_producer=True)
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
AGAIN = Span(
    TRACE,
    "c",
    "a",
    "process orders",
    2500 * MILLISECOND,
    2512 * MILLISECOND,
    attributes={"messaging.message.id": "17-0", "streamconsumer.delivery.count": 2},
    pod="orders-y",
)


def handled(number: int) -> Span:
    return Span(f"{number:032x}", "s", "elsewhere", "process orders", 0, MILLISECOND)


def test_a_trace_is_a_tree_with_its_attempts_in_order() -> None:
    assert [line.plain for line in render([AGAIN, FAILED, SENT])] == [
        "trace 4bf92f35  3 spans, 2.51s",
        "send orders       ✓   1.0ms",
        "├─ process orders ✗   3.0ms   +2.0ms  17-0  orders-x  TimeoutError: no answer",
        "└─ process orders ✓    12ms   +2.50s  17-0  delivery 2  orders-y",
    ]


def test_children_of_children_hang_below_them() -> None:
    inner = Span(TRACE, "d", "b", "pay", 3 * MILLISECOND, 4 * MILLISECOND)
    lines = [line.plain[:20] for line in render([SENT, FAILED, inner, AGAIN])]
    assert [line.rstrip() for line in lines[1:]] == [
        "send orders       ✓",
        "├─ process orders ✗",
        "│  └─ pay         ✓",
        "└─ process orders ✓",
    ]


def test_a_span_whose_parent_is_elsewhere_is_a_root() -> None:
    assert [line.plain for line in render([handled(7)])] == [
        "trace 00000000  1 span, 1.0ms",
        "process orders ✓   1.0ms",
    ]


def test_spans_that_are_each_others_parents_do_not_hang_the_terminal() -> None:
    one = Span(TRACE, "a", "b", "one", 0, 1)
    two = Span(TRACE, "b", "a", "two", 0, 1)
    assert render([one, two])


def test_durations_are_short() -> None:
    assert [format_nanoseconds(n) for n in (400_000, 12_345_678, 3_040_000_000)] == ["0.4ms", "12ms", "3.04s"]


def test_a_trace_is_shown_once_it_has_been_quiet() -> None:
    board = TraceBuffer()
    board.add([SENT, FAILED], 10)
    assert board.next_trace(10 + QUIET_PERIOD_SECONDS / 2) == []
    assert board.next_trace(10 + QUIET_PERIOD_SECONDS) == [SENT, FAILED]
    assert board.next_trace(100) == []


def test_a_failed_trace_is_shown_whole_again_after_its_retry() -> None:
    board = TraceBuffer()
    board.add([SENT, FAILED], 0)
    assert board.next_trace(1)
    board.add([AGAIN], 4)
    assert board.next_trace(5) == [SENT, FAILED, AGAIN]


def test_a_flood_shows_one_trace_in_two_seconds() -> None:
    board = TraceBuffer()
    board.add(map(handled, range(1000)), 0)
    assert board.next_trace(1) == [handled(0)]
    board.add(map(handled, range(1000, 2000)), 1)
    assert board.next_trace(1 + INTERVAL_SECONDS / 2) == []
    assert board.next_trace(1 + INTERVAL_SECONDS) == [handled(1000)]
    assert board.next_trace(1 + 2 * INTERVAL_SECONDS) == []


def test_a_trace_with_an_error_comes_before_the_others() -> None:
    board = TraceBuffer()
    board.add([*map(handled, range(100)), FAILED, *map(handled, range(100, 200))], 0)
    assert board.next_trace(1) == [FAILED]


def test_a_producer_alone_waits_for_its_consumer() -> None:
    board = TraceBuffer()
    board.add([SENT], 0)
    assert board.next_trace(100) == []
    board.add([AGAIN], 100)
    assert board.next_trace(100 + QUIET_PERIOD_SECONDS) == [SENT, AGAIN]
