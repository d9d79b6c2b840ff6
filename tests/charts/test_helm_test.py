"""What `helm test` brings along. That it works is seen on a node: tests/e2e/test_upgrades.py."""

import json

from tests.charts.rendering import NAMESPACE, Helm, Manifest, of_kind, pod_template


def hooks(objects: list[Manifest]) -> list[Manifest]:
    return [each for each in objects if "helm.sh/hook" in each["metadata"].get("annotations", {})]


def variables(pod: Manifest) -> dict[str, Manifest]:
    (container,) = pod["spec"]["containers"]
    return {variable["name"]: variable for variable in container["env"]}


def test_without_a_redis_there_is_no_test(helm: Helm) -> None:
    assert hooks(helm.template()) == []


def test_the_test_may_do_what_it_does_and_no_more(helm: Helm) -> None:
    found = hooks(helm.template("--set", "test.redisUrl=redis://redis.shop:6379/0"))
    assert {each["kind"] for each in found} == {"ServiceAccount", "Role", "RoleBinding", "Pod"}
    (role,), (pod,) = of_kind("Role", found), of_kind("Pod", found)
    assert {(*rule["resources"], *rule["verbs"]) for rule in role["rules"]} == {
        ("streamconsumers", "get", "create", "delete"),
        ("deployments", "create"),
    }
    assert json.loads(variables(pod)["TEST_REDIS"]["value"]) == {"url": "redis://redis.shop:6379/0"}
    assert {each["metadata"]["namespace"] for each in found} == {NAMESPACE}


def test_a_url_in_a_secret_is_named_and_not_shown(helm: Helm, everything: list[Manifest]) -> None:
    found = hooks(everything)
    (role,), (pod,) = of_kind("Role", found), of_kind("Pod", found)
    reference = {"name": "redis", "key": "url"}
    assert json.loads(variables(pod)["TEST_REDIS"]["value"]) == {"urlSecretRef": reference}
    assert variables(pod)["TEST_REDIS_URL"]["valueFrom"]["secretKeyRef"] == reference
    (secrets,) = [rule for rule in role["rules"] if rule["resources"] == ["secrets"]]
    assert secrets["resourceNames"] == ["registry", "redis"], "the admission policy asks for them"
    assert secrets["verbs"] == ["get"]
    assert {each["metadata"]["namespace"] for each in found} == {"shop"}, "the first that is watched"
    assert "specifications of the schema" in helm.template_error("--set", "test.redisUrl=redis://me:word@redis:6379/0")


def test_nothing_takes_the_tests_pod_for_an_operator(everything: list[Manifest]) -> None:
    (pod,) = of_kind("Pod", everything)
    (deployment,) = of_kind("Deployment", everything)
    assert not deployment["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert pod["metadata"]["labels"]["owner"] == "platform"
    assert pod["spec"]["securityContext"] == pod_template(everything)["spec"]["securityContext"]
