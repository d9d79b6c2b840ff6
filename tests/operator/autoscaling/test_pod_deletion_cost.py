"""Deletion costs of pods."""

import pytest

from streamconsumer.model import names
from streamconsumer.operator.autoscaling.pod_deletion_cost import deletion_costs
from streamconsumer.operator.manifests import Manifest


def pod(name: str, cost: str | None = None, **metadata: str) -> Manifest:
    return {
        "metadata": {
            "name": name,
            **({"annotations": {names.ANNOTATION_DELETION_COST: cost}} if cost else {}),
            **metadata,
        }
    }


@pytest.mark.parametrize(
    ("pods", "pending_by_pod", "expected"),
    [
        ([pod("a"), pod("b")], {"b": 3}, {"b": 3}),
        ([pod("a", "7"), pod("b", "3")], {"b": 3}, {"a": 0}),
        ([pod("a")], {"other program": 9}, {}),
        ([pod("a")], {"a": 2**40}, {"a": 2**31 - 1}),
        ([pod("a", deletionTimestamp="2026-01-01T00:00:00Z")], {"a": 3}, {}),
    ],
    ids=["busy pod", "idle again", "other program", "more than 32 bits", "already terminating"],
)
def test_deletion_cost_is_the_number_of_pending_entries(
    pods: list[Manifest], pending_by_pod: dict[str, int], expected: dict[str, int]
) -> None:
    assert deletion_costs(pods, pending_by_pod) == expected
