"""Shared parts of the models: strict base model, durations, CEL rules and readable validation errors.

Each rule is declared once. Two checks are derived from each rule: a CEL rule in the CRD, for the API server, and a
check in Python.
"""

import json
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from streamconsumer.model.field_hints import Schema, example, limited, schema_at


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
        return {"type": "string", "maxLength": 32, **rules, "examples": [self.minimum]}


class Pattern:
    """Regular expression for a text field, with an error message and a valid text, as in
    `Annotated[str, Pattern(r"[a-z]+", "must be …", "shop")]`. The CustomResourceDefinition contains the message without
    the valid text, because its size is limited.

    The whole text must match the expression. Python and RE2, which CEL uses, must interpret the expression in the same
    way, so classes such as `\\s` and `\\w` are not allowed. The expression must not contain quotes.
    `cel` is a further condition that only the API server checks; another validator must check the condition in Python.
    """

    def __init__(self, pattern: str, message: str, example: str = "", *, cel: str = "") -> None:
        self.pattern, self.message, self.example, self.cel = pattern, message, example, cel
        has_example = not example or "such as" in message
        self.error = message if has_example else f"{message}, such as {example}"

    def matches(self, value: str) -> bool:
        """Return True if the whole text matches the expression."""
        return re.fullmatch(self.pattern, value) is not None

    def check(self, value: str) -> str:
        if not self.matches(value):
            raise ValueError(self.error)
        return value

    def __get_pydantic_core_schema__(self, source: type[str], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        examples = {"examples": [self.example]} if self.example else {}
        condition = " && ".join(filter(None, [cel_matches(self.pattern), self.cel]))
        return {**handler(schema), **cel_rules((condition, self.message)), **examples}


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


def format_errors(
    error: ValidationError, format_path: Callable[[Sequence[str | int]], str], schema: Schema | None = None
) -> list[str]:
    """Return one line per error, for at most MAX_ERRORS errors. Each line names the field in the form that
    `format_path` returns, and states the value found and the value expected.

    If `schema` is the schema of the values in YAML, the line also contains an example of a valid value."""
    problems = error.errors(include_url=False, include_context=False)
    lines = (_format_error(format_path(_without_key_marker(problem["loc"])), problem, schema) for problem in problems)
    return limited(lines, len(problems))


def _without_key_marker(path: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Return the path without the last part `[key]`, which pydantic adds if a key of an object is invalid."""
    return path[:-1] if path[-1:] == ("[key]",) else path


_FORMS = {
    "bool_type": "must be true or false, without quotes",
    "dict_type": "must be an object",
    "float_type": "must be a number, without quotes",
    "int_from_float": "must be an integer",
    "int_type": "must be an integer, without quotes",
    "list_type": "must be a list",
    "model_type": "must be an object",
    "string_type": "must be text",
}
"""Expected form of a value in YAML, for each type of error."""


def _format_error(path: str, error: ErrorDetails, schema: Schema | None) -> str:
    form = _form(path, error, schema_at(schema, error["loc"])) if schema else ""
    expected = form or re.sub(r"^(Input|String|List|Dictionary) should ", "must ", error["msg"])
    expected = expected.removeprefix("Value error, ").removesuffix(" after validation")
    match error["type"]:
        case "missing":
            return f"{path} is missing; it is required"
        case "extra_forbidden":
            return f"{path} is not a known field; check its spelling"
        case "model_type":
            return f"{path} {form or 'must be an object'}"
        case "json_invalid":
            return f"{path} contains half of a surrogate pair; it must contain only Unicode text"
    value = error["input"]
    return f"{path} is {value!r:.80}: {expected}" if _may_be_shown(path, value) else f"{path}: {expected}"


def _form(path: str, error: ErrorDetails, schema: Schema) -> str:
    """Return the expected form and an example if the value has a wrong type, and an empty text otherwise."""
    form, value, valid = _FORMS.get(error["type"], ""), error["input"], example(schema)
    if error["type"] == "string_type" and isinstance(value, int | float) and _may_be_shown(path, value):
        form, valid = "must be text in quotes", json.dumps(json.dumps(value))
    return f"{form}, such as {valid}" if form and valid else form


def _may_be_shown(path: str, value: object) -> bool:
    """Return True if logs and conditions may contain the value: it is neither a URL nor an object, and contains no
    credentials."""
    is_scalar = isinstance(value, str | int | float | None)
    return is_scalar and not path.lower().endswith("url") and not re.search("@|password=", str(value))
