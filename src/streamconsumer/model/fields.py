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


_UNITS = {"h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1_000}
"""In microseconds, which is what a timedelta counts: no rounding on the way there or back."""

DURATION_PATTERN = r"([0-9]+(\.[0-9]+)?(ms|s|m|h))+"
DURATION_FORM = "must be a duration such as 500ms, 30s or 1m30s"


def parse_duration(value: object) -> timedelta:
    """`1m30s`, `500ms`, `2h` → timedelta: Go's and Kubernetes' spelling. A timedelta passes through."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not re.fullmatch(DURATION_PATTERN, value):
        raise ValueError(DURATION_FORM)
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)", value)
    microseconds = int(sum(Decimal(number) * _UNITS[unit] for number, unit in parts))
    return timedelta(microseconds=min(microseconds, timedelta.max // timedelta(microseconds=1)))


def format_duration(value: timedelta) -> str:
    """The inverse of parse_duration, in the largest unit that divides it: 90 s is `90s`, an hour `1h`."""
    microseconds = value // timedelta(microseconds=1)
    for unit, size in _UNITS.items():
        if microseconds and microseconds % size == 0:
            return f"{microseconds // size}{unit}"
    return f"{Decimal(microseconds) / 1000:f}ms"


class Between:
    """`Annotated[timedelta, Between("1s", "1h")]`: a duration field with its bounds, which the API server checks as
    CEL and we check again."""

    def __init__(self, least: str, most: str) -> None:
        self.least, self.most = least, most
        self.sentence = f"must be {least} to {most}"

    def check(self, value: timedelta) -> timedelta:
        if not parse_duration(self.least) <= value <= parse_duration(self.most):
            raise ValueError(self.sentence)
        return value

    def __get_pydantic_core_schema__(self, source: type[timedelta], handler: GetCoreSchemaHandler) -> CoreSchema:
        parsed = core_schema.no_info_before_validator_function(parse_duration, handler(source))
        return core_schema.no_info_after_validator_function(self.check, parsed)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        form = _matches(DURATION_PATTERN)
        bounds = f"duration(self) >= duration('{self.least}') && duration(self) <= duration('{self.most}')"
        told = rules((form, DURATION_FORM), (f"!{form} || ({bounds})", self.sentence))
        return {"type": "string", "maxLength": 32, **told}


class Matching:
    """`Annotated[str, Matching(r"[a-z]+", "must be …")]`: text of a form that people are told in a sentence. The whole
    text must match; the pattern must mean the same to Python and to RE2, and hold no quotes."""

    def __init__(self, pattern: str, sentence: str) -> None:
        self.pattern, self.sentence = pattern, sentence

    def check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise ValueError(self.sentence)
        return value

    def __get_pydantic_core_schema__(self, source: type[str], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), **rules((_matches(self.pattern), self.sentence))}


def leads_somewhere(url: str) -> bool:
    """Whether port and database of a redis:// or rediss:// URL are usable, which no pattern tells well. redis-py takes
    what is no number for database 0."""
    try:
        parts = urlsplit(url)
        return parts.port != 0 and re.fullmatch(r"(/\d*/?)?", parts.path) is not None
    except ValueError:  # port 99999, or a bracket too many
        return False


def _matches(pattern: str) -> str:
    return f"self.matches(r'^(?:{pattern})$')"


def rules(*rule: tuple[str, str]) -> dict[str, Any]:
    """CEL rules for the API server, each with the sentence that a user reads when it says no."""
    return {"x-kubernetes-validations": [{"rule": cel, "message": message} for cel, message in rule]}


def sentences(error: ValidationError, name: Callable[[Sequence[str | int]], str]) -> list[str]:
    """One line per problem: where (as `name` spells it), what was found, what was expected."""
    return [_sentence(name(problem["loc"]), problem) for problem in error.errors()]


def _sentence(where: str, problem: ErrorDetails) -> str:
    expected = re.sub(r"^(Input|String) should ", "must ", problem["msg"]).removeprefix("Value error, ")
    match problem["type"]:
        case "missing":
            return f"{where} is missing; it is required"
        case "extra_forbidden":
            return f"{where} is not a field; check its spelling"
        case "model_type":
            return f"{where} must be an object"
    found = problem["input"]
    if not isinstance(found, str | int | float | None) or re.search("@|password=", str(found)):
        return f"{where}: {expected}"  # a whole object, or a URL with credentials: not for logs and conditions
    return f"{where} is {found!r:.80}: {expected}"
