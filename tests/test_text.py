"""Printable forms of untrusted text."""

import json
import time
import unicodedata

import pytest

from streamconsumer.text import json_printable, printable, printable_lines, to_json
from tests.hostile_texts import HOSTILE_TEXTS, hidden_characters


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=lambda text: ascii(text)[:20])
def test_no_form_of_a_hostile_text_contains_a_hidden_character(text: str) -> None:
    assert hidden_characters(printable(text)) == set()
    assert hidden_characters(printable_lines(text)) <= {"\n"}
    document = {text: [text]}
    assert hidden_characters(to_json(document)) <= {"\n"}
    assert json.loads(to_json(document)) == document


def test_every_control_format_separator_and_surrogate_character_is_escaped() -> None:
    hidden = [
        chr(code)
        for code in range(0x110000)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    ]
    assert printable("".join(hidden)).isascii()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("one\r\ntwo\tthree", r"one\r\ntwo\tthree"),
        ("abc\u202edcba", r"abc\u202edcba"),
        ("\U000e0041", r"\U000e0041"),
        ("\udc80", r"\udc80"),
        ("\x9b2J\x7f", r"\x9b2J\x7f"),
        ("Grüße, 世界 🎉 naïve x²", "Grüße, 世界 🎉 naïve x²"),
        (r"C:\new\x1b", r"C:\new\x1b"),
    ],
)
def test_a_text_keeps_its_letters_and_shows_its_hidden_characters_as_escapes(text: str, expected: str) -> None:
    assert printable(text) == expected
    assert printable(printable(text)) == expected


def test_a_long_text_is_cut_to_its_limit() -> None:
    assert printable("x" * 11, 10) == "x" * 9 + "…"
    assert printable("x" * 10, 10) == "x" * 10
    assert len(printable("\x1b" * 10, 10)) == 10


def test_a_limit_bounds_the_time_for_a_long_text() -> None:
    text = "\x1b" * 50_000_000
    start = time.thread_time()
    assert len(printable(text, 1000)) == 1000
    assert time.thread_time() - start < 0.1


def test_json_of_an_object_with_hidden_characters_is_equal_after_parsing() -> None:
    text = json.dumps({"a": "\x7f\u2028\U000e0041\udc80"}, ensure_ascii=False)
    assert json_printable(text) == r'{"a": "\u007f\u2028\udb40\udc41\udc80"}'
    assert json.loads(json_printable(text)) == json.loads(text)
