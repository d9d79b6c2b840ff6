from datetime import UTC, datetime, timedelta

from streamconsumer.model.status import (
    CONDITIONS,
    STREAM_CONDITIONS,
    Condition,
    Readiness,
    Reason,
    Status,
    build_conditions,
)

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=5)

STARTING = Readiness(ready=False, reason=Reason.PODS_STARTING, message="0 of 1 pods ready.", reconciling=True)
READY = Readiness(ready=True, reason=Reason.ALL_PODS_READY, message="1 pod reads 'orders'.")
STUCK = Readiness(ready=False, reason=Reason.HANDLER_UNUSABLE, message="no module named shop", stalled=True)


def by_type(conditions: list[Condition]) -> dict[str, Condition]:
    return {condition.type: condition for condition in conditions}


def test_conditions_are_those_of_kstatus_and_suspended() -> None:
    types = [each.type for each in build_conditions(READY, 1, [], NOON)]
    assert (
        types
        == ["Ready", "Reconciling", "Stalled", "Suspended"]
        == [name for name in CONDITIONS if name not in STREAM_CONDITIONS]
    )


def test_suspended_streamconsumer_is_ready() -> None:
    """Otherwise `kubectl wait` and GitOps tools would wait for it."""
    suspended = Readiness(ready=True, reason=Reason.SUSPENDED, message="no pods")
    conditions = by_type(build_conditions(suspended, 1, [], NOON))
    assert {name: each.status for name, each in conditions.items()} == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
        "Suspended": "True",
    }
    assert conditions["Ready"].reason == conditions["Suspended"].reason == "Suspended"


def test_only_true_conditions_have_the_reason_and_the_message() -> None:
    conditions = by_type(build_conditions(STUCK, 1, [], NOON))
    assert {name: (each.status, each.reason) for name, each in conditions.items()} == {
        "Ready": ("False", "HandlerUnusable"),
        "Reconciling": ("False", "Settled"),
        "Stalled": ("True", "HandlerUnusable"),
        "Suspended": ("False", "Settled"),
    }
    assert conditions["Stalled"].message == "no module named shop"


def test_transition_time_changes_with_the_status() -> None:
    before = build_conditions(STARTING, 1, [], NOON)
    after = by_type(build_conditions(READY, 1, before, LATER))
    assert after["Ready"].last_transition_time == after["Reconciling"].last_transition_time == "2026-11-24T12:05:00Z"
    assert after["Stalled"].last_transition_time == "2026-11-24T12:00:00Z"


def test_transition_time_is_kept_when_only_the_reason_changes() -> None:
    before = build_conditions(STARTING, 1, [], NOON)
    other = Readiness(ready=False, reason=Reason.UNSCHEDULABLE, message="no node", reconciling=True)
    after = by_type(build_conditions(other, 2, before, LATER))["Ready"]
    assert (after.reason, after.last_transition_time) == ("Unschedulable", "2026-11-24T12:00:00Z")


def test_unchanged_readiness_gives_equal_conditions() -> None:
    before = build_conditions(READY, 1, [], NOON)
    assert build_conditions(READY, 1, before, LATER) == before


def test_every_condition_has_the_observed_generation() -> None:
    assert {each.observed_generation for each in build_conditions(READY, 7, [], NOON)} == {7}


def test_unknown_fields_of_a_newer_operator_are_ignored() -> None:
    """After a downgrade the CRD keeps the new fields. The old operator must still read the other fields."""
    written = Status(conditions=build_conditions(READY, 1, [], NOON)).model_dump(by_alias=True)
    written["lag"] = 5
    written["conditions"][0]["severity"] = "Info"
    assert Status.model_validate(written).conditions == build_conditions(READY, 1, [], NOON)


def test_message_longer_than_the_limit_is_truncated() -> None:
    """The API server quotes a rejected object, and an admission policy can return any text."""
    rejected = Readiness(ready=False, reason=Reason.CHILD_REJECTED, message="x" * 40_000, stalled=True)
    message = by_type(build_conditions(rejected, 1, [], NOON))["Ready"].message
    assert len(message) <= 32_768
    assert message.endswith("x…")
