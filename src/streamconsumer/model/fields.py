"""Shared parts of the models: strict base model, durations, CEL rules and readable validation errors.

Each rule is declared once. Two checks are derived from each rule: a CEL rule in the CRD, for the API server, and a
check in Python.
"""

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, core_schema


class Model(BaseModel):
    """Base class of all models. Instances are immutable, unknown fields are rejected, and names in JSON are camelCase.

    The docstring below a field is the description of the field.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )


_UNIT_MICROSECONDS = {"h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1_000}
"""Number of microseconds per unit. A timedelta has a resolution of one microsecond, so conversions do not round."""

DURATION_PATTERN = r"([0-9]+(\.[0-9]+)?(ms|s|m|h))+"
DURATION_MESSAGE = "must be a duration such as 500ms, 30s or 1m30s"


def parse_duration(value: object) -> timedelta:
    """Parse a duration in the format of Go and Kubernetes, such as `1m30s`, `500ms` or `2h`. A timedelta is returned
    unchanged. Raises ValueError for any other value."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not re.fullmatch(DURATION_PATTERN, value):
        raise ValueError(DURATION_MESSAGE)
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)", value)
    microseconds = int(sum(Decimal(number) * _UNIT_MICROSECONDS[unit] for number, unit in parts))
    return timedelta(microseconds=min(microseconds, timedelta.max // timedelta(microseconds=1)))


def format_duration(value: timedelta) -> str:
    """Format a duration in the largest unit that divides the duration evenly, such as `90s` or `1h`. The function is
    the inverse of `parse_duration`."""
    microseconds = value // timedelta(microseconds=1)
    for unit, size in _UNIT_MICROSECONDS.items():
        if microseconds and microseconds % size == 0:
            return f"{microseconds // size}{unit}"
    return f"{Decimal(microseconds) / 1000:f}ms"


class DurationRange:
    """Bounds of a duration field, as in `Annotated[timedelta, DurationRange("1s", "1h")]`. The API server checks the
    bounds with CEL, and pydantic checks the bounds again."""

    def __init__(self, minimum: str, maximum: str) -> None:
        self.minimum, self.maximum = minimum, maximum
        self.message = f"must be {minimum} to {maximum}"

    def check(self, value: timedelta) -> timedelta:
        if not parse_duration(self.minimum) <= value <= parse_duration(self.maximum):
            raise ValueError(self.message)
        return value

    def __get_pydantic_core_schema__(self, source: type[timedelta], handler: GetCoreSchemaHandler) -> CoreSchema:
        parsed = core_schema.no_info_before_validator_function(parse_duration, handler(source))
        return core_schema.no_info_after_validator_function(self.check, parsed)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        is_duration = cel_matches(DURATION_PATTERN)
        is_in_range = f"duration(self) >= duration('{self.minimum}') && duration(self) <= duration('{self.maximum}')"
        rules = cel_rules((is_duration, DURATION_MESSAGE), (f"!{is_duration} || ({is_in_range})", self.message))
        return {"type": "string", "maxLength": 32, **rules}


class Pattern:
    """Regular expression for a text field, with an error message: `Annotated[str, Pattern(r"[a-z]+", "must be …")]`.

    The whole text must match the expression. Python and RE2, which CEL uses, must interpret the expression in the same
    way, so classes such as `\\s` and `\\w` are not allowed. The expression must not contain quotes.
    """

    def __init__(self, pattern: str, message: str) -> None:
        self.pattern, self.message = pattern, message

    def matches(self, value: str) -> bool:
        """Return True if the whole text matches the expression."""
        return re.fullmatch(self.pattern, value) is not None

    def check(self, value: str) -> str:
        if not self.matches(value):
            raise ValueError(self.message)
        return value

    def __get_pydantic_core_schema__(self, source: type[str], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), **cel_rules((cel_matches(self.pattern), self.message))}


class Immutable:
    """Rule that forbids any change of a field, with an error message: `Annotated[Name, Immutable("…")]`. Only the API
    server checks the rule, because only the API server knows the old value."""

    def __init__(self, message: str) -> None:
        self.message = message

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        inner = handler(schema)
        rules = cel_rules(("self == oldSelf", self.message))
        return {**inner, **{keyword: [*inner.get(keyword, []), *added] for keyword, added in rules.items()}}


def cel_matches(pattern: str, subject: str = "self") -> str:
    """Return the CEL expression that is true if the whole text matches `pattern`. Escapes of characters above U+00FF
    are converted, because RE2 and Python write these escapes differently."""
    in_re2 = re.sub(r"\\u([0-9a-f]{4})", r"\\x{\1}", pattern)
    return f"{subject}.matches(r'^(?:{in_re2})$')"


def cel_rules(*rules: tuple[str, str]) -> dict[str, Any]:
    """Return the JSON schema keyword with CEL rules for the API server. Each rule is a pair of a CEL expression and an
    error message."""
    return {"x-kubernetes-validations": [{"rule": cel, "message": message} for cel, message in rules]}


def quote_name(name: object) -> str:
    """Return a name in the form that error messages use.

    The name is unchanged if it contains only ASCII letters, digits and common punctuation. Any other name is quoted,
    escaped and truncated.
    """
    text = str(name)
    return text if re.fullmatch(r"[A-Za-z0-9_.:/\[\]-]{1,80}", text) else f"{text!r:.80}"


MAX_ERRORS = 100
"""Maximum number of errors that are listed for one resource."""


def format_errors(error: ValidationError, format_path: Callable[[Sequence[str | int]], str]) -> list[str]:
    """Return one line per error, for at most MAX_ERRORS errors. Each line names the field in the form that
    `format_path` returns, and states the value found and the value expected."""
    problems = error.errors(include_url=False, include_context=False)
    first = problems[:MAX_ERRORS]
    lines = [_format_error(format_path(_without_key_marker(problem["loc"])), problem) for problem in first]
    more = len(problems) - len(first)
    return [*lines, f"{more} more errors"] if more else lines


def _without_key_marker(path: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Return the path without the last part `[key]`, which pydantic adds if a key of an object is invalid."""
    return path[:-1] if path[-1:] == ("[key]",) else path


def _format_error(path: str, error: ErrorDetails) -> str:
    expected = re.sub(r"^(Input|String) should ", "must ", error["msg"]).removeprefix("Value error, ")
    match error["type"]:
        case "missing":
            return f"{path} is missing; it is required"
        case "extra_forbidden":
            return f"{path} is not a known field; check its spelling"
        case "model_type":
            return f"{path} must be an object"
        case "json_invalid":
            return f"{path} contains half of a surrogate pair; it must contain only Unicode text"
    value = error["input"]
    is_url = path.lower().endswith("url")
    if is_url or not isinstance(value, str | int | float | None) or re.search("@|password=", str(value)):
        return f"{path}: {expected}"  # logs and conditions must not show whole objects or URLs with credentials
    return f"{path} is {value!r:.80}: {expected}"
