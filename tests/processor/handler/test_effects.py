"""Effects: an invalid effect raises in the call that adds it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.processor.handler.effects import MAX_INCREMENT, Effects

ANY: Any = 0.5


INVALID: dict[str, tuple[Callable[[Effects], Any], str]] = {
    "no fields": (lambda e: e.add("s", {}), "'s' has 0 fields; expected 1 to 1000"),
    "too many fields": (lambda e: e.add("s", {str(n): "" for n in range(1001)}), "1001 fields; expected 1 to 1000"),
    "zero length": (lambda e: e.add("s", {"a": "b"}, max_length=0), "max_length of 's' is 0; expected at least 1"),
    "a number as a value": (lambda e: e.set("k", ANY), "the value of 'k' is 0.5 of type float; expected str or bytes"),
    "a number in a field": (
        lambda e: e.add("s", {"a": ANY}),
        "a field of 's' is 0.5 of type float; expected str or bytes",
    ),
    "zero time": (
        lambda e: e.set("k", "v", timedelta()),
        "the parameter `expires` for key 'k' is 0:00:00; expected at least 1 ms",
    ),
    "fraction": (lambda e: e.increment("k", ANY), "increment of 'k' is 0.5; expected a whole number"),
    "increment too large": (
        lambda e: e.increment("k", MAX_INCREMENT).increment("k", -1),
        "increment of 'k' is -1; expected at most 1000000000000000000 in total for one message",
    ),
    "two kinds": (
        lambda e: e.set("k", "1").increment(b"k"),
        "cannot add INCRBY for b'k', which already has SET; a key can have only one kind of effect",
    ),
}


@pytest.mark.parametrize(("call", "message"), INVALID.values(), ids=INVALID)
def test_invalid_effect_raises_in_the_call_that_adds_it(call: Callable[[Effects], Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as raised:
        call(Effects())
    assert message in str(raised.value)
