"""Manifests of a StreamConsumer's children."""

import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from streamconsumer.errors import InvalidResource
from streamconsumer.model import names
from streamconsumer.model.env_codec import from_env
from streamconsumer.model.processor_settings import ProcessorSettings, SharedSettings
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests import CHILD_KINDS, Manifest, desired
from streamconsumer.operator.settings import OperatorSettings
from tests.model import strategies
from tests.model.examples import UID, consumer, manifest
from tests.operator import golden

SETTINGS = OperatorSettings(processor_image="streamconsumer-processor:1")


def child(kind: str, of: StreamConsumer, settings: OperatorSettings = SETTINGS) -> Manifest:
    (match,) = [child for child in desired(of, settings) if child["kind"] == kind]
    return match


def kinds(of: StreamConsumer) -> list[str]:
    return [child["kind"] for child in desired(of, SETTINGS)]


def template(of: StreamConsumer, settings: OperatorSettings = SETTINGS) -> dict[str, Any]:
    pod_template: dict[str, Any] = child("Deployment", of, settings)["spec"]["template"]
    return pod_template


def container(of: StreamConsumer, settings: OperatorSettings = SETTINGS) -> dict[str, Any]:
    (only,) = template(of, settings)["spec"]["containers"]
    return dict(only)


def variables(of: StreamConsumer, settings: OperatorSettings = SETTINGS) -> dict[str, Any]:
    env = container(of, settings)["env"]
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in env}


def hashes(of: StreamConsumer, settings: OperatorSettings = SETTINGS) -> list[str]:
    return [child["metadata"]["annotations"][names.ANNOTATION_APPLIED] for child in desired(of, settings)]


def expanded_variables(of: StreamConsumer) -> dict[str, str]:
    """Return the literal variables as the kubelet passes them: `$(NAME)` expanded, and `$$` reduced to `$`."""
    expanded: dict[str, str] = {}
    for variable in container(of)["env"]:
        if "value" in variable:
            expanded[variable["name"]] = re.sub(
                r"\$(\$|\(([^)]*)\))",
                lambda match: "$" if match[1] == "$" else expanded.get(match[2], match[0]),
                variable["value"],
            )
    return expanded


def test_children_are_ordered_by_their_references() -> None:
    everything = consumer(handler={"source": "x = 1"}, replicas=2)
    assert kinds(everything) == [kind for _, kind in CHILD_KINDS]


def test_suspended_consumer_has_zero_replicas_and_all_children() -> None:
    suspended = consumer(suspend=True, replicas=3)
    assert child("Deployment", suspended)["spec"]["replicas"] == 0
    assert kinds(suspended) == kinds(consumer(replicas=3))


def test_user_labels_never_replace_own_labels() -> None:
    labels = template(consumer(podLabels={"team": "shop", "part-of": "other"}))["metadata"]["labels"]
    assert labels["team"] == "shop"
    assert labels.items() >= template(consumer())["metadata"]["labels"].items()


def test_topology_spread_selects_the_pods_of_one_revision() -> None:
    (spread,) = template(consumer(topologySpreadConstraints=[{"topologyKey": "zone"}]))["spec"][
        "topologySpreadConstraints"
    ]
    assert spread["labelSelector"] == {"matchLabels": {names.LABEL_CONSUMER: "orders"}}
    assert spread["matchLabelKeys"] == ["pod-template-hash"]


@pytest.mark.parametrize(
    ("rollout", "strategy"),
    [
        ({}, None),
        ({"progressDeadline": "1m"}, None),
        ({"maxSurge": "25%"}, {"maxSurge": "25%"}),
        ({"maxUnavailable": "0", "maxSurge": 2}, {"maxUnavailable": 0, "maxSurge": 2}),
    ],
)
def test_deployment_contains_only_the_rollout_fields_that_are_set(
    rollout: dict[str, Any], strategy: dict[str, Any] | None
) -> None:
    spec = child("Deployment", consumer(rollout=rollout))["spec"]
    assert spec.get("strategy", {}).get("rollingUpdate") == strategy
    assert ("progressDeadlineSeconds" in spec) is ("progressDeadline" in rollout)


@pytest.mark.parametrize(("max_unavailable", "budget"), [(..., 1), (2, 2), ("2", 2), ("25%", "25%"), (0, 0)])
def test_disruption_budget_has_the_configured_size(max_unavailable: Any, budget: int | str) -> None:
    spec = {} if max_unavailable is ... else {"maxUnavailable": max_unavailable}
    manifest = child("PodDisruptionBudget", consumer(replicas=2, podDisruptionBudget=spec))
    assert manifest["spec"]["maxUnavailable"] == budget


def test_service_url_contains_the_namespace_of_the_resource() -> None:
    http = {"service": "billing", "port": 8080, "path": "/orders"}
    env = variables(consumer(handler={"http": http}, image=...))
    assert env["STREAMCONSUMER_HANDLER_HTTP_URL"] == "http://billing.shop.svc:8080/orders"
    assert "STREAMCONSUMER_HANDLER_PYTHON" not in env


def test_variables_refer_to_secrets_and_never_contain_their_values() -> None:
    reference = {"name": "bank", "key": "token"}
    of = consumer(
        env=[{"name": "TOKEN", "valueFrom": {"secretKeyRef": reference}}],
        envFrom=[{"configMapRef": {"name": "shop", "optional": True}}],
    )
    assert variables(of)["TOKEN"] == {"secretKeyRef": reference}
    assert container(of)["envFrom"] == [{"configMapRef": {"name": "shop", "optional": True}}]


@pytest.mark.parametrize(("replicas", "budget"), [(0, False), (1, False), (2, True), (1000, True)])
def test_disruption_budget_exists_from_two_replicas(replicas: int, budget: bool) -> None:
    assert ("PodDisruptionBudget" in kinds(consumer(replicas=replicas))) is budget


def test_config_map_exists_only_for_a_source() -> None:
    assert "ConfigMap" not in kinds(consumer())
    source = child("ConfigMap", consumer(handler={"source": "x = 1"}))
    assert source["data"] == {"handler_source.py": "x = 1"}


@pytest.mark.parametrize("index", range(4))
def test_each_child_has_owner_reference_and_labels(index: int) -> None:
    metadata = desired(consumer(handler={"source": "x = 1"}, replicas=2), SETTINGS)[index]["metadata"]
    assert metadata["namespace"] == "shop"
    assert metadata["name"].startswith("orders-consumer")
    assert metadata["labels"][names.LABEL_CONSUMER] == "orders"
    assert metadata["labels"][names.LABEL_MANAGED_BY] == "streamconsumer-operator"
    assert metadata["ownerReferences"] == [
        {
            "apiVersion": "streamconsumer.dev/v1alpha1",
            "kind": "StreamConsumer",
            "name": "orders",
            "uid": UID,
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


def test_children_of_a_resource_without_uid_have_no_owner_reference() -> None:
    rendered = desired(StreamConsumer.parse(manifest()), SETTINGS)
    assert all("ownerReferences" not in child["metadata"] for child in rendered)


def test_pod_meets_the_restricted_pod_security_standard() -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, field by field."""
    secret = {"name": "redis", "key": "url"}
    pod = template(consumer(handler={"source": "x = 1"}, redis={"urlSecretRef": secret}))["spec"]
    container_context = container(consumer())["securityContext"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & set(pod)
    assert all({"configMap", "emptyDir", "projected"} & set(volume) for volume in pod["volumes"])
    assert all("hostPort" not in port for port in container(consumer())["ports"])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container_context["allowPrivilegeEscalation"] is False
    assert container_context["capabilities"] == {"drop": ["ALL"]}
    assert not {"privileged", "procMount", "runAsUser", "seLinuxOptions"} & set(container_context)
    assert not {"sysctls", "runAsUser", "seLinuxOptions", "windowsOptions"} & set(pod["securityContext"])


def test_pod_writes_only_to_tmp_and_has_no_service_account_token() -> None:
    pod = template(consumer())["spec"]
    assert container(consumer())["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["volumes"] == [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}]
    assert pod["automountServiceAccountToken"] is False
    assert child("ServiceAccount", consumer())["automountServiceAccountToken"] is False


@pytest.mark.parametrize(
    ("drain", "grace"), [("25s", 33), ("1s", 9), ("1h", 3608), ("1500ms", 10), ("1001ms", 10), ("2.5s", 11)]
)
def test_grace_period_is_eight_seconds_longer_than_the_drain_timeout(drain: str, grace: int) -> None:
    assert template(consumer(drainTimeout=drain))["spec"]["terminationGracePeriodSeconds"] == grace


def test_selector_contains_only_the_immutable_label() -> None:
    everything = consumer(env=[{"name": "A", "value": "b"}], stream="other", replicas=2)
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert child(kind, everything)["spec"]["selector"] == {"matchLabels": {names.LABEL_CONSUMER: "orders"}}
    assert template(everything)["metadata"]["labels"][names.LABEL_CONSUMER] == "orders"


CHANGES: list[dict[str, Any]] = [
    {"batchCount": 11},
    {"pollInterval": "1s"},
    {"delivery": {"minIdle": "1m"}},
    {"drainTimeout": "26s"},
    {"image": "shop:1.5"},
    {"env": [{"name": "A", "value": "b"}]},
    {"resources": {"limits": {"memory": "256Mi"}}},
    {"redis": {"url": "redis://other"}},
    {"handler": {"python": "shop.orders:other"}},
    {"telemetry": {"endpoint": "http://collector:4318"}},
    {"handler": {"http": {"service": "billing"}}},
    {"envFrom": [{"secretRef": {"name": "shop"}}]},
    {"podLabels": {"team": "shop"}},
    {"podAnnotations": {"note": "x"}},
    {"nodeSelector": {"kubernetes.io/arch": "arm64"}},
    {"tolerations": [{"operator": "Exists"}]},
    {"topologySpreadConstraints": [{"topologyKey": "zone"}]},
    {"priorityClassName": "important"},
    {"runtimeClassName": "gvisor"},
    {"imagePullSecrets": [{"name": "registry"}]},
    {"telemetry": {"context": "link"}},
    {"telemetry": {"samplingRatio": 0.5}},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_configuration_change_rolls_the_pods(change: dict[str, Any]) -> None:
    assert template(consumer(**change)) != template(consumer())


def test_source_change_rolls_the_pods() -> None:
    """The pod template contains the name of the ConfigMap, which contains the hash of the source.

    With a constant name, the kubelet can give a new pod the text of the running pod (seen on a node)."""
    old, new = (consumer(handler={"source": f"x = {number}"}) for number in (1, 2))
    assert template(old) != template(new)


@pytest.mark.parametrize(
    "change",
    [
        {"suspend": True},
        {"rollout": {"maxSurge": 1, "progressDeadline": "1m"}},
        {"podDisruptionBudget": {"maxUnavailable": 2}},
    ],
    ids=str,
)
def test_change_outside_the_pod_template_rolls_no_pods(change: dict[str, Any]) -> None:
    assert template(consumer(replicas=2, **change)) == template(consumer(replicas=2))


@pytest.mark.parametrize("replicas", [0, 2, 50])
def test_scaling_rolls_no_pods(replicas: int) -> None:
    assert template(consumer(replicas=replicas)) == template(consumer())


def test_explicit_default_rolls_no_pods() -> None:
    explicit = consumer(batchCount=10, drainTimeout="25s", delivery={"minIdle": "30s"}, encoding="utf-8")
    assert hashes(explicit) == hashes(consumer())


def test_order_of_fields_rolls_no_pods() -> None:
    first = consumer(resources={"limits": {"cpu": "1", "memory": "1Gi"}})
    second = consumer(resources={"limits": {"memory": "1Gi", "cpu": "1"}})
    assert hashes(first) == hashes(second)


@pytest.mark.parametrize(
    "other",
    [
        OperatorSettings(processor_image="streamconsumer-processor:2"),
        OperatorSettings(http_port=1, log_level="DEBUG", watch_namespaces=["shop"]),
    ],
    ids=["new processor image", "settings of the operator itself"],
)
def test_operator_upgrade_changes_no_child_of_a_resource_with_an_image(other: OperatorSettings) -> None:
    assert desired(consumer(), other) == desired(consumer(), SETTINGS)


def test_no_child_contains_the_operator_version(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = desired(consumer(handler={"source": "x = 1"}, replicas=2), SETTINGS)
    monkeypatch.setattr("streamconsumer.__version__", "99.0")
    assert desired(consumer(handler={"source": "x = 1"}, replicas=2), SETTINGS) == expected


def test_image_defaults_to_the_stock_image() -> None:
    assert container(consumer(image=...))["image"] == "streamconsumer-processor:1"
    assert container(consumer())["image"] == "shop:1.4"


@pytest.mark.parametrize(
    ("settings", "spec", "policy"),
    [
        ("", ..., None),
        ("Always", ..., "Always"),
        ("Always", "Never", "Never"),
        ("", "IfNotPresent", "IfNotPresent"),
    ],
)
def test_pull_policy_of_the_resource_overrides_the_operators(settings: Any, spec: Any, policy: str | None) -> None:
    operator_settings = OperatorSettings(processor_image_pull_policy=settings)
    assert container(consumer(imagePullPolicy=spec), operator_settings).get("imagePullPolicy") == policy


def test_telemetry_endpoint_of_the_resource_overrides_the_operators() -> None:
    settings, name = OperatorSettings(telemetry_endpoint="http://a"), "OTEL_EXPORTER_OTLP_ENDPOINT"
    assert name not in variables(consumer())
    assert variables(consumer(), settings)[name] == "http://a"
    assert variables(consumer(telemetry={"endpoint": "http://b"}), settings)[name] == "http://b"


@pytest.mark.parametrize(("ratio", "text"), [(0, "0"), (1, "1"), (0.25, "0.25"), (0.00001, "1e-05")])
def test_sampling_ratio_is_formatted_as_the_sdks_parse_it(ratio: float, text: str) -> None:
    env = variables(consumer(telemetry={"samplingRatio": ratio}))
    assert (env["OTEL_TRACES_SAMPLER"], env["OTEL_TRACES_SAMPLER_ARG"]) == ("parentbased_traceidratio", text)
    assert "OTEL_TRACES_SAMPLER" not in variables(consumer())


@pytest.mark.parametrize("name", ["OTEL_SERVICE_NAME", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_RESOURCE_ATTRIBUTES"])
def test_user_variable_overrides_the_operators_variable(name: str) -> None:
    settings = OperatorSettings(telemetry_endpoint="http://a")
    env = container(consumer(env=[{"name": name, "value": "custom"}]), settings)["env"]
    assert [variable["value"] for variable in env if variable["name"] == name] == ["custom"]


def test_variable_refers_only_to_earlier_variables() -> None:
    """The kubelet does not expand `$(NAME)` if NAME comes later."""
    env = container(consumer())["env"]
    for index, variable in enumerate(env):
        earlier = {each["name"] for each in env[:index]}
        assert set(re.findall(r"\$\((\w+)\)", variable.get("value", ""))) <= earlier


def test_credentials_are_mounted_as_files() -> None:
    """The kubelet updates files of a running container. A variable keeps its initial value."""
    secret = {"name": "redis", "key": "password"}
    of = consumer(redis={"urlSecretRef": secret, "passwordSecretRef": secret})
    env = variables(of)
    assert env["STREAMCONSUMER_REDIS_URL_FILE"] == "/etc/streamconsumer/redis/url"
    assert env["STREAMCONSUMER_REDIS_PASSWORD_FILE"] == "/etc/streamconsumer/redis/password"
    (volume,) = [volume for volume in template(of)["spec"]["volumes"] if "projected" in volume]
    assert [source["secret"] for source in volume["projected"]["sources"]] == [
        {"name": "redis", "items": [{"key": "password", "path": file}], "optional": True}
        for file in ("url", "password")
    ]
    assert volume["projected"]["defaultMode"] == 0o444
    assert {"name": volume["name"], "mountPath": "/etc/streamconsumer/redis", "readOnly": True} in container(of)[
        "volumeMounts"
    ]


def test_each_file_in_the_environment_is_mounted() -> None:
    of = StreamConsumer.parse(yaml.safe_load((golden.FOLDER / "sentinel" / "consumer.yaml").read_text()))
    files = {value for name, value in variables(of).items() if name.endswith("_FILE")}
    (volume,) = [volume for volume in template(of)["spec"]["volumes"] if "projected" in volume]
    (mount,) = [mount for mount in container(of)["volumeMounts"] if mount["name"] == volume["name"]]
    items = [item for source in volume["projected"]["sources"] for item in source["secret"]["items"]]
    assert files == {f"{mount['mountPath']}/{item['path']}" for item in items}


@pytest.mark.parametrize("handler", [{"python": "orders:handle"}, {"source": "x = 1"}])
def test_batch_handler_is_configured_in_the_environment(handler: dict[str, str]) -> None:
    env = expanded_variables(consumer(handler={**handler, "batch": True}))
    assert from_env(ProcessorSettings, {**env, "STREAMCONSUMER_CONSUMER_NAME": "orders-1"}).handler.batch
    assert "STREAMCONSUMER_HANDLER_BATCH" not in variables(consumer(handler=handler))


def test_environment_contains_the_identity_of_the_pod() -> None:
    env = variables(consumer())
    assert env["STREAMCONSUMER_CONSUMER_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert env["OTEL_SERVICE_NAME"] == "orders"
    assert "k8s.namespace.name=shop," in env["OTEL_RESOURCE_ATTRIBUTES"]


pieces = st.sampled_from(["$", "$$", "$(", "$(A)", ")", "(", "o", ":", "{", "$(STREAMCONSUMER_STREAM)", "заказ"])
texts = st.lists(pieces, min_size=1, max_size=8).map("".join)


@given(stream=texts, group=texts, drain=strategies.durations("1s", "1h"), start=strategies.start_positions)
def test_pod_reads_the_settings_of_the_resource(stream: str, group: str, drain: Any, start: str) -> None:
    """The settings pass the environment and the kubelet, which expands `$`."""
    drain_timeout = f"{drain.total_seconds():f}s"
    resource = consumer(stream=stream, consumerGroup=group, drainTimeout=drain_timeout, startFrom=start)
    settings = from_env(ProcessorSettings, {**expanded_variables(resource), "STREAMCONSUMER_CONSUMER_NAME": "orders-1"})
    assert {name: getattr(settings, name) for name in SharedSettings.model_fields} == {
        name: getattr(resource.spec, name) for name in SharedSettings.model_fields
    }


URLS = [
    f"{scheme}://{host}{port}{database}{option}"
    for scheme in ("redis", "rediss")
    for host in ("", "redis", "redis.", "10.0.0.7", "[::1]")
    for port in ("", ":6379", ":0", ":99999")
    for database in ("", "/", "/0", "/7/")
    for option in ("", "?db=0", "?socket_timeout=1", "?ssl_cert_reqs=none")
]


@pytest.mark.parametrize("sentinel", [None, {"masterName": "main", "nodes": ["sentinel:26379"]}])
def test_each_url_that_the_spec_accepts_is_accepted_by_the_settings_of_the_pod(sentinel: Manifest | None) -> None:
    accepted = 0
    for url in URLS:
        redis = {"url": url, **({"sentinel": sentinel} if sentinel else {})}
        try:
            valid = StreamConsumer.parse(manifest(redis=redis))
        except InvalidResource:
            continue
        accepted += 1
        assert desired(valid, SETTINGS)
    assert accepted > 20


IDENTITY = {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/orders"}


def test_a_cloud_identity_is_an_annotation_of_the_service_account() -> None:
    annotations = child("ServiceAccount", consumer(serviceAccountAnnotations=IDENTITY))["metadata"]["annotations"]
    assert annotations.keys() == {*IDENTITY, names.ANNOTATION_APPLIED}
    assert annotations.items() >= IDENTITY.items()


def test_another_cloud_identity_replaces_the_pods() -> None:
    specs: list[dict[str, Any]] = [
        {},
        {"serviceAccountAnnotations": IDENTITY},
        {"serviceAccountAnnotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/other"}},
    ]
    templates = [template(consumer(**spec)) for spec in specs]
    assert "annotations" not in templates[0]["metadata"]
    assert all(one != other for one in templates for other in templates if one is not other)
