"""Traces as trees, and which of them are shown."""

from streamconsumer.cli.dev.traces import (
    INTERVAL_SECONDS,
    PATIENCE_SECONDS,
    QUIET_SECONDS,
    UNREAD_SECONDS,
    Span,
    TraceBoard,
    duration,
    rendered,
    told_of_others,
)

MILLISECOND = 1_000_000
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SENT = Span(TRACE, "a", "", "send orders", 0, MILLISECOND, producer=True)
FAILED = Span(
    TRACE,
    "b",
    "a",
    "process orders",
    2 * MILLISECOND,
    5 * MILLISECOND,
    failed=True,
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
    links=[TRACE, "00aa11bb22cc33dd00aa11bb22cc33dd"],
    pod="orders-y",
)


def handled(number: int) -> Span:
    return Span(f"{number:032x}", "s", "elsewhere", "process orders", 0, MILLISECOND)


def test_a_trace_is_a_tree_with_its_attempts_in_order() -> None:
    assert [line.plain for line in rendered([AGAIN, FAILED, SENT])] == [
        "trace 4bf92f35  3 spans, 2.51s",
        "send orders       ✓   1.0ms",
        "├─ process orders ✗   3.0ms   +2.0ms  17-0  orders-x  TimeoutError: no answer",
        "└─ process orders ✓    12ms   +2.50s  17-0  delivery 2  orders-y  linked to trace 00aa11bb",
    ]


def test_children_of_children_hang_below_them() -> None:
    inner = Span(TRACE, "d", "b", "pay", 3 * MILLISECOND, 4 * MILLISECOND)
    lines = [line.plain[:20] for line in rendered([SENT, FAILED, inner, AGAIN])]
    assert [line.rstrip() for line in lines[1:]] == [
        "send orders       ✓",
        "├─ process orders ✗",
        "│  └─ pay         ✓",
        "└─ process orders ✓",
    ]


def test_a_span_whose_parent_is_elsewhere_is_a_root_and_a_lone_span_takes_one_line() -> None:
    assert [line.plain for line in rendered([handled(7)])] == ["trace 00000000  process orders ✓ 1.0ms"]


def test_spans_that_are_each_others_parents_do_not_hang_the_terminal() -> None:
    one = Span(TRACE, "a", "b", "one", 0, 1)
    two = Span(TRACE, "b", "a", "two", 0, 1)
    assert rendered([one, two])


def test_durations_are_short() -> None:
    assert [duration(n) for n in (400_000, 12_345_678, 3_040_000_000)] == ["0.4ms", "12ms", "3.04s"]


def test_a_trace_is_shown_once_it_has_been_quiet() -> None:
    board = TraceBoard()
    board.add([SENT, FAILED], 10)
    assert board.due(10 + QUIET_SECONDS / 2) is None
    showing = board.due(10 + QUIET_SECONDS)
    assert showing
    assert showing.spans == [SENT, FAILED]
    assert board.due(100) is None


def test_a_failed_trace_is_shown_whole_again_after_its_retry() -> None:
    board = TraceBoard()
    board.add([SENT, FAILED], 0)
    assert board.due(1)
    board.add([AGAIN], 4)
    showing = board.due(5)
    assert showing
    assert showing.spans == [SENT, FAILED, AGAIN]
    assert showing.others == 0


def test_a_flood_shows_one_trace_in_two_seconds_and_counts_the_rest() -> None:
    board = TraceBoard()
    board.add(map(handled, range(1000)), 0)
    showing = board.due(1)
    assert showing
    assert (len(showing.spans), told_of_others(showing)) == (1, "and 999 more traces")
    board.add(map(handled, range(1000, 2000)), 1)
    assert board.due(1 + INTERVAL_SECONDS / 2) is None
    showing = board.due(1 + INTERVAL_SECONDS)
    assert showing
    assert showing.others == 999


def test_errors_come_first_and_wait_for_their_turn() -> None:
    board = TraceBoard()
    other = Span("ff" * 16, "s", "", "process orders", 0, MILLISECOND, failed=True)
    board.add([*map(handled, range(100)), FAILED, other], 0)
    first, second = board.due(1), board.due(1 + INTERVAL_SECONDS)
    assert first
    assert second
    assert {first.spans[0].span_id, second.spans[0].span_id} == {"b", "s"}
    assert told_of_others(first) == "and 100 more traces"
    assert told_of_others(second) == ""


def test_errors_that_waited_too_long_are_counted_as_such() -> None:
    board = TraceBoard()
    failures = [Span(f"{n:032x}", "s", "", "p", 0, 1, failed=True) for n in range(5)]
    board.add(failures, 0)
    showing = board.due(PATIENCE_SECONDS + 1)
    assert showing
    assert told_of_others(showing) == "and 4 more traces, 4 of them with errors"


def test_a_producer_alone_waits_for_its_consumer() -> None:
    board = TraceBoard()
    board.add([SENT], 0)
    assert board.due(QUIET_SECONDS) is None
    assert board.due(UNREAD_SECONDS)


def test_a_late_span_of_a_counted_trace_is_not_counted_again() -> None:
    board = TraceBoard()
    board.add([handled(1), handled(2)], 0)
    assert board.due(1)
    late = [Span(f"{n:032x}", "late", "", "send orders", 0, 1, producer=True) for n in (1, 2)]
    board.add(late, 2)
    assert board.rest().others == 0
