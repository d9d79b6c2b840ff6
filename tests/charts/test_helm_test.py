"""Objects of `helm test`. tests/e2e runs it on a node."""

import json

from tests.charts.rendering import NAMESPACE, Helm, Manifest, of_kind, pod_template


def hooks(objects: list[Manifest]) -> list[Manifest]:
    return [manifest for manifest in objects if "helm.sh/hook" in manifest["metadata"].get("annotations", {})]


def variables(pod: Manifest) -> dict[str, Manifest]:
    (container,) = pod["spec"]["containers"]
    return {variable["name"]: variable for variable in container["env"]}


def test_helm_test_is_left_out_without_a_redis_url(helm: Helm) -> None:
    assert hooks(helm.template()) == []


def test_helm_test_has_only_the_permissions_it_needs(helm: Helm) -> None:
    objects = hooks(helm.template("--set", "test.redisUrl=redis://redis.shop:6379/0"))
    assert {manifest["kind"] for manifest in objects} == {"ServiceAccount", "Role", "RoleBinding", "Pod"}
    (role,), (pod,) = of_kind("Role", objects), of_kind("Pod", objects)
    assert {(*rule["resources"], *rule["verbs"]) for rule in role["rules"]} == {
        ("streamconsumers", "get", "create", "delete"),
        ("deployments", "create"),
    }
    assert json.loads(variables(pod)["TEST_REDIS"]["value"]) == {"url": "redis://redis.shop:6379/0"}
    assert {manifest["metadata"]["namespace"] for manifest in objects} == {NAMESPACE}


def test_helm_test_refers_to_a_url_in_a_secret(helm: Helm, all_objects: list[Manifest]) -> None:
    objects = hooks(all_objects)
    (role,), (pod,) = of_kind("Role", objects), of_kind("Pod", objects)
    reference = {"name": "redis", "key": "url"}
    assert json.loads(variables(pod)["TEST_REDIS"]["value"]) == {"urlSecretRef": reference}
    assert variables(pod)["TEST_REDIS_URL"]["valueFrom"]["secretKeyRef"] == reference
    (secrets,) = [rule for rule in role["rules"] if rule["resources"] == ["secrets"]]
    assert secrets["resourceNames"] == ["registry", "redis"], "the admission policy checks them"
    assert secrets["verbs"] == ["get"]
    assert {manifest["metadata"]["namespace"] for manifest in objects} == {"shop"}, "the first watched namespace"
    assert "specifications of the schema" in helm.template_error("--set", "test.redisUrl=redis://me:word@redis:6379/0")


def test_selector_of_the_operator_does_not_match_the_test_pod(all_objects: list[Manifest]) -> None:
    (pod,) = of_kind("Pod", all_objects)
    (deployment,) = of_kind("Deployment", all_objects)
    assert not deployment["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert pod["metadata"]["labels"]["owner"] == "platform"
    assert pod["spec"]["securityContext"] == pod_template(all_objects)["spec"]["securityContext"]
