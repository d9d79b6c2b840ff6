"""Evaluation of the observations of `doctor` and their display, without a cluster."""

from typing import Any

import pytest

from streamconsumer.cli.doctor.cluster_checks import parse_pod_result
from streamconsumer.cli.doctor.facts import (
    CheckResult,
    ClusterFacts,
    Dependency,
    Diagnosis,
    OperatorFacts,
    PodCheckResult,
    PodFacts,
    ServerFacts,
)
from streamconsumer.cli.doctor.findings import PERMISSIONS, evaluate_cluster, evaluate_pod
from streamconsumer.cli.doctor.run import lines
from streamconsumer.cli.status.facts import Finding
from streamconsumer.redis_client.server_faults import TLS, version_risk


def pod_facts(**changed: Any) -> PodFacts:
    server = ServerFacts(address="redis:6379", version="8.2.1", group="exists", settings={"appendonly": "yes"})
    defaults = {"name": "orders-consumer-a", "stream": "orders", "consumer_group": "billing", "server": server}
    return PodFacts(**{**defaults, "handler": Dependency(name="shop:handle"), **changed})


def cluster_facts(**changed: Any) -> ClusterFacts:
    operator = OperatorFacts(namespace="ops", name="operator", image="operator:1", desired=2, ready=2)
    defaults = {"operators": [operator], "missing_fields": [], "permissions": dict.fromkeys(PERMISSIONS, True)}
    return ClusterFacts(**{**defaults, **changed})


def objects(result: CheckResult) -> list[tuple[str, str]]:
    return [(each.severity, each.object) for each in result.findings]


def test_unusable_server_is_the_only_finding_of_redis() -> None:
    result = evaluate_pod(
        pod_facts(
            server=ServerFacts(address="redis:6379", problem="redis:6379: refused", missing_permissions=["+time"])
        )
    )
    assert objects(result) == [("error", "Redis redis:6379")]


def test_known_faults_of_the_server_version_are_a_warning_with_the_fixed_version() -> None:
    server = ServerFacts(address="redis:6379", group="exists", version_risk=version_risk("redis", "8.2.1", {TLS}))
    (finding,) = evaluate_pod(pod_facts(server=server)).findings
    assert (finding.severity, finding.object, finding.advice) == (
        "warning",
        "Redis version",
        "upgrade to 8.2.9 or newer",
    )
    assert finding.found.startswith("Redis 8.2.1 has known faults: ")


def test_operator_without_ready_pods_is_an_error_and_an_unreadable_operator_is_not() -> None:
    not_ready = OperatorFacts(namespace="ops", name="operator", image="operator:1", desired=2, ready=0)
    assert objects(evaluate_cluster(cluster_facts(operators=[not_ready]))) == [("error", "operator ops/operator")]
    assert objects(evaluate_cluster(cluster_facts(operators=[]))) == [("error", "operator")]
    assert objects(evaluate_cluster(cluster_facts(operators=None, missing_fields=None))) == []


def test_outdated_crd_is_a_warning_with_the_missing_fields() -> None:
    (finding,) = evaluate_cluster(cluster_facts(missing_fields=["spec.new"])).findings
    assert (finding.severity, finding.found) == ("warning", "missing fields: spec.new")


def test_missing_permission_of_the_user_is_a_warning() -> None:
    permissions = {**dict.fromkeys(PERMISSIONS, True), "create pods/exec": False}
    (finding,) = evaluate_cluster(cluster_facts(permissions=permissions)).findings
    assert (finding.severity, finding.found) == ("warning", "you are not allowed to create pods/exec")


@pytest.mark.parametrize("width", [60, 100])
def test_screen_is_not_wider_than_the_terminal(width: int) -> None:
    finding = Finding(severity="error", object="x", found="found " * 40, expected="y " * 90, advice="z " * 90)
    pod = PodCheckResult(name="orders-consumer-a", passed=[], findings=[finding])
    shown = "\n".join(map(str, lines(Diagnosis(cluster=evaluate_cluster(cluster_facts()), pod=pod), width)))
    for code in ("\x1b[31m", "\x1b[1m", "\x1b[0m"):
        shown = shown.replace(code, "")
    assert max(map(len, shown.splitlines())) <= width


def test_fields_that_a_newer_pod_adds_are_ignored() -> None:
    document = b"""{"cluster": null, "pod": {"name": "orders-consumer-a", "findings": [], "image": "orders:2",
        "passed": [{"object": "handler", "found": "can be called", "seconds": 1}]}, "version": "2"}"""
    result = parse_pod_result("orders-consumer-a", document, "")
    assert isinstance(result, PodCheckResult)
    assert [check.object for check in result.passed] == ["handler"]


@pytest.mark.parametrize("document", [b'{"pod": {"name": "a", "fine": []}}', b'{"pod": null}', b"[]"])
def test_output_of_another_version_is_named_as_the_reason(document: bytes) -> None:
    result = parse_pod_result("orders-consumer-a", document, "the command printed no error")
    assert isinstance(result, str)
    assert "another version" in result


@pytest.mark.parametrize("document", [b"", b"Killed"])
def test_a_pod_without_output_is_reported_with_its_last_error(document: bytes) -> None:
    result = parse_pod_result("orders-consumer-a", document, "exit code 137")
    assert result == "pod orders-consumer-a could not run the checks: exit code 137"
