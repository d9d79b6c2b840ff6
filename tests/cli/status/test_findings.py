"""Findings of `status` and their display, without a cluster."""

from datetime import UTC, datetime
from typing import Any

import pytest

from streamconsumer.cli.status.facts import ConsumerFacts, Facts, PendingEntryFacts, Pod, RedisView, from_manifests
from streamconsumer.cli.status.findings import derive_findings
from streamconsumer.cli.status.screen import lines
from streamconsumer.model.status import Condition, Reason, Status, StreamReason, StreamStats
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER
from tests.model.examples import manifest

NOW = datetime(2026, 11, 25, 13, tzinfo=UTC)


def condition(kind: str, status: str, reason: str, message: str = "") -> Condition:
    return Condition.model_validate(
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": "2026-11-25T12:00:00Z",
        }
    )


def facts(*conditions: Condition, **more: Any) -> Facts:
    given = conditions or (condition("Ready", "True", "AllPodsReady"),)
    status = Status(observed_generation=1, desired_replicas=1, replicas=1, ready_replicas=1, conditions=[*given])
    defaults = {"namespace": "shop", "name": "orders", "stream": "orders", "consumer_group": "billing", "generation": 1}
    return Facts(**{**defaults, "suspended": False, "status": status, **more})


def redis_view(**fields: Any) -> RedisView:
    return RedisView(source="redis", stats=StreamStats(lag=0, lag_known=True, pending=0, dead_letters=0), **fields)


def screen(state: Facts, width: int = 80) -> list[str]:
    return [str(line) for line in lines(state, derive_findings(state), NOW, width)]


def test_healthy_resource_has_no_findings() -> None:
    assert derive_findings(facts(redis=redis_view())) == []
    assert screen(facts(redis=redis_view()))[-1] == "No problems found."


@pytest.mark.parametrize("reason", [Reason.HANDLER_UNUSABLE, Reason.POD_CRASHING, Reason.IMAGE_UNAVAILABLE])
def test_pods_that_cannot_start_are_an_error_with_a_remedy(reason: Reason) -> None:
    (finding,) = derive_findings(facts(condition("Ready", "False", reason, "the message of the pod")))
    assert (finding.severity, finding.found) == ("error", f"{reason}: the message of the pod")
    assert not finding.advice.startswith("wait")


def test_failing_requests_are_an_error_although_the_pods_are_ready() -> None:
    message = "failed calling webhook check.example"
    (finding,) = derive_findings(facts(condition("Ready", "True", Reason.RECONCILE_FAILED, message)))
    assert (finding.severity, finding.found) == ("error", f"ReconcileFailed: {message}")


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_pods_that_have_ended_are_no_problem(phase: str) -> None:
    evicted = Pod(name="orders-consumer-1", phase=phase, ready=False, restarts=0, exit_message="Evicted")
    assert derive_findings(facts(pods=[evicted], redis=redis_view())) == []


def test_transient_reason_is_a_warning() -> None:
    (finding,) = derive_findings(facts(condition("Ready", "False", Reason.PODS_STARTING)))
    assert finding.severity == "warning"


def test_findings_list_errors_before_warnings() -> None:
    dead = StreamStats(dead_letters=3)
    findings = derive_findings(
        facts(
            condition("Ready", "False", Reason.PODS_STARTING),
            condition("RedisReachable", "False", StreamReason.UNREACHABLE),
            redis=RedisView(source="operator", stats=dead),
        )
    )
    assert [finding.severity for finding in findings] == ["error", "warning", "warning"]


def test_pod_in_a_condition_message_is_not_reported_again() -> None:
    pod = Pod(
        name="orders-consumer-a", phase="Running", ready=False, restarts=4, exit_message="HandlerUnusable: no shop"
    )
    unusable = condition("Ready", "False", Reason.HANDLER_UNUSABLE, "Pod orders-consumer-a: no shop")
    assert len(derive_findings(facts(unusable, pods=[pod]))) == 1
    starting = condition("Ready", "False", Reason.PODS_STARTING)
    assert "Pod orders-consumer-a" in {each.object for each in derive_findings(facts(starting, pods=[pod]))}


def test_generation_that_is_not_reconciled_is_an_error() -> None:
    (finding,) = derive_findings(facts(generation=2))
    assert (finding.severity, finding.found) == ("error", "the operator last reconciled generation 1")


def test_pending_entries_are_reported_only_for_consumers_that_are_not_pods() -> None:
    consumers = [
        ConsumerFacts(name="orders-consumer-a", pending=3, idle_seconds=900, is_pod=True),
        ConsumerFacts(name=POSTPONED_CONSUMER, pending=3, idle_seconds=900, is_pod=False),
        ConsumerFacts(name="idle", pending=0, idle_seconds=900, is_pod=False),
        ConsumerFacts(name="gone", pending=2, idle_seconds=900, is_pod=False),
    ]
    (finding,) = derive_findings(facts(redis=redis_view(consumers=consumers)))
    assert finding.object == "consumer 'gone'"


def test_entry_with_several_deliveries_is_reported_with_its_id() -> None:
    poison = PendingEntryFacts(message_id="17-0", consumer=POSTPONED_CONSUMER, idle_seconds=3, deliveries=6)
    fresh = PendingEntryFacts(message_id="18-0", consumer="orders-consumer-a", idle_seconds=0, deliveries=1)
    (finding,) = derive_findings(facts(redis=redis_view(oldest_pending=[poison, fresh])))
    assert finding.object == "entry 17-0"
    assert "delivered 6 times" in finding.found


@pytest.mark.parametrize("width", [80, 120])
def test_screen_is_not_wider_than_the_terminal(width: int) -> None:
    broken = condition("Ready", "False", Reason.HANDLER_UNUSABLE, "the handler cannot be imported " * 20)
    shown = screen(facts(broken, redis=RedisView(source="unknown", problem="redis: connection refused " * 10)), width)
    assert (
        max(len(line.replace("\x1b[31m\x1b[1m", "").replace("\x1b[1m", "").replace("\x1b[0m", "")) for line in shown)
        <= width
    )


def test_control_characters_in_consumer_names_are_escaped() -> None:
    consumers = [ConsumerFacts(name="evil\x1b[2J\nERROR", pending=1, idle_seconds=900, is_pod=False)]
    text = "\n".join(screen(facts(redis=redis_view(consumers=consumers))))
    assert "\x1b[2J" not in text
    assert "evil\\x1b[2J\\nERROR" in text


@pytest.mark.parametrize(
    "invalid", [{"spec": "text"}, {"spec": None}, {"status": "text"}, {"status": {"conditions": "none"}}], ids=str
)
def test_invalid_resource_is_shown_with_findings(invalid: dict[str, Any]) -> None:
    """An invalid resource must not prevent the display of the others."""
    state = from_manifests({**manifest(), **invalid}, [])
    assert state.name == "orders"
    assert derive_findings(state)
