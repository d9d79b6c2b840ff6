"""Rendering of the output of a pod."""

import json
from pathlib import Path

from streamconsumer.cli.dev.log_lines import innermost_frame, parse, render

HANDLER_FOLDERS = [Path("/home/me/orders")]
STACK = """Traceback (most recent call last):
  File "/lib/streamconsumer/processor.py", line 300, in _call
    await self._callback(data)
  File "/home/me/orders/shop/orders.py", line 12, in handle
    return pay(order)
  File "/lib/payments.py", line 3, in pay
    raise ValueError
ValueError"""


def rendered(**record: object) -> list[str]:
    return [text.plain for text in render(parse(json.dumps(record)), HANDLER_FOLDERS)]


def test_log_line_shows_level_message_and_fields_of_interest() -> None:
    line = rendered(
        message="message failed",
        level="WARNING",
        logger="shop",
        time="2026-01-01T00:00:00Z",
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        span_id="00f067aa0ba902b7",
        trace_flags="01",
        message_id="1-0",
        deliveries=2,
    )
    assert line == ["WARNING message failed  message_id=1-0  deliveries=2  trace=4bf92f35"]


def test_counter_at_zero_is_not_shown() -> None:
    assert rendered(message="stopped", level="INFO", failed=0, acknowledged=3) == ["INFO    stopped  acknowledged=3"]


def test_error_is_last_with_its_line_in_the_handler() -> None:
    line = rendered(message="failed", level="ERROR", error="ValueError: no", message_id="1-0", exc_info=STACK)
    assert line == ["ERROR   failed  message_id=1-0  error=ValueError: no  at=shop/orders.py:12"]


def test_innermost_frame_is_within_the_handler_folders() -> None:
    assert innermost_frame(STACK, HANDLER_FOLDERS) == "shop/orders.py:12"
    assert innermost_frame(STACK, [Path("/elsewhere")]) == ""


def test_stack_is_shown_if_there_is_no_error_field() -> None:
    assert rendered(message="oh", level="ERROR", exc_info="Traceback\nValueError") == [
        "ERROR   oh",
        "Traceback",
        "ValueError",
    ]


def test_printed_text_is_shown_unchanged() -> None:
    for text in ("hello [bold]", "", '{"json": "but no log line"}', "{broken", "[1, 2]"):
        assert [each.plain for each in render(parse(text), HANDLER_FOLDERS)] == [text]
