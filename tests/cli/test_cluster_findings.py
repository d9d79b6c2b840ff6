"""What is wrong, what to do, and how it is shown: pure."""

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
    told = conditions or (condition("Ready", "True", "AllPodsReady"),)
    status = Status(observed_generation=1, desired_replicas=1, replicas=1, ready_replicas=1, conditions=[*told])
    whole = {"namespace": "shop", "name": "orders", "stream": "orders", "consumer_group": "billing", "generation": 1}
    return Facts(**{**whole, "suspended": False, "status": status, **more})


def seen(**told: Any) -> RedisView:
    return RedisView(source="redis", stats=StreamStats(lag=0, lag_known=True, pending=0, dead_letters=0), **told)


def shown(given: Facts, width: int = 80) -> list[str]:
    return list(lines(given, derive_findings(given), NOW, width))


def test_where_all_is_well_nothing_is_found() -> None:
    assert derive_findings(facts(redis=seen())) == []
    assert shown(facts(redis=seen()))[-1] == "No problems found."


@pytest.mark.parametrize("reason", [Reason.HANDLER_UNUSABLE, Reason.POD_CRASHING, Reason.IMAGE_UNAVAILABLE])
def test_pods_that_cannot_start_are_an_error_with_what_to_do(reason: Reason) -> None:
    (found,) = derive_findings(facts(condition("Ready", "False", reason, "the words of the pod")))
    assert (found.severity, found.found) == ("error", f"{reason}: the words of the pod")
    assert not found.advice.startswith("wait")


def test_what_passes_by_itself_is_a_warning() -> None:
    (found,) = derive_findings(facts(condition("Ready", "False", Reason.PODS_STARTING)))
    assert found.severity == "warning"


def test_errors_come_first() -> None:
    dead = StreamStats(dead_letters=3)
    found = derive_findings(
        facts(
            condition("Ready", "False", Reason.PODS_STARTING),
            condition("RedisReachable", "False", StreamReason.UNREACHABLE),
            redis=RedisView(source="operator", stats=dead),
        )
    )
    assert [each.severity for each in found] == ["error", "warning", "warning"]


def test_a_pod_is_not_told_twice() -> None:
    pod = Pod(
        name="orders-consumer-a", phase="Running", ready=False, restarts=4, exit_message="HandlerUnusable: no shop"
    )
    told = condition("Ready", "False", Reason.HANDLER_UNUSABLE, "Pod orders-consumer-a: no shop")
    assert len(derive_findings(facts(told, pods=[pod]))) == 1
    starting = condition("Ready", "False", Reason.PODS_STARTING)
    assert "Pod orders-consumer-a" in {each.object for each in derive_findings(facts(starting, pods=[pod]))}


def test_an_edit_that_the_operator_has_not_acted_on_is_an_error() -> None:
    (found,) = derive_findings(facts(generation=2))
    assert (found.severity, found.found) == ("error", "the operator last reconciled generation 1")


def test_entries_of_a_consumer_that_is_gone_are_told_and_those_of_pods_and_waiting_ones_are_not() -> None:
    consumers = [
        ConsumerFacts(name="orders-consumer-a", pending=3, idle_seconds=900, is_pod=True),
        ConsumerFacts(name=POSTPONED_CONSUMER, pending=3, idle_seconds=900, is_pod=False),
        ConsumerFacts(name="idle", pending=0, idle_seconds=900, is_pod=False),
        ConsumerFacts(name="gone", pending=2, idle_seconds=900, is_pod=False),
    ]
    (found,) = derive_findings(facts(redis=seen(consumers=consumers)))
    assert found.object == "consumer 'gone'"


def test_a_message_that_fails_again_and_again_is_told_by_its_id() -> None:
    poison = PendingEntryFacts(message_id="17-0", consumer=POSTPONED_CONSUMER, idle_seconds=3, deliveries=6)
    fresh = PendingEntryFacts(message_id="18-0", consumer="orders-consumer-a", idle_seconds=0, deliveries=1)
    (found,) = derive_findings(facts(redis=seen(oldest_pending=[poison, fresh])))
    assert found.object == "entry 17-0"
    assert "delivered 6 times" in found.found


@pytest.mark.parametrize("width", [80, 120])
def test_a_screen_is_never_wider_than_the_terminal(width: int) -> None:
    broken = condition("Ready", "False", Reason.HANDLER_UNUSABLE, "the handler cannot be imported " * 20)
    found = shown(facts(broken, redis=RedisView(source="unknown", problem="redis: connection refused " * 10)), width)
    assert (
        max(len(line.replace("\x1b[31m\x1b[1m", "").replace("\x1b[1m", "").replace("\x1b[0m", "")) for line in found)
        <= width
    )


def test_names_that_others_chose_move_nothing_on_a_terminal() -> None:
    consumers = [ConsumerFacts(name="evil\x1b[2J\nERROR", pending=1, idle_seconds=900, is_pod=False)]
    text = "\n".join(shown(facts(redis=seen(consumers=consumers))))
    assert "\x1b[2J" not in text
    assert "evil\\x1b[2J\\nERROR" in text


@pytest.mark.parametrize(
    "garbled", [{"spec": "text"}, {"spec": None}, {"status": "text"}, {"status": {"conditions": "none"}}], ids=str
)
def test_one_that_somebody_garbled_is_shown_like_any_other(garbled: dict[str, Any]) -> None:
    """What stands in one must not keep the others from being shown."""
    told = from_manifests({**manifest(), **garbled}, [])
    assert told.name == "orders"
    assert derive_findings(told)
