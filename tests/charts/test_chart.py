"""Effect of the chart's values on the installed objects."""

from datetime import timedelta

import pytest
from kubernetes_validate import validate

from streamconsumer.operator.rbac import RULES, SECRET_READER, SECRET_READER_RULES, grant_command
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


def test_chart_passes_helm_lint(helm: Helm) -> None:
    completed = helm.run("lint", "--strict", str(CHART), "--kube-version", KUBERNETES)
    assert completed.returncode == 0, completed.stdout + completed.stderr


@pytest.mark.parametrize("kubernetes", [f"1.{minor}" for minor in range(30, 38)])
def test_each_field_of_the_objects_exists_in_kubernetes(
    helm: Helm, all_objects: list[Manifest], kubernetes: str
) -> None:
    for manifest in [*helm.template(), *all_objects]:
        if manifest["kind"] != "PodMonitor":  # not a built-in kind
            validate(manifest, kubernetes, strict=True)


def test_each_optional_value_is_used(all_objects: list[Manifest]) -> None:
    template, operator = pod_template(all_objects), container(all_objects)
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
    account = next(each for each in of_kind("ServiceAccount", all_objects) if each["metadata"]["name"] == "runner")
    assert account["metadata"]["annotations"] == {"team": "platform"}
    assert account["metadata"]["labels"]["team"] == "streams"


def test_extra_objects_are_mappings_or_template_strings(all_objects: list[Manifest]) -> None:
    (config_map,), (secret,) = of_kind("ConfigMap", all_objects), of_kind("Secret", all_objects)
    assert config_map["metadata"]["name"] == "streamconsumer-operator-extra"
    assert secret["metadata"]["name"] == "streamconsumer-operator-extra"


def test_common_labels_are_on_all_own_objects_and_in_no_selector(all_objects: list[Manifest]) -> None:
    foreign = {"CustomResourceDefinition", "ConfigMap", "Secret"}
    own_objects = [manifest for manifest in all_objects if manifest["kind"] not in foreign]
    assert all(manifest["metadata"]["labels"]["owner"] == "platform" for manifest in own_objects)
    (deployment,) = of_kind("Deployment", all_objects)
    assert set(deployment["spec"]["selector"]["matchLabels"]) == {
        "app.kubernetes.io/name",
        "app.kubernetes.io/instance",
    }


def test_operator_parses_each_variable_of_the_chart(all_objects: list[Manifest]) -> None:
    variables = {name: value for name, value in environment(all_objects).items() if name.startswith(PREFIX)}
    assert {name.removeprefix(PREFIX).lower() for name in variables} <= set(OperatorSettings.model_fields)
    settings = OperatorSettings.from_env(variables)
    assert settings.watch_namespaces == ["shop", "billing"]
    assert settings.processor_image == f"streamconsumer-processor@{DIGEST}"
    assert settings.processor_image_pull_policy == "Never"
    assert list(map(str, settings.allowed_destinations)) == ["127.0.0.0/8", "fe80::/10"]
    assert settings.telemetry_endpoint == "http://collector:4318"
    assert settings.log_level == "DEBUG"
    assert settings.stream_interval == timedelta(seconds=30)


def test_default_values_equal_the_operators_defaults(helm: Helm) -> None:
    lease = f"{NAMESPACE}/streamconsumer-operator"
    assert OperatorSettings.from_env(environment(helm.template())) == OperatorSettings(lease=lease)


def test_watching_all_namespaces_uses_cluster_roles(helm: Helm) -> None:
    objects = helm.template()
    assert environment(objects)[f"{PREFIX}WATCH_NAMESPACES"] == ""
    assert of_kind("ClusterRole", objects)
    assert of_kind("ClusterRoleBinding", objects)
    (role,), (binding,) = of_kind("Role", objects), of_kind("RoleBinding", objects)
    for manifest in (role, binding):
        metadata = manifest["metadata"]
        assert (metadata["name"], metadata["namespace"]) == ("streamconsumer-operator-lead", NAMESPACE)


def test_watching_some_namespaces_uses_roles_only_there(helm: Helm) -> None:
    objects = helm.template("--set", "watchNamespaces={shop,billing}")
    assert environment(objects)[f"{PREFIX}WATCH_NAMESPACES"] == "shop,billing"
    assert not of_kind("ClusterRole", objects) + of_kind("ClusterRoleBinding", objects)
    secret_readers = [role["metadata"]["namespace"] for role in of_kind("Role", objects) if is_secret_reader(role)]
    assert secret_readers == ["shop", "billing"]
    for kind in ("Role", "RoleBinding"):
        metadata = [manifest["metadata"] for manifest in of_kind(kind, objects) if not is_for_lease(manifest)]
        assert {each["namespace"] for each in metadata} == {"shop", "billing"}
    for binding in of_kind("RoleBinding", objects):
        assert binding["roleRef"]["kind"] == "Role"
        assert [subject["namespace"] for subject in binding["subjects"]] == [NAMESPACE]


def is_for_lease(manifest: Manifest) -> bool:
    """Return True for the Role and RoleBinding of the Lease, which is in the operator's namespace."""
    return str(manifest["metadata"]["name"]).endswith("-lead")


def is_secret_reader(manifest: Manifest) -> bool:
    """Return True for the role that has no effect without a RoleBinding."""
    return bool(manifest["metadata"]["name"] == SECRET_READER)


def serving_roles(helm: Helm) -> list[Manifest]:
    roles = of_kind("Role", helm.template("--set", "watchNamespaces={shop}"))
    return [role for role in roles if not is_for_lease(role) and not is_secret_reader(role)]


def test_role_and_cluster_role_have_the_same_rules(helm: Helm) -> None:
    (cluster_role,) = [
        role
        for role in of_kind("ClusterRole", helm.template())
        if role["metadata"]["name"] == "streamconsumer-operator"
    ]
    (namespace_role,) = serving_roles(helm)
    assert namespace_role["rules"] == cluster_role["rules"]


def test_role_has_exactly_the_rules_of_the_table(helm: Helm) -> None:
    (role,) = serving_roles(helm)
    assert role["rules"] == [rule.rule() for rule in RULES]


def test_no_role_has_a_wildcard_or_lists_secrets(helm: Helm) -> None:
    for role in of_kind("ClusterRole", helm.template()):
        for rule in role["rules"]:
            words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            assert "*" not in words
            assert "secrets" not in words or (rule["verbs"] == ["get"] and is_secret_reader(role))


@pytest.mark.parametrize("values", ["", "watchNamespaces={shop}"])
def test_no_namespace_is_bound_to_the_secret_reader_by_default(helm: Helm, values: str) -> None:
    objects = helm.template("--set", values)
    roles = [role for role in of_kind("ClusterRole", objects) + of_kind("Role", objects) if is_secret_reader(role)]
    assert [role["rules"] for role in roles] == [[rule.rule() for rule in SECRET_READER_RULES]]
    assert not [label for label in roles[0]["metadata"]["labels"] if "aggregate" in label]
    bindings = of_kind("ClusterRoleBinding", objects) + of_kind("RoleBinding", objects)
    assert SECRET_READER not in [binding["roleRef"]["name"] for binding in bindings]


@pytest.mark.parametrize(("watched", "kind"), [("", "ClusterRole"), ("watchNamespaces={shop,billing},", "Role")])
def test_each_secret_namespace_has_the_binding_of_the_printed_command(helm: Helm, watched: str, kind: str) -> None:
    objects = helm.template("--set", f"{watched}rbac.secretNamespaces={{shop,billing}},serviceAccount.name=runner")
    bindings = [each for each in of_kind("RoleBinding", objects) if each["roleRef"]["name"] == SECRET_READER]
    assert [binding["metadata"]["namespace"] for binding in bindings] == ["shop", "billing"]
    user = f"system:serviceaccount:{NAMESPACE}:runner"
    for binding in bindings:
        namespace, name = binding["metadata"]["namespace"], binding["metadata"]["name"]
        (subject,) = binding["subjects"]
        words = [f"kubectl create rolebinding {name} -n {namespace} --{kind.lower()}={binding['roleRef']['name']}"]
        words.append(f"--serviceaccount={subject['namespace']}:{subject['name']}")
        assert " ".join(words) == grant_command(namespace, user, is_cluster_wide=not watched)
        assert binding["roleRef"]["kind"] == kind


def test_secret_namespace_that_is_not_watched_is_rejected(helm: Helm) -> None:
    error = helm.template_error("--set", "watchNamespaces={shop},rbac.secretNamespaces={shop,billing}")
    assert "rbac.secretNamespaces: found billing, expected a namespace in watchNamespaces" in error


def test_null_means_no_secret_namespace(helm: Helm) -> None:
    assert helm.template("--set", "rbac.secretNamespaces=null") == helm.template()


def test_user_roles_are_aggregated_as_configured(helm: Helm) -> None:
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    roles = of_kind("ClusterRole", helm.template("--set", "rbac.aggregateToEdit=false"))
    aggregated = {
        role["metadata"]["name"].removeprefix("streamconsumer-operator").lstrip("-"): {
            label.removeprefix(prefix) for label in role["metadata"]["labels"] if label.startswith(prefix)
        }
        for role in roles
    }
    assert aggregated == {"": set(), "view": {"view", "admin"}, "edit": {"admin"}, SECRET_READER: set()}


def test_no_role_is_created_without_rbac(helm: Helm) -> None:
    kinds = {manifest["kind"] for manifest in helm.template("--set", "rbac.create=false")}
    policy = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    assert kinds == {"CustomResourceDefinition", "Deployment", "PodDisruptionBudget", "ServiceAccount", *policy}


def test_existing_service_account_is_used_and_not_created(helm: Helm) -> None:
    named = helm.template("--set", "serviceAccount.create=false,serviceAccount.name=mine")
    unnamed = helm.template("--set", "serviceAccount.create=false")
    assert not of_kind("ServiceAccount", named)
    assert pod_template(named)["spec"]["serviceAccountName"] == "mine"
    assert pod_template(unnamed)["spec"]["serviceAccountName"] == "default"


def test_crd_is_kept_on_uninstall_by_default(helm: Helm) -> None:
    (kept,) = of_kind("CustomResourceDefinition", helm.template())
    (dropped,) = of_kind("CustomResourceDefinition", helm.template("--set", "crds.keep=false"))
    assert kept["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert "helm.sh/resource-policy" not in dropped["metadata"].get("annotations", {})


def test_crd_can_be_left_out(helm: Helm) -> None:
    assert not of_kind("CustomResourceDefinition", helm.template("--set", "crds.enabled=false"))


def test_digest_overrides_the_tag(helm: Helm) -> None:
    objects = helm.template("--set", f"image.tag=1.2.3,image.digest={DIGEST}")
    assert container(objects)["image"] == f"streamconsumer-operator@{DIGEST}"


def test_operator_pod_meets_the_restricted_pod_security_standard(helm: Helm) -> None:
    objects = helm.template()
    pod, operator = pod_template(objects)["spec"], container(objects)
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert operator["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [set(volume) for volume in pod["volumes"]] == [{"name", "emptyDir"}]
    assert pod["enableServiceLinks"] is False


def test_two_replicas_share_one_lease(helm: Helm) -> None:
    rendered = helm.template()
    (deployment,), (budget,) = of_kind("Deployment", rendered), of_kind("PodDisruptionBudget", rendered)
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["type"] == "RollingUpdate"
    assert budget["spec"]["selector"] == deployment["spec"]["selector"]
    variables = {variable["name"]: variable.get("value") for variable in container(rendered)["env"]}
    namespace, _, name = variables["STREAMCONSUMER_OPERATOR_LEASE"].partition("/")
    (role,) = filter(is_for_lease, of_kind("Role", rendered))
    assert namespace == "$(POD_NAMESPACE)"
    assert {"resourceNames": [name], "verbs": ["get", "update"]}.items() <= role["rules"][1].items()


def test_single_replica_has_no_disruption_budget(helm: Helm) -> None:
    assert of_kind("PodDisruptionBudget", helm.template("--set", "replicaCount=1")) == []


def test_chart_version_is_not_in_the_pod_template(helm: Helm) -> None:
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
def test_release_name_is_not_repeated_in_object_names(helm: Helm, release: str, name: str) -> None:
    (deployment,) = of_kind("Deployment", helm.template(release=release))
    assert deployment["metadata"]["name"] == name


@pytest.mark.parametrize("override", ["", "nameOverride=", "fullnameOverride="])
def test_names_fit_into_a_label(helm: Helm, override: str) -> None:
    arguments = ("--set", override + "x" * 90) if override else ()
    for manifest in helm.template(*arguments, release="r" * 53):
        names = [manifest["metadata"]["name"], *manifest["metadata"].get("labels", {}).values()]
        assert all(len(name) <= 63 and not name.endswith("-") for name in names)


def test_installation_for_some_namespaces_has_no_cluster_objects(helm: Helm) -> None:
    values = "watchNamespaces={shop},crds.enabled=false,podMonitor.enabled=true,podMonitor.renderMode=alwaysRender"
    objects = helm.template("--set", f"{values},networkPolicy.enabled=true,podDisruptionBudget.enabled=true")
    assert all(manifest["metadata"].get("namespace") for manifest in objects)


def test_admission_policy_can_be_left_out(helm: Helm) -> None:
    default, without_policy = helm.template(), helm.template("--set", "admissionPolicy.enabled=false")
    left_out = {manifest["kind"] for manifest in default} - {manifest["kind"] for manifest in without_policy}
    assert left_out == {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
