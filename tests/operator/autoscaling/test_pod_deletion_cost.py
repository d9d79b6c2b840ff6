"""Which pods are to go first."""

import pytest

from streamconsumer.operator.autoscaling.pod_deletion_cost import ANNOTATION, deletion_costs
from streamconsumer.operator.manifests import Manifest


def pod(name: str, cost: str | None = None, **metadata: str) -> Manifest:
    return {"metadata": {"name": name, **({"annotations": {ANNOTATION: cost}} if cost else {}), **metadata}}


@pytest.mark.parametrize(
    ("pods", "holding", "expected"),
    [
        ([pod("a"), pod("b")], {"b": 3}, {"b": 3}),
        ([pod("a", "7"), pod("b", "3")], {"b": 3}, {"a": 0}),
        ([pod("a")], {"somebody else": 9}, {}),
        ([pod("a")], {"a": 2**40}, {"a": 2**31 - 1}),
        ([pod("a", deletionTimestamp="2026-01-01T00:00:00Z")], {"a": 3}, {}),
    ],
    ids=["busy ones cost", "idle again", "other programs", "more than 32 bits", "going already"],
)
def test_a_pod_costs_what_it_holds(pods: list[Manifest], holding: dict[str, int], expected: dict[str, int]) -> None:
    assert deletion_costs(pods, holding) == expected
