"""What the chart's values do to what is installed."""

from datetime import timedelta

import pytest
from kubernetes_validate import validate

from streamconsumer.operator.rbac import RULES
from streamconsumer.operator.settings import PREFIX, OperatorSettings
from tests.charts.all_values import ALL_VALUES, DIGEST
from tests.charts.rendering import (
    CHART,
    KUBERNETES,
    NAMESPACE,
    Helm,
    Manifest,
    container,
    environment,
    of_kind,
    pod_template,
)


def test_both_helms_find_nothing_to_complain_about(helm: Helm) -> None:
    done = helm.run("lint", "--strict", str(CHART), "--kube-version", KUBERNETES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kubernetes", [f"1.{minor}" for minor in range(30, 38)])
def test_kubernetes_knows_every_field_of_what_is_installed(
    helm: Helm, everything: list[Manifest], kubernetes: str
) -> None:
    for manifest in [*helm.template(), *everything]:
        if manifest["kind"] != "PodMonitor":  # not Kubernetes' own
            validate(manifest, kubernetes, strict=True)


def test_every_optional_value_reaches_its_place(everything: list[Manifest]) -> None:
    template, operator = pod_template(everything), container(everything)
    pod = template["spec"]
    for name in ("imagePullSecrets", "priorityClassName", "nodeSelector", "tolerations", "affinity"):
        assert pod[name] == ALL_VALUES[name]
    assert pod["topologySpreadConstraints"] == ALL_VALUES["topologySpreadConstraints"]
    assert pod["serviceAccountName"] == "runner"
    assert template["metadata"]["annotations"] == {"note": "yes"}
    assert template["metadata"]["labels"]["cost"] == "42"
    assert pod["hostUsers"] is False
    assert ALL_VALUES["extraVolumes"][0] in pod["volumes"]
    assert ALL_VALUES["extraVolumeMounts"][0] in operator["volumeMounts"]
    assert operator["image"] == "registry.example.com:5000/mirror/streamconsumer-operator:1.2.3"
    assert operator["imagePullPolicy"] == "Always"
    account = next(each for each in of_kind("ServiceAccount", everything) if each["metadata"]["name"] == "runner")
    assert account["metadata"]["annotations"] == {"who": "me"}
    assert account["metadata"]["labels"]["team"] == "streams"


def test_extra_objects_are_mappings_or_strings_with_templates_in_them(everything: list[Manifest]) -> None:
    (config_map,), (secret,) = of_kind("ConfigMap", everything), of_kind("Secret", everything)
    assert config_map["metadata"]["name"] == "streamconsumer-operator-extra"
    assert secret["metadata"]["name"] == "streamconsumer-operator-extra"


def test_common_labels_are_on_all_the_chart_makes_but_in_no_selector(everything: list[Manifest]) -> None:
    foreign = {"CustomResourceDefinition", "ConfigMap", "Secret"}
    ours = [manifest for manifest in everything if manifest["kind"] not in foreign]
    assert all(manifest["metadata"]["labels"]["owner"] == "platform" for manifest in ours)
    (deployment,) = of_kind("Deployment", everything)
    assert set(deployment["spec"]["selector"]["matchLabels"]) == {
        "app.kubernetes.io/name",
        "app.kubernetes.io/instance",
    }


def test_the_operator_understands_every_variable_that_the_chart_sets(everything: list[Manifest]) -> None:
    variables = {name: value for name, value in environment(everything).items() if name.startswith(PREFIX)}
    assert {name.removeprefix(PREFIX).lower() for name in variables} <= set(OperatorSettings.model_fields)
    settings = OperatorSettings.from_env(variables)
    assert settings.watch_namespaces == ["shop", "billing"]
    assert settings.processor_image == f"streamconsumer-processor@{DIGEST}"
    assert settings.processor_image_pull_policy == "Never"
    assert settings.telemetry_endpoint == "http://collector:4318"
    assert settings.log_level == "DEBUG"
    assert settings.stream_interval == timedelta(seconds=30)


def test_by_default_the_operator_is_told_what_it_would_assume_anyway(helm: Helm) -> None:
    lease = f"{NAMESPACE}/streamconsumer-operator"
    assert OperatorSettings.from_env(environment(helm.template())) == OperatorSettings(lease=lease)


def test_all_namespaces_are_watched_with_rights_in_all(helm: Helm) -> None:
    objects = helm.template()
    assert environment(objects)[f"{PREFIX}WATCH_NAMESPACES"] == ""
    assert of_kind("ClusterRole", objects)
    assert of_kind("ClusterRoleBinding", objects)
    (role,), (binding,) = of_kind("Role", objects), of_kind("RoleBinding", objects)
    for each in (role, binding):
        assert (each["metadata"]["name"], each["metadata"]["namespace"]) == ("streamconsumer-operator-lead", NAMESPACE)


def test_some_namespaces_are_watched_with_rights_in_these_alone(helm: Helm) -> None:
    objects = helm.template("--set", "watchNamespaces={shop,billing}")
    assert environment(objects)[f"{PREFIX}WATCH_NAMESPACES"] == "shop,billing"
    assert not of_kind("ClusterRole", objects) + of_kind("ClusterRoleBinding", objects)
    for kind in ("Role", "RoleBinding"):
        serving = [found["metadata"] for found in of_kind(kind, objects) if not leads(found)]
        assert {metadata["namespace"] for metadata in serving} == {"shop", "billing"}
    for binding in of_kind("RoleBinding", objects):
        assert binding["roleRef"]["kind"] == "Role"
        assert [subject["namespace"] for subject in binding["subjects"]] == [NAMESPACE]


def leads(found: Manifest) -> bool:
    """Whether it is about the Lease, which lies in the operator's own namespace."""
    return str(found["metadata"]["name"]).endswith("-lead")


def serving_roles(helm: Helm) -> list[Manifest]:
    roles = of_kind("Role", helm.template("--set", "watchNamespaces={shop}"))
    return [role for role in roles if not leads(role)]


def test_one_role_serves_both_kinds_of_installation(helm: Helm) -> None:
    (everywhere,) = [
        role
        for role in of_kind("ClusterRole", helm.template())
        if role["metadata"]["name"] == "streamconsumer-operator"
    ]
    (here,) = serving_roles(helm)
    assert here["rules"] == everywhere["rules"]


def test_the_operator_has_the_rights_of_the_table_and_no_others(helm: Helm) -> None:
    (role,) = serving_roles(helm)
    assert role["rules"] == [right.rule() for right in RULES]


def test_no_role_has_a_wildcard_or_lists_secrets(helm: Helm) -> None:
    for role in of_kind("ClusterRole", helm.template()):
        for rule in role["rules"]:
            words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            assert "*" not in words
            assert "secrets" not in words or rule["verbs"] == ["get"]


def test_the_right_to_read_secrets_can_be_withheld(helm: Helm) -> None:
    objects = helm.template("--set", "rbac.readSecrets=false")
    assert "secrets" not in str(of_kind("ClusterRole", objects))


def test_people_get_the_rights_that_are_asked_for_them(helm: Helm) -> None:
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    roles = of_kind("ClusterRole", helm.template("--set", "rbac.aggregateToEdit=false"))
    given = {
        role["metadata"]["name"].removeprefix("streamconsumer-operator").lstrip("-"): {
            label.removeprefix(prefix) for label in role["metadata"]["labels"] if label.startswith(prefix)
        }
        for role in roles
    }
    assert given == {"": set(), "view": {"view", "admin"}, "edit": {"admin"}}


def test_without_rbac_no_role_is_made(helm: Helm) -> None:
    kinds = {manifest["kind"] for manifest in helm.template("--set", "rbac.create=false")}
    policy = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    assert kinds == {"CustomResourceDefinition", "Deployment", "PodDisruptionBudget", "ServiceAccount", *policy}


def test_a_service_account_of_the_users_own_is_used_and_not_made(helm: Helm) -> None:
    named = helm.template("--set", "serviceAccount.create=false,serviceAccount.name=mine")
    unnamed = helm.template("--set", "serviceAccount.create=false")
    assert not of_kind("ServiceAccount", named)
    assert pod_template(named)["spec"]["serviceAccountName"] == "mine"
    assert pod_template(unnamed)["spec"]["serviceAccountName"] == "default"


def test_the_definition_survives_an_uninstall_unless_told_otherwise(helm: Helm) -> None:
    (kept,) = of_kind("CustomResourceDefinition", helm.template())
    (dropped,) = of_kind("CustomResourceDefinition", helm.template("--set", "crds.keep=false"))
    assert kept["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert "helm.sh/resource-policy" not in dropped["metadata"].get("annotations", {})


def test_the_definition_can_be_left_to_somebody_else(helm: Helm) -> None:
    assert not of_kind("CustomResourceDefinition", helm.template("--set", "crds.enabled=false"))


def test_a_digest_wins_over_a_tag(helm: Helm) -> None:
    objects = helm.template("--set", f"image.tag=1.2.3,image.digest={DIGEST}")
    assert container(objects)["image"] == f"streamconsumer-operator@{DIGEST}"


def test_the_pod_keeps_to_the_restricted_pod_security_standard(helm: Helm) -> None:
    objects = helm.template()
    pod, operator = pod_template(objects)["spec"], container(objects)
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert operator["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [set(volume) for volume in pod["volumes"]] == [{"name", "emptyDir"}]
    assert pod["enableServiceLinks"] is False


def test_of_two_operators_the_one_with_the_lease_works(helm: Helm) -> None:
    rendered = helm.template()
    (deployment,), (budget,) = of_kind("Deployment", rendered), of_kind("PodDisruptionBudget", rendered)
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["type"] == "RollingUpdate"
    assert budget["spec"]["selector"] == deployment["spec"]["selector"]
    told = {each["name"]: each.get("value") for each in pod_template(rendered)["spec"]["containers"][0]["env"]}
    place, _, name = told["STREAMCONSUMER_OPERATOR_LEASE"].partition("/")
    (role,) = filter(leads, of_kind("Role", rendered))
    assert place == "$(POD_NAMESPACE)"
    assert {"resourceNames": [name], "verbs": ["get", "update"]}.items() <= role["rules"][1].items()


def test_a_single_operator_stands_in_no_drains_way(helm: Helm) -> None:
    assert of_kind("PodDisruptionBudget", helm.template("--set", "replicaCount=1")) == []


def test_a_new_chart_alone_restarts_nothing(helm: Helm) -> None:
    assert "helm.sh/chart" not in pod_template(helm.template())["metadata"]["labels"]


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("streamconsumer-operator", "streamconsumer-operator"),
        ("streamconsumer", "streamconsumer-operator"),
        ("my-streamconsumer-operator", "my-streamconsumer-operator"),
        ("demo", "demo-streamconsumer-operator"),
        ("stream", "stream-streamconsumer-operator"),
    ],
)
def test_objects_are_named_after_the_release_without_stammering(helm: Helm, release: str, name: str) -> None:
    (deployment,) = of_kind("Deployment", helm.template(release=release))
    assert deployment["metadata"]["name"] == name


@pytest.mark.parametrize("override", ["", "nameOverride=", "fullnameOverride="])
def test_no_name_is_too_long_for_a_label(helm: Helm, override: str) -> None:
    arguments = ("--set", override + "x" * 90) if override else ()
    for manifest in helm.template(*arguments, release="r" * 53):
        names = [manifest["metadata"]["name"], *manifest["metadata"].get("labels", {}).values()]
        assert all(len(name) <= 63 and not name.endswith("-") for name in names)


def test_an_installation_in_some_namespaces_makes_nothing_of_the_clusters(helm: Helm) -> None:
    some = "watchNamespaces={shop},crds.enabled=false,podMonitor.enabled=true,podMonitor.renderMode=alwaysRender"
    objects = helm.template("--set", f"{some},networkPolicy.enabled=true,podDisruptionBudget.enabled=true")
    assert all(manifest["metadata"].get("namespace") for manifest in objects)


def test_the_admission_policy_can_be_left_out(helm: Helm) -> None:
    with_it, without = helm.template(), helm.template("--set", "admissionPolicy.enabled=false")
    left_out = {each["kind"] for each in with_it} - {each["kind"] for each in without}
    assert left_out == {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
