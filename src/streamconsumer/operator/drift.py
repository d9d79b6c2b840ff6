"""Does a live object still hold all that was applied? Pure.

What the API server or others added does not count; what we stated and is gone or different does. Lists of named
things (containers, variables, volumes, ports) are compared by name, as server-side apply merges them.
"""

import re
from decimal import Decimal
from typing import Any

_KEYS = ("name", "containerPort", "mountPath", "uid")
_QUANTITY = re.compile(r"^([0-9.]+)(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")
_SCALE: dict[str | None, Decimal] = {
    None: Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate(["k", "M", "G", "T"], 1)},
    **{unit: Decimal(1024) ** power for power, unit in enumerate(["Ki", "Mi", "Gi", "Ti"], 1)},
}


def holds(live: Any, applied: Any) -> bool:
    """Whether `live` has everything that `applied` states."""
    match applied:
        case dict():
            return isinstance(live, dict) and all(
                holds(live.get(key), value) for key, value in applied.items()
            )
        case list():
            return isinstance(live, list) and _holds_list(live, applied)
        case str():
            return bool(live == applied or _same_quantity(live, applied))
    return bool(live == applied)


def _holds_list(live: list[Any], applied: list[Any]) -> bool:
    key = next(
        (key for key in _KEYS if all(isinstance(item, dict) and key in item for item in applied)), None
    )
    if key is None:
        return len(live) == len(applied) and all(map(holds, live, applied))
    by_key = {item.get(key): item for item in live if isinstance(item, dict)}
    return all(holds(by_key.get(item[key]), item) for item in applied)


def _same_quantity(live: Any, applied: str) -> bool:
    """The API server writes `1000m` as `1` and `1024Mi` as `1Gi`."""
    ours, theirs = _QUANTITY.match(applied), _QUANTITY.match(live) if isinstance(live, str) else None
    return bool(ours and theirs) and _amount(ours) == _amount(theirs)


def _amount(quantity: re.Match[str] | None) -> Decimal | None:
    return Decimal(quantity[1]) * _SCALE[quantity[2]] if quantity else None
