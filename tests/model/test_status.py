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


def by_type(found: list[Condition]) -> dict[str, Condition]:
    return {each.type: each for each in found}


def test_there_are_three_conditions_of_kstatus_and_one_of_our_own() -> None:
    kinds = [each.type for each in build_conditions(READY, 1, [], NOON)]
    assert (
        kinds
        == ["Ready", "Reconciling", "Stalled", "Suspended"]
        == [kind for kind in CONDITIONS if kind not in STREAM_CONDITIONS]
    )


def test_what_is_suspended_is_ready_so_that_nobody_waits_for_it() -> None:
    told = by_type(build_conditions(Readiness(ready=True, reason=Reason.SUSPENDED, message="no pods"), 1, [], NOON))
    assert {kind: each.status for kind, each in told.items()} == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
        "Suspended": "True",
    }
    assert told["Ready"].reason == told["Suspended"].reason == "Suspended"


def test_only_the_condition_that_holds_tells_why() -> None:
    told = by_type(build_conditions(STUCK, 1, [], NOON))
    assert {kind: (each.status, each.reason) for kind, each in told.items()} == {
        "Ready": ("False", "HandlerUnusable"),
        "Reconciling": ("False", "Settled"),
        "Stalled": ("True", "HandlerUnusable"),
        "Suspended": ("False", "Settled"),
    }
    assert told["Stalled"].message == "no module named shop"


def test_a_condition_is_dated_when_its_status_changes() -> None:
    before = build_conditions(STARTING, 1, [], NOON)
    after = by_type(build_conditions(READY, 1, before, LATER))
    assert after["Ready"].last_transition_time == after["Reconciling"].last_transition_time == "2026-11-24T12:05:00Z"
    assert after["Stalled"].last_transition_time == "2026-11-24T12:00:00Z"


def test_another_reason_or_message_alone_is_no_transition() -> None:
    before = build_conditions(STARTING, 1, [], NOON)
    other = Readiness(ready=False, reason=Reason.UNSCHEDULABLE, message="no node", reconciling=True)
    after = by_type(build_conditions(other, 2, before, LATER))["Ready"]
    assert (after.reason, after.last_transition_time) == ("Unschedulable", "2026-11-24T12:00:00Z")


def test_saying_the_same_again_gives_the_same() -> None:
    before = build_conditions(READY, 1, [], NOON)
    assert build_conditions(READY, 1, before, LATER) == before


def test_every_condition_says_of_which_generation_it_speaks() -> None:
    assert {each.observed_generation for each in build_conditions(READY, 7, [], NOON)} == {7}


def test_a_status_that_a_newer_operator_wrote_is_still_read() -> None:
    """After a downgrade the definition and its fields stay: not to know one must not make us forget all."""
    written = Status(conditions=build_conditions(READY, 1, [], NOON)).model_dump(by_alias=True)
    written["lag"] = 5
    written["conditions"][0]["severity"] = "Info"
    assert Status.model_validate(written).conditions == build_conditions(READY, 1, [], NOON)


def test_a_sentence_that_is_longer_than_a_condition_may_be_is_cut() -> None:
    """The API server quotes what it refuses, and an admission policy says what it likes."""
    told = Readiness(ready=False, reason=Reason.CHILD_REJECTED, message="x" * 40_000, stalled=True)
    message = by_type(build_conditions(told, 1, [], NOON))["Ready"].message
    assert len(message) <= 32_768
    assert message.endswith("x…")
