"""The minimiser removes everything that the violation does not need."""

from tests.simulation.minimiser import minimize, remove_items
from tests.simulation.plan import SECOND, FaultPlan, MessagePlan, Plan, PodPlan


def test_items_that_are_not_needed_are_removed() -> None:
    tried = 0

    def violates(items: object) -> bool:
        nonlocal tried
        tried += 1
        assert isinstance(items, list)
        return {17, 60} <= set(items)

    assert list(remove_items(range(100), violates)) == [17, 60]
    assert tried < 60


def test_plan_keeps_only_what_the_violation_needs() -> None:
    plan = Plan(
        seed=1,
        pods=tuple(PodPlan(name, SECOND, concurrency=4) for name in ("pod-a", "pod-b", "pod-c")),
        messages=tuple(MessagePlan(number, number) for number in range(30)),
        faults=tuple(FaultPlan(kind, 5, 8 * SECOND, "pod-a") for kind in ("crash", "slow", "freeze", "cut")),
    )

    def violates(smaller: Plan) -> bool:
        durations = [fault.duration for fault in smaller.faults if fault.kind == "freeze"]
        return bool(durations) and durations[0] >= 2 * SECOND and any(each.number == 7 for each in smaller.messages)

    smallest = minimize(plan, violates)
    assert [pod.concurrency for pod in smallest.pods] == [1]
    assert [each.number for each in smallest.messages] == [7]
    assert smallest.faults == (FaultPlan("freeze", 5, 2 * SECOND, "pod-a"),)


def test_plan_is_equal_after_it_was_stored() -> None:
    plan = Plan(3, (PodPlan("pod-a", 0),), (MessagePlan(0, 1, "x"),), (FaultPlan("cut", 2, pod="pod-a"),))
    assert Plan.from_dict(plan.to_dict()) == plan
