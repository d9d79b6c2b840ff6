"""The kinds of field that a StreamConsumer is made of: the strict model, durations, rules, and errors in sentences."""

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, core_schema


class Model(BaseModel):
    """Frozen, strict about unknown fields, camelCase on the wire; a field's docstring is its description."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )


_UNIT_MICROSECONDS = {"h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1_000}
"""In microseconds, which is what a timedelta counts: no rounding on the way there or back."""

DURATION_PATTERN = r"([0-9]+(\.[0-9]+)?(ms|s|m|h))+"
DURATION_MESSAGE = "must be a duration such as 500ms, 30s or 1m30s"


def parse_duration(value: object) -> timedelta:
    """`1m30s`, `500ms`, `2h` → timedelta: Go's and Kubernetes' spelling. A timedelta passes through."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not re.fullmatch(DURATION_PATTERN, value):
        raise ValueError(DURATION_MESSAGE)
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)", value)
    microseconds = int(sum(Decimal(number) * _UNIT_MICROSECONDS[unit] for number, unit in parts))
    return timedelta(microseconds=min(microseconds, timedelta.max // timedelta(microseconds=1)))


def format_duration(value: timedelta) -> str:
    """The inverse of parse_duration, in the largest unit that divides it: 90 s is `90s`, an hour `1h`."""
    microseconds = value // timedelta(microseconds=1)
    for unit, size in _UNIT_MICROSECONDS.items():
        if microseconds and microseconds % size == 0:
            return f"{microseconds // size}{unit}"
    return f"{Decimal(microseconds) / 1000:f}ms"


class DurationRange:
    """`Annotated[timedelta, Between("1s", "1h")]`: a duration field with its bounds, which the API server checks as
    CEL and we check again."""

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
        form = _cel_matches(DURATION_PATTERN)
        bounds = f"duration(self) >= duration('{self.minimum}') && duration(self) <= duration('{self.maximum}')"
        told = cel_rules((form, DURATION_MESSAGE), (f"!{form} || ({bounds})", self.message))
        return {"type": "string", "maxLength": 32, **told}


class Pattern:
    """`Annotated[str, Matching(r"[a-z]+", "must be …")]`: text of a form that people are told in a sentence. The whole
    text must match; the pattern must mean the same to Python and to RE2, and hold no quotes."""

    def __init__(self, pattern: str, message: str) -> None:
        self.pattern, self.message = pattern, message

    def check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise ValueError(self.message)
        return value

    def __get_pydantic_core_schema__(self, source: type[str], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), **cel_rules((_cel_matches(self.pattern), self.message))}


def is_usable_redis_url(url: str) -> bool:
    """Whether port and database of a redis:// or rediss:// URL are usable, which no pattern tells well. redis-py takes
    what is no number for database 0."""
    try:
        parts = urlsplit(url)
        return parts.port != 0 and re.fullmatch(r"(/\d*/?)?", parts.path) is not None
    except ValueError:  # port 99999, or a bracket too many
        return False


def _cel_matches(pattern: str) -> str:
    return f"self.matches(r'^(?:{pattern})$')"


def cel_rules(*rules: tuple[str, str]) -> dict[str, Any]:
    """CEL rules for the API server, each with the sentence that a user reads when it says no."""
    return {"x-kubernetes-validations": [{"rule": cel, "message": message} for cel, message in rules]}


def format_errors(error: ValidationError, format_path: Callable[[Sequence[str | int]], str]) -> list[str]:
    """One line per problem: where (as `name` spells it), what was found, what was expected."""
    return [_format_error(format_path(problem["loc"]), problem) for problem in error.errors()]


def _format_error(path: str, error: ErrorDetails) -> str:
    expected = re.sub(r"^(Input|String) should ", "must ", error["msg"]).removeprefix("Value error, ")
    match error["type"]:
        case "missing":
            return f"{path} is missing; it is required"
        case "extra_forbidden":
            return f"{path} is not a field; check its spelling"
        case "model_type":
            return f"{path} must be an object"
    found = error["input"]
    if not isinstance(found, str | int | float | None) or re.search("@|password=", str(found)):
        return f"{path}: {expected}"  # a whole object, or a URL with credentials: not for logs and conditions
    return f"{path} is {found!r:.80}: {expected}"
