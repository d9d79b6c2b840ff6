"""Who may connect to operator and processors, and whom these may connect to, as NetworkPolicies say it.

That a network which obeys them lets everything work, and nothing else, is tested in tests/e2e/test_network_policies.py.
"""

import json

import pytest

from streamconsumer.operator.manifests.metadata import labels as child_labels
from tests.charts.rendering import Helm, Manifest, of_kind, pod_template
from tests.model.examples import consumer


def policies(objects: list[Manifest]) -> tuple[list[Manifest], list[Manifest]]:
    """Those of the operator, and those of processors."""
    found = of_kind("NetworkPolicy", objects)
    of_pods = [each for each in found if each["metadata"]["name"].endswith("-pods")]
    return [each for each in found if each not in of_pods], of_pods


def test_the_policy_of_the_pods_finds_the_pods_of_every_stream_consumer(everything: list[Manifest]) -> None:
    _, (policy,) = policies(everything)
    assert policy["metadata"]["namespace"] == "shop"
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= child_labels(consumer()).items()
    assert policy["spec"]["ingress"] == [{"ports": [{"port": "http"}], "from": [{"podSelector": {}}]}]


def test_the_pods_reach_name_servers_redis_sentinels_and_the_collector_where_these_are_as_usual(helm: Helm) -> None:
    arguments = "processor.networkPolicy.enabled=true,watchNamespaces={shop,billing}"
    _, found = policies(helm.template("--set", arguments))
    assert [each["metadata"]["namespace"] for each in found] == ["shop", "billing"]
    names_, servers = found[0]["spec"]["egress"]
    assert names_["ports"] == [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    assert servers["ports"] == [{"port": 6379}, {"port": 26379}, {"port": 4318}]
    assert found[0]["spec"]["ingress"] == [{"ports": [{"port": "http"}]}]


def test_where_all_namespaces_are_watched_the_pods_policy_asks_for_names(helm: Helm) -> None:
    assert "list the namespaces" in helm.template_error("--set", "processor.networkPolicy.enabled=true")
    arguments = "processor.networkPolicy.enabled=true,processor.networkPolicy.namespaces={shop}"
    _, (policy,) = policies(helm.template("--set", arguments))
    assert policy["metadata"]["namespace"] == "shop"


def test_the_network_policy_lets_in_what_asks_for_metrics_and_out_what_it_is_told(everything: list[Manifest]) -> None:
    (policy,), _ = policies(everything)
    assert (
        policy["spec"]["podSelector"]["matchLabels"].items() <= pod_template(everything)["metadata"]["labels"].items()
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
def test_the_way_to_the_collector_is_open_for_operator_and_pods(helm: Helm, endpoint: str, port: int) -> None:
    ways = "networkPolicy.enabled=true,networkPolicy.egress[0].ports[0].port=443,processor.networkPolicy.enabled=true"
    arguments = f"{ways},processor.networkPolicy.namespaces={{shop}}"
    found = policies(helm.template("--set", arguments, "--set", f"telemetry.endpoint={endpoint}"))
    for (policy,) in found:
        assert policy["spec"]["egress"][-1] == {"ports": [{"port": port}]}


@pytest.mark.parametrize(
    ("endpoint", "ways"),
    [("", []), ("http://collector:4318", [{"ports": [{"port": 4318}]}])],
    ids=["nowhere", "traces"],
)
def test_pods_that_may_connect_nowhere_still_reach_the_collector(
    helm: Helm, endpoint: str, ways: list[Manifest]
) -> None:
    pods = json.dumps({"enabled": True, "namespaces": ["shop"], "egress": []})
    found = helm.template("--set-json", f"processor.networkPolicy={pods}", "--set", f"telemetry.endpoint={endpoint}")
    _, (policy,) = policies(found)
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["egress"] == ways


def test_the_network_policy_alone_closes_no_way_out(helm: Helm) -> None:
    (policy,) = of_kind("NetworkPolicy", helm.template("--set", "networkPolicy.enabled=true"))
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert policy["spec"]["ingress"] == [{"ports": [{"port": "http"}]}]
    assert "egress" not in policy["spec"]
