"""Drift detection: compares a live object with the applied manifest. The functions have no side effects.

An applied field counts as drift if the live object lacks the field or has another value. Fields that the API server or
other clients added do not count as drift. Items of named lists (containers, variables, volumes, ports) are compared by
name, because server-side apply also merges these lists by name.
"""

import re
from decimal import Decimal
from typing import Any

_KEYS = ("uid", "mountPath", "containerPort", "name")
"""The fields that identify an item of a list, the most specific first. For example, `mountPath` comes before `name`,
because one volume may be mounted twice."""

_QUANTITY_FIELDS = ("limits", "requests", "sizeLimit")
"""The fields whose values are quantities. The quantities `1000m` and `1` are equal. In other fields, these strings are
different."""

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|Ki|M|Mi|G|Gi|T|Ti)?")
_SCALE: dict[str | None, Decimal] = {
    None: Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate(["k", "M", "G", "T"], 1)},
    **{unit: Decimal(1024) ** power for power, unit in enumerate(["Ki", "Mi", "Gi", "Ti"], 1)},
}


def contains_applied(live: Any, applied: Any, *, is_quantity: bool = False) -> bool:
    """Return True if `live` has every field of `applied` with the same value."""
    match applied:
        case dict():
            return isinstance(live, dict) and all(
                contains_applied(live.get(key), value, is_quantity=is_quantity or key in _QUANTITY_FIELDS)
                for key, value in applied.items()
            )
        case list():
            return isinstance(live, list) and _contains_list(live, applied)
        case "":
            return live in (None, "")  # the API server omits empty strings
        case str() if is_quantity:
            return bool(_parse_quantity(live) == _parse_quantity(applied))
    return bool(live == applied)


def _contains_list(live: list[Any], applied: list[Any]) -> bool:
    key = next((key for key in _KEYS if all(isinstance(item, dict) and key in item for item in applied)), None)
    if key is None:
        return len(live) == len(applied) and all(map(contains_applied, live, applied))
    by_key = {item.get(key): item for item in live if isinstance(item, dict)}
    return all(contains_applied(by_key.get(item[key]), item) for item in applied)


def _parse_quantity(quantity: Any) -> Any:
    """Return the numeric value of a quantity. Texts cannot be compared, because the API server rewrites `1000m` to `1`
    and `1024Mi` to `1Gi`."""
    parts = _QUANTITY.fullmatch(str(quantity))
    return Decimal(parts[1]) * _SCALE[parts[2]] if parts else quantity
