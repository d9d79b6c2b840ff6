"""Drift detection: compares a live object with the applied manifest. The functions have no side effects.

An applied field differs if the live object lacks the field or has another value. Fields that the API server or other
clients added do not count. Items of named lists (containers, variables, volumes, ports) are compared by name, because
server-side apply also merges these lists by name.
"""

from collections.abc import Iterator
from decimal import ROUND_CEILING, Decimal
from typing import Any

from kubernetes.utils.quantity import parse_quantity

Step = str | tuple[str, Any]
"""A step of a path into an object. For a field, the step is the name of the field. For an item of a named list, the
step is the key and the value that identify the item, for example `("name", "processor")`."""

Path = tuple[Step, ...]

Differences = dict[Path, Any]
"""The live value of each applied field that differs. The value of a missing field is None."""

_KEYS = ("uid", "mountPath", "containerPort", "name")
"""The fields that identify an item of a list, the most specific first. For example, `mountPath` comes before `name`,
because one volume may be mounted twice."""

_ROUNDED_QUANTITIES = {"limits": Decimal("0.001"), "requests": Decimal("0.001"), "sizeLimit": Decimal("1e-9")}
"""The fields whose values are quantities, and the unit to which the API server rounds up their values. The quantities
`1000m` and `1` are equal. In other fields, these strings are different."""


def differences(live: Any, applied: Any) -> Differences:
    """Return the applied fields that the live object lacks, or that have another value in the live object. An empty
    result means that the live object contains the applied manifest."""
    return dict(_differences(live, applied, (), None))


def describe(path: Path) -> str:
    """Return the path as text, for example `spec.template.spec.containers[processor].image`."""
    text = ""
    for step in path:
        text += f"[{step[1]}]" if isinstance(step, tuple) else f".{step}" if _is_plain(step) else f"[{step}]"
    return text.removeprefix(".")


def _differences(live: Any, applied: Any, path: Path, unit: Decimal | None) -> Iterator[tuple[Path, Any]]:
    match applied:
        case dict() if isinstance(live, dict):
            for name, value in applied.items():
                yield from _differences(live.get(name), value, (*path, name), unit or _ROUNDED_QUANTITIES.get(name))
        case list() if isinstance(live, list) and (key := _item_key(applied)):
            by_key = {item.get(key): item for item in live if isinstance(item, dict)}
            for item in applied:
                yield from _differences(by_key.get(item[key]), item, (*path, (key, item[key])), None)
        case _ if not _is_same(live, applied, unit):
            yield path, live


def _is_same(live: Any, applied: Any, unit: Decimal | None) -> bool:
    match applied:
        case list() if isinstance(live, list) and len(live) == len(applied):
            return not any(differences(*pair) for pair in zip(live, applied, strict=True))
        case "":
            return live in (None, "")  # the API server omits empty strings
        case str() if unit is not None and isinstance(live, (str, int, float)):
            return bool(_rounded(live, unit) == _rounded(applied, unit))
    return bool(live == applied)


def _item_key(items: list[Any]) -> str | None:
    return next((key for key in _KEYS if items and all(isinstance(each, dict) and key in each for each in items)), None)


def _rounded(quantity: Any, unit: Decimal) -> Any:
    """Return the numeric value of a quantity as the API server stores it. Texts cannot be compared, because the API
    server rewrites `1000m` to `1` and `0.3333` to `334m`."""
    try:
        return parse_quantity(quantity).quantize(unit, ROUND_CEILING)  # type: ignore[no-untyped-call]
    except (ValueError, ArithmeticError):
        return quantity


def _is_plain(name: str) -> bool:
    return not set(name) & set("./")
