import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

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
    (found,) = [each for each in desired(of, settings) if each["kind"] == kind]
    return found


def kinds(of: StreamConsumer) -> list[str]:
    return [each["kind"] for each in desired(of, SETTINGS)]


def template(of: StreamConsumer, settings: OperatorSettings = SETTINGS) -> dict[str, Any]:
    found: dict[str, Any] = child("Deployment", of, settings)["spec"]["template"]
    return found


def container(of: StreamConsumer, settings: OperatorSettings = SETTINGS) -> dict[str, Any]:
    (found,) = template(of, settings)["spec"]["containers"]
    return dict(found)


def variables(of: StreamConsumer, settings: OperatorSettings = SETTINGS) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container(of, settings)["env"]}


def hashes(of: StreamConsumer, settings: OperatorSettings = SETTINGS) -> list[str]:
    return [each["metadata"]["annotations"][names.ANNOTATION_APPLIED] for each in desired(of, settings)]


def in_the_pod(of: StreamConsumer) -> dict[str, str]:
    """The literal variables as the kubelet hands them to the process: `$(NAME)` expanded, `$$` made `$`."""
    known: dict[str, str] = {}
    for each in container(of)["env"]:
        if "value" in each:
            known[each["name"]] = re.sub(
                r"\$(\$|\(([^)]*)\))",
                lambda found: "$" if found[1] == "$" else known.get(found[2], found[0]),
                each["value"],
            )
    return known


def test_children_come_in_the_order_in_which_they_refer_to_each_other() -> None:
    everything = consumer(handler={"source": "x = 1"}, replicas=2)
    assert kinds(everything) == [kind for _, kind in CHILD_KINDS]


def test_a_suspended_streamconsumer_has_zero_replicas_and_keeps_all_its_children() -> None:
    suspended = consumer(suspend=True, replicas=3)
    assert child("Deployment", suspended)["spec"]["replicas"] == 0
    assert kinds(suspended) == kinds(consumer(replicas=3))


def test_no_label_of_a_user_takes_the_place_of_ours() -> None:
    found = template(consumer(podLabels={"team": "shop", "part-of": "other"}))["metadata"]["labels"]
    assert found["team"] == "shop"
    assert found.items() >= template(consumer())["metadata"]["labels"].items()


def test_pods_spread_by_their_own_label_and_roll_out() -> None:
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
def test_only_what_is_said_of_a_rollout_is_stated(rollout: dict[str, Any], strategy: dict[str, Any] | None) -> None:
    found = child("Deployment", consumer(rollout=rollout))["spec"]
    assert found.get("strategy", {}).get("rollingUpdate") == strategy
    assert ("progressDeadlineSeconds" in found) is ("progressDeadline" in rollout)


@pytest.mark.parametrize(("said", "budget"), [(..., 1), (2, 2), ("2", 2), ("25%", "25%"), (0, 0)])
def test_a_disruption_budget_is_as_large_as_is_said(said: Any, budget: int | str) -> None:
    given = {} if said is ... else {"maxUnavailable": said}
    found = child("PodDisruptionBudget", consumer(replicas=2, podDisruptionBudget=given))
    assert found["spec"]["maxUnavailable"] == budget


def test_a_service_is_reached_in_the_namespace_of_the_resource_and_nowhere_else() -> None:
    http = {"service": "billing", "port": 8080, "path": "/orders"}
    found = variables(consumer(handler={"http": http}, image=...))
    assert found["STREAMCONSUMER_HANDLER_HTTP_URL"] == "http://billing.shop.svc:8080/orders"
    assert "STREAMCONSUMER_HANDLER_PYTHON" not in found


def test_variables_from_secrets_are_named_and_never_read() -> None:
    reference = {"name": "bank", "key": "token"}
    of = consumer(
        env=[{"name": "TOKEN", "valueFrom": {"secretKeyRef": reference}}],
        envFrom=[{"configMapRef": {"name": "shop", "optional": True}}],
    )
    assert variables(of)["TOKEN"] == {"secretKeyRef": reference}
    assert container(of)["envFrom"] == [{"configMapRef": {"name": "shop", "optional": True}}]


@pytest.mark.parametrize(("replicas", "budget"), [(0, False), (1, False), (2, True), (1000, True)])
def test_a_disruption_budget_comes_with_the_second_pod(replicas: int, budget: bool) -> None:
    assert ("PodDisruptionBudget" in kinds(consumer(replicas=replicas))) is budget


def test_only_a_source_needs_a_config_map() -> None:
    assert "ConfigMap" not in kinds(consumer())
    source = child("ConfigMap", consumer(handler={"source": "x = 1"}))
    assert source["data"] == {"handler_source.py": "x = 1"}


@pytest.mark.parametrize("index", range(4))
def test_every_child_belongs_to_its_streamconsumer(index: int) -> None:
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


def test_what_was_never_applied_owns_nothing() -> None:
    rendered = desired(StreamConsumer.parse(manifest()), SETTINGS)
    assert all("ownerReferences" not in each["metadata"] for each in rendered)


def test_a_pod_passes_the_restricted_pod_security_standard() -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, field by field."""
    secret = {"name": "redis", "key": "url"}
    pod = template(consumer(handler={"source": "x = 1"}, redis={"urlSecretRef": secret}))["spec"]
    inner = container(consumer())["securityContext"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & set(pod)
    assert all({"configMap", "emptyDir", "projected"} & set(volume) for volume in pod["volumes"])
    assert all("hostPort" not in port for port in container(consumer())["ports"])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert inner["allowPrivilegeEscalation"] is False
    assert inner["capabilities"] == {"drop": ["ALL"]}
    assert not {"privileged", "procMount", "runAsUser", "seLinuxOptions"} & set(inner)
    assert not {"sysctls", "runAsUser", "seLinuxOptions", "windowsOptions"} & set(pod["securityContext"])


def test_a_pod_writes_only_to_its_own_folder_and_has_no_rights_in_the_cluster() -> None:
    pod = template(consumer())["spec"]
    assert container(consumer())["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["volumes"] == [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}]
    assert pod["automountServiceAccountToken"] is False
    assert child("ServiceAccount", consumer())["automountServiceAccountToken"] is False


@pytest.mark.parametrize(
    ("drain", "grace"), [("25s", 33), ("1s", 9), ("1h", 3608), ("1500ms", 10), ("1001ms", 10), ("2.5s", 11)]
)
def test_a_pod_has_eight_seconds_more_than_it_drains(drain: str, grace: int) -> None:
    assert template(consumer(drainTimeout=drain))["spec"]["terminationGracePeriodSeconds"] == grace


def test_pods_are_found_by_a_label_that_no_user_can_change() -> None:
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
def test_a_change_of_configuration_rolls_the_pods(change: dict[str, Any]) -> None:
    assert template(consumer(**change)) != template(consumer())


def test_a_change_of_the_source_rolls_the_pods() -> None:
    """The pod template itself does not hold it, but the name of its ConfigMap, which is another one each time: under
    one name a kubelet could give a new pod the text of the running one (seen on a node)."""
    before, after = (consumer(handler={"source": f"x = {number}"}) for number in (1, 2))
    assert template(before) != template(after)


@pytest.mark.parametrize(
    "change",
    [
        {"suspend": True},
        {"rollout": {"maxSurge": 1, "progressDeadline": "1m"}},
        {"podDisruptionBudget": {"maxUnavailable": 2}},
    ],
    ids=str,
)
def test_what_is_not_said_of_a_pod_rolls_none(change: dict[str, Any]) -> None:
    assert template(consumer(replicas=2, **change)) == template(consumer(replicas=2))


@pytest.mark.parametrize("replicas", [0, 2, 50])
def test_scaling_rolls_no_pods(replicas: int) -> None:
    assert template(consumer(replicas=replicas)) == template(consumer())


def test_saying_a_default_rolls_no_pods() -> None:
    said = consumer(batchCount=10, drainTimeout="25s", delivery={"minIdle": "30s"}, encoding="utf-8")
    assert hashes(said) == hashes(consumer())


def test_the_order_in_which_fields_are_written_rolls_no_pods() -> None:
    one = consumer(resources={"limits": {"cpu": "1", "memory": "1Gi"}})
    other = consumer(resources={"limits": {"memory": "1Gi", "cpu": "1"}})
    assert hashes(one) == hashes(other)


@pytest.mark.parametrize(
    "other",
    [
        OperatorSettings(processor_image="streamconsumer-processor:2"),
        OperatorSettings(http_port=1, log_level="DEBUG", watch_namespaces=["shop"]),
    ],
    ids=["a new release of the processor", "how the operator itself runs"],
)
def test_an_upgrade_of_the_operator_changes_nothing_of_who_names_an_image(other: OperatorSettings) -> None:
    assert desired(consumer(), other) == desired(consumer(), SETTINGS)


def test_the_version_of_the_operator_stands_in_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    before = desired(consumer(handler={"source": "x = 1"}, replicas=2), SETTINGS)
    monkeypatch.setattr("streamconsumer.__version__", "99.0")
    assert desired(consumer(handler={"source": "x = 1"}, replicas=2), SETTINGS) == before


def test_who_names_no_image_gets_the_stock_one() -> None:
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
def test_the_pull_policy_of_the_resource_wins_over_the_operators(settings: Any, spec: Any, policy: str | None) -> None:
    told = OperatorSettings(processor_image_pull_policy=settings)
    assert container(consumer(imagePullPolicy=spec), told).get("imagePullPolicy") == policy


def test_the_collector_of_the_resource_wins_over_the_operators() -> None:
    told, name = OperatorSettings(telemetry_endpoint="http://a"), "OTEL_EXPORTER_OTLP_ENDPOINT"
    assert name not in variables(consumer())
    assert variables(consumer(), told)[name] == "http://a"
    assert variables(consumer(telemetry={"endpoint": "http://b"}), told)[name] == "http://b"


@pytest.mark.parametrize(("ratio", "text"), [(0, "0"), (1, "1"), (0.25, "0.25"), (0.00001, "1e-05")])
def test_the_ratio_is_told_as_every_sdk_reads_it(ratio: float, text: str) -> None:
    told = variables(consumer(telemetry={"samplingRatio": ratio}))
    assert (told["OTEL_TRACES_SAMPLER"], told["OTEL_TRACES_SAMPLER_ARG"]) == ("parentbased_traceidratio", text)
    assert "OTEL_TRACES_SAMPLER" not in variables(consumer())


@pytest.mark.parametrize("name", ["OTEL_SERVICE_NAME", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_RESOURCE_ATTRIBUTES"])
def test_a_users_variable_wins_over_ours(name: str) -> None:
    told = OperatorSettings(telemetry_endpoint="http://a")
    env = container(consumer(env=[{"name": name, "value": "mine"}]), told)["env"]
    assert [each["value"] for each in env if each["name"] == name] == ["mine"]


def test_a_variable_refers_only_to_variables_above_it() -> None:
    """The kubelet leaves `$(NAME)` as it is where NAME comes later."""
    env = container(consumer())["env"]
    for index, each in enumerate(env):
        above = {earlier["name"] for earlier in env[:index]}
        assert set(re.findall(r"\$\((\w+)\)", each.get("value", ""))) <= above


def test_credentials_are_named_and_never_read() -> None:
    """As files that the kubelet keeps up to date; a variable would stay as it was when the container started."""
    secret = {"name": "redis", "key": "password"}
    of = consumer(redis={"urlSecretRef": secret, "passwordSecretRef": secret})
    found = variables(of)
    assert found["STREAMCONSUMER_REDIS_URL_FILE"] == "/etc/streamconsumer/redis/url"
    assert found["STREAMCONSUMER_REDIS_PASSWORD_FILE"] == "/etc/streamconsumer/redis/password"
    (volume,) = [each for each in template(of)["spec"]["volumes"] if "projected" in each]
    assert [source["secret"] for source in volume["projected"]["sources"]] == [
        {"name": "redis", "items": [{"key": "password", "path": file}], "optional": True}
        for file in ("url", "password")
    ]
    assert volume["projected"]["defaultMode"] == 0o444
    assert {"name": volume["name"], "mountPath": "/etc/streamconsumer/redis", "readOnly": True} in container(of)[
        "volumeMounts"
    ]


def test_every_file_that_a_pod_is_told_of_is_mounted() -> None:
    given = yaml.safe_load((golden.FOLDER / "sentinel" / "consumer.yaml").read_text())
    of = StreamConsumer.parse(given)
    told = {value for name, value in variables(of).items() if name.endswith("_FILE")}
    (volume,) = [each for each in template(of)["spec"]["volumes"] if "projected" in each]
    (mount,) = [each for each in container(of)["volumeMounts"] if each["name"] == volume["name"]]
    items = [item for source in volume["projected"]["sources"] for item in source["secret"]["items"]]
    assert told == {f"{mount['mountPath']}/{item['path']}" for item in items}


@pytest.mark.parametrize("handler", [{"python": "orders:handle"}, {"source": "x = 1"}])
def test_a_pod_is_told_that_its_handler_takes_batches(handler: dict[str, str]) -> None:
    said = in_the_pod(consumer(handler={**handler, "batch": True}))
    assert from_env(ProcessorSettings, {**said, "STREAMCONSUMER_CONSUMER_NAME": "orders-1"}).handler.batch
    assert "STREAMCONSUMER_HANDLER_BATCH" not in variables(consumer(handler=handler))


def test_a_pod_knows_who_it_is() -> None:
    found = variables(consumer())
    assert found["STREAMCONSUMER_CONSUMER_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert found["OTEL_SERVICE_NAME"] == "orders"
    assert "k8s.namespace.name=shop," in found["OTEL_RESOURCE_ATTRIBUTES"]


pieces = st.sampled_from(["$", "$$", "$(", "$(A)", ")", "(", "o", ":", "{", "$(STREAMCONSUMER_STREAM)", "заказ"])
texts = st.lists(pieces, min_size=1, max_size=8).map("".join)


@given(stream=texts, group=texts, drain=strategies.durations("1s", "1h"), start=strategies.start_positions)
def test_the_pod_reads_what_the_resource_says(stream: str, group: str, drain: Any, start: str) -> None:
    """Through the environment and through the kubelet, which gives `$` a meaning of its own."""
    drained = f"{drain.total_seconds():f}s"
    said = consumer(stream=stream, consumerGroup=group, drainTimeout=drained, startFrom=start)
    read = from_env(ProcessorSettings, {**in_the_pod(said), "STREAMCONSUMER_CONSUMER_NAME": "orders-1"})
    assert {name: getattr(read, name) for name in SharedSettings.model_fields} == {
        name: getattr(said.spec, name) for name in SharedSettings.model_fields
    }
