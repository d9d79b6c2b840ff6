"""Minimiser: removes parts of a plan while the simulation still violates the same promise (delta debugging)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

from tests.simulation.plan import SECOND, Plan

Item = TypeVar("Item")

MIN_DURATION = SECOND // 100
"""Durations are halved until they are shorter than this."""


def minimize(plan: Plan, violates: Callable[[Plan], bool]) -> Plan:
    """Return a smaller plan for which `violates` also returns True. It returns True for the plan itself."""
    while True:
        smaller = plan
        for part in _PARTS:
            smaller = _with_fewer(smaller, part, violates)
        smaller = _with_shorter_faults(smaller, violates)
        smaller = _with_simpler_pods(smaller, violates)
        if smaller == plan:
            return plan
        plan = smaller


Part = Literal["faults", "messages", "pods"]

_PARTS: tuple[Part, ...] = ("faults", "messages", "pods")


def _with_fewer(plan: Plan, part: Part, violates: Callable[[Plan], bool]) -> Plan:
    def with_items(items: Sequence[Any]) -> Plan:
        changes: dict[str, Any] = {part: tuple(items)}
        return replace(plan, **changes)

    min_count = 1 if part == "pods" else 0
    items: Sequence[Any] = getattr(plan, part)
    return with_items(remove_items(items, lambda fewer: len(fewer) >= min_count and violates(with_items(fewer))))


def remove_items(items: Sequence[Item], violates: Callable[[Sequence[Item]], bool]) -> Sequence[Item]:
    """Remove items while `violates` returns True for the rest: first halves, then quarters, at last single items."""
    size = len(items)
    while size:
        index = 0
        while index < len(items):
            fewer = [*items[:index], *items[index + size :]]
            if violates(fewer):
                items = fewer
            else:
                index += size
        size //= 2
    return items


def _with_shorter_faults(plan: Plan, violates: Callable[[Plan], bool]) -> Plan:
    for index, fault in enumerate(plan.faults):
        duration = fault.duration // 2
        while duration >= MIN_DURATION:
            shorter_fault = replace(fault, duration=duration)
            shorter = replace(plan, faults=(*plan.faults[:index], shorter_fault, *plan.faults[index + 1 :]))
            if not violates(shorter):
                break
            plan, duration = shorter, duration // 2
    return plan


def _with_simpler_pods(plan: Plan, violates: Callable[[Plan], bool]) -> Plan:
    """Set options of all pods to their simplest values."""
    simplest = {"concurrency": 1, "is_batch": False, "has_ordering_key": False, "clock_drift": 1.0, "start_at": 0}
    for name, value in simplest.items():
        changes: dict[str, Any] = {name: value}
        simpler = replace(plan, pods=tuple(replace(pod, **changes) for pod in plan.pods))
        if simpler != plan and violates(simpler):
            plan = simpler
    return plan
