from datetime import timedelta
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from streamconsumer.model.fields import DurationRange, format_duration, parse_duration

whole_microseconds = st.integers(0, 24 * 3600 * 1_000_000).map(lambda count: timedelta(microseconds=count))


@given(whole_microseconds)
def test_what_is_formatted_is_parsed_to_the_same_duration(duration: timedelta) -> None:
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
def test_durations_are_spelled_as_in_kubernetes(text: str, seconds: float) -> None:
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
def test_a_duration_is_written_in_the_largest_unit_that_divides_it(duration: timedelta, text: str) -> None:
    assert format_duration(duration) == text


@pytest.mark.parametrize("wrong", ["", "5", "s", "5 s", "-5s", "5S", "1d", "5s\n", "1h-5m", "s5", ".5s", "٣s", 5, None])
def test_what_is_no_duration_is_refused_with_an_example(wrong: object) -> None:
    with pytest.raises(ValueError, match="must be a duration such as 500ms, 30s or 1m30s"):
        parse_duration(wrong)


BOUNDED: TypeAdapter[timedelta] = TypeAdapter(Annotated[timedelta, DurationRange("1s", "1h")])


@pytest.mark.parametrize("inside", ["1s", "1000ms", "59m59s", "1h", "60m"])
def test_bounds_belong_to_the_range(inside: str) -> None:
    assert timedelta(seconds=1) <= BOUNDED.validate_python(inside) <= timedelta(hours=1)


@pytest.mark.parametrize("outside", ["999ms", "0s", "1h1ms", "99999999999999999999999h"])
def test_a_duration_out_of_bounds_is_refused_with_both_bounds(outside: str) -> None:
    with pytest.raises(ValidationError, match="must be 1s to 1h"):
        BOUNDED.validate_python(outside)
