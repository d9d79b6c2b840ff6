import ast
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from streamconsumer.model.fields import DurationRange, format_duration, parse_duration

DURATIONS = st.integers(0, 24 * 3600 * 1_000_000).map(lambda count: timedelta(microseconds=count))


@given(DURATIONS)
def test_formatted_duration_parses_to_the_same_duration(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("1m30s", 90),
        ("1.5h", 5400),
        ("2h", 7200),
        ("0s", 0),
        ("1h1m1s1ms", 3661.001),
    ],
)
def test_kubernetes_durations_are_parsed(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(), "0ms"),
        (timedelta(milliseconds=1.5), "1.5ms"),
        (timedelta(seconds=90), "90s"),
        (timedelta(minutes=2), "2m"),
        (timedelta(hours=1), "1h"),
        (timedelta(days=1), "24h"),
    ],
)
def test_duration_is_formatted_in_the_largest_unit_that_divides_it(duration: timedelta, text: str) -> None:
    assert format_duration(duration) == text


@pytest.mark.parametrize("wrong", ["", "5", "s", "5 s", "-5s", "5S", "1d", "5s\n", "1h-5m", "s5", ".5s", "٣s", 5, None])
def test_invalid_duration_is_rejected_with_an_example(wrong: object) -> None:
    with pytest.raises(ValueError, match="must be a duration such as 500ms, 30s or 1m30s"):
        parse_duration(wrong)


BOUNDED: TypeAdapter[timedelta] = TypeAdapter(Annotated[timedelta, DurationRange("1s", "1h")])


@pytest.mark.parametrize("inside", ["1s", "1000ms", "59m59s", "1h", "60m"])
def test_duration_at_its_bounds_is_accepted(inside: str) -> None:
    assert timedelta(seconds=1) <= BOUNDED.validate_python(inside) <= timedelta(hours=1)


@pytest.mark.parametrize("outside", ["999ms", "0s", "1h1ms", "99999999999999999999999h"])
def test_duration_out_of_bounds_is_rejected_with_both_bounds(outside: str) -> None:
    with pytest.raises(ValidationError, match="must be 1s to 1h"):
        BOUNDED.validate_python(outside)


SOURCES = sorted((Path(__file__).parents[2] / "src/streamconsumer").rglob("*.py"))


def test_every_default_of_a_field_is_a_keyword() -> None:
    """Type checkers without the pydantic plugin take a positional default for a required field."""
    calls = [
        node for source in SOURCES for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Call)
    ]
    fields = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Field"]
    assert fields
    assert [ast.unparse(call) for call in fields if call.args] == []
