"""Hints for the author of a manifest: unknown fields with the field that was probably meant, and example values.

All hints are derived from structural schemas. The functions have no side effects.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any

Schema = Mapping[str, Any]
Path = tuple[str | int, ...]

MAX_ERRORS = 100
"""Maximum number of errors that are listed for one resource."""

MIN_SIMILARITY = 0.75
"""Minimum similarity of a suggested name, as `difflib` computes it."""

MAX_SUGGESTIONS = 3
"""If more fields than this are equally probable, no field is suggested."""

MIN_PART_LENGTH = 4
"""Minimum length of a name that is suggested because it is a part of the other name."""


def field_path(path: Sequence[str | int], parent: str = "") -> str:
    """Return the path of a field as the API server writes it, such as `spec.env[0].value`."""
    text = parent
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{quote_name(part)}" if text else quote_name(part)
    return text


def quote_name(name: object) -> str:
    """Return a name in the form that error messages use.

    The name is unchanged if it contains only ASCII letters, digits and common punctuation. Any other name is quoted,
    escaped and truncated.
    """
    text = str(name)
    return text if re.fullmatch(r"[A-Za-z0-9_.:/\[\]-]{1,80}", text) else f"{text!r:.80}"


def schema_at(schema: Schema, path: Sequence[str | int]) -> Schema:
    """Return the schema of the field at the path, or an empty schema if the path leaves the schema."""
    for part in path:
        if isinstance(part, int):
            schema = schema.get("items", {})
        else:
            schema = schema.get("properties", {}).get(part) or _values_schema(schema)
    return schema


def _values_schema(schema: Schema) -> Schema:
    values = schema.get("additionalProperties")
    return values if isinstance(values, dict) else {}


# -- examples ----------------------------------------------------------------------------------------------------------


def example(schema: Schema) -> str:
    """Return an example of a valid value as JSON, which is also valid in YAML. Empty if the schema is unknown."""
    value = _example(schema)
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _example(schema: Schema) -> Any:
    for keyword in ("examples", "enum"):
        if keyword in schema:
            return schema[keyword][0]
    scalars = {"integer": schema.get("minimum", 1), "number": 0.5, "boolean": True, "string": "text"}
    match schema.get("type"):
        case "object" if "properties" in schema:
            shown = schema.get("required") or list(schema["properties"])[:1]
            return {name: _example(schema["properties"][name]) for name in shown}
        case "object" if values := _values_schema(schema):
            return {"team": _example(values)}
        case "array":
            return [_example(schema["items"])]
        case type_name:
            return schema.get("default") or scalars.get(str(type_name))


# -- unknown fields ----------------------------------------------------------------------------------------------------


def split_unknown(value: Any, schema: Schema, path: Path = ()) -> tuple[Any, list[Path]]:
    """Return the value as the API server validates it, without unknown fields, and the paths of the unknown fields.

    As in the API server, nulls are dropped except in lists, and `10.0` becomes the integer 10."""
    unknown: list[Path] = []

    def descend(inner: Any, inner_schema: Schema, part: str | int) -> Any:
        kept, found = split_unknown(inner, inner_schema, (*path, part))
        unknown.extend(found)
        return kept

    if isinstance(value, list) and "items" in schema:
        return [descend(item, schema["items"], position) for position, item in enumerate(value)], unknown
    if isinstance(value, float) and value.is_integer():
        return int(value), unknown
    if not isinstance(value, dict) or not ("properties" in schema or _values_schema(schema)):
        return value, unknown
    result = {}
    for name, inner in value.items():
        if "properties" in schema and name not in schema["properties"]:
            unknown.append((*path, name))
        elif inner is not None:
            result[name] = descend(inner, schema_at(schema, [name]), name)
    return result, unknown


def limited(errors: Iterable[str], count: int) -> list[str]:
    """Return at most MAX_ERRORS of `count` errors, and the number of the others."""
    more = count - MAX_ERRORS
    return [*islice(errors, MAX_ERRORS), *([f"{more} more errors"] if more > 0 else [])]


def unknown_field_errors(paths: Sequence[Path], root: Schema) -> list[str]:
    """Return the errors for unknown fields. `root` is the schema of the whole document."""
    return limited((_unknown_field_error(path, root) for path in paths), len(paths))


def _unknown_field_error(path: Path, root: Schema) -> str:
    subject = f"{field_path(path)} is not a known field"
    suggestions = _suggestions(path, root)
    return f"{subject}; did you mean {' or '.join(suggestions)}?" if suggestions else f"{subject}; check its spelling"


def _suggestions(path: Path, root: Schema) -> list[str]:
    """Return the fields that were probably meant: a field of the same object, or a field of the same name elsewhere."""
    *parent, name = path
    wanted = _normal(str(name))
    siblings = {_normal(each): each for each in schema_at(root, parent).get("properties", {})}
    if similar := get_close_matches(wanted, siblings, n=1, cutoff=MIN_SIMILARITY):
        return [field_path([*parent, siblings[similar[0]]])]
    elsewhere = [each for each in _writable_paths(root) if f".{_normal(each)}".endswith(f".{wanted}")]
    if elsewhere:
        return elsewhere if len(elsewhere) <= MAX_SUGGESTIONS else []
    containing = [
        siblings[each]
        for each in siblings
        if min(len(each), len(wanted)) >= MIN_PART_LENGTH and _contains(each, wanted)
    ]
    if len(containing) == 1:
        return [field_path([*parent, containing[0]])]
    last_names = {_normal(each.rpartition(".")[2]): each for each in _writable_paths(root)}
    similar = get_close_matches(wanted, last_names, n=1, cutoff=MIN_SIMILARITY)
    return [last_names[similar[0]]] if similar else []


def _normal(name: str) -> str:
    return re.sub("[-_]", "", name).lower()


def _contains(first: str, second: str) -> bool:
    return first in second or second in first


def _writable_paths(schema: Schema, parent: str = "") -> Iterator[str]:
    """Yield the path of every field except the fields of the status, such as `spec.env[].name`."""
    for name, inner in schema.get("properties", {}).items():
        path = f"{parent}.{name}" if parent else name
        yield path
        if path != "status":
            yield from _writable_paths(inner, path)
            yield from _writable_paths(inner.get("items", {}), f"{path}[]")
