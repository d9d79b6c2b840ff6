"""NetworkPolicies of operator and processors.

tests/e2e/test_network_policies.py checks on a network that enforces them that all required connections work, and
that all other connections are blocked.
"""

import json

import pytest

from streamconsumer.operator.manifests.metadata import labels as child_labels
from tests.charts.rendering import Helm, Manifest, of_kind, pod_template
from tests.model.examples import consumer


def policies(objects: list[Manifest]) -> tuple[list[Manifest], list[Manifest]]:
    """Return the policies of the operator and those of the processors."""
    every_policy = of_kind("NetworkPolicy", objects)
    for_pods = [policy for policy in every_policy if policy["metadata"]["name"].endswith("-pods")]
    return [policy for policy in every_policy if policy not in for_pods], for_pods


def test_processor_policy_selects_all_processor_pods(all_objects: list[Manifest]) -> None:
    _, (policy,) = policies(all_objects)
    assert policy["metadata"]["namespace"] == "shop"
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= child_labels(consumer()).items()
    assert policy["spec"]["ingress"] == [{"ports": [{"port": "http"}], "from": [{"podSelector": {}}]}]


def test_processor_policy_allows_dns_redis_sentinels_and_collector(helm: Helm) -> None:
    arguments = "processor.networkPolicy.enabled=true,watchNamespaces={shop,billing}"
    _, for_pods = policies(helm.template("--set", arguments))
    assert [policy["metadata"]["namespace"] for policy in for_pods] == ["shop", "billing"]
    dns, servers = for_pods[0]["spec"]["egress"]
    assert dns["ports"] == [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    assert servers["ports"] == [{"port": 6379}, {"port": 26379}, {"port": 4318}]
    assert for_pods[0]["spec"]["ingress"] == [{"ports": [{"port": "http"}]}]


def test_processor_policy_requires_namespaces_when_all_are_watched(helm: Helm) -> None:
    assert "list the namespaces" in helm.template_error("--set", "processor.networkPolicy.enabled=true")
    arguments = "processor.networkPolicy.enabled=true,processor.networkPolicy.namespaces={shop}"
    _, (policy,) = policies(helm.template("--set", arguments))
    assert policy["metadata"]["namespace"] == "shop"


def test_operator_policy_allows_metrics_and_the_configured_egress(all_objects: list[Manifest]) -> None:
    (policy,), _ = policies(all_objects)
    assert (
        policy["spec"]["podSelector"]["matchLabels"].items() <= pod_template(all_objects)["metadata"]["labels"].items()
    )
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["ingress"] == [{"ports": [{"port": "http"}], "from": [{"podSelector": {}}]}]
    assert policy["spec"]["egress"] == [{"ports": [{"port": 443}]}, {"ports": [{"port": 4318}]}]


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("http://collector.monitoring:14318", 14318),
        ("https://collector.example", 443),
        ("http://collector/otlp", 80),
        ("http://[fd00::1]:4318", 4318),
        ("http://[fd00::1]", 80),
    ],
)
def test_both_policies_allow_the_collector(helm: Helm, endpoint: str, port: int) -> None:
    enabled = (
        "networkPolicy.enabled=true,networkPolicy.egress[0].ports[0].port=443,processor.networkPolicy.enabled=true"
    )
    arguments = f"{enabled},processor.networkPolicy.namespaces={{shop}}"
    both = policies(helm.template("--set", arguments, "--set", f"telemetry.endpoint={endpoint}"))
    for (policy,) in both:
        assert policy["spec"]["egress"][-1] == {"ports": [{"port": port}]}


@pytest.mark.parametrize(
    ("endpoint", "egress"),
    [("", []), ("http://collector:4318", [{"ports": [{"port": 4318}]}])],
    ids=["no collector", "collector"],
)
def test_processor_policy_without_egress_still_allows_the_collector(
    helm: Helm, endpoint: str, egress: list[Manifest]
) -> None:
    pods = json.dumps({"enabled": True, "namespaces": ["shop"], "egress": []})
    objects = helm.template("--set-json", f"processor.networkPolicy={pods}", "--set", f"telemetry.endpoint={endpoint}")
    _, (policy,) = policies(objects)
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["egress"] == egress


def test_operator_policy_without_egress_restricts_only_ingress(helm: Helm) -> None:
    (policy,) = of_kind("NetworkPolicy", helm.template("--set", "networkPolicy.enabled=true"))
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert policy["spec"]["ingress"] == [{"ports": [{"port": "http"}]}]
    assert "egress" not in policy["spec"]
