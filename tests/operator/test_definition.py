"""The CRD on a real API server: accepted without a warning, as strict as pydantic, and readable with kubectl."""

import json
import subprocess
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamconsumer.errors import InvalidResource
from streamconsumer.model import names
from streamconsumer.model.crd import custom_resource_definition
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests import desired
from streamconsumer.operator.reconcile.drift import differences
from streamconsumer.operator.settings import OperatorSettings
from tests.cluster.api_server import ApiServer
from tests.cluster.binaries import find
from tests.cluster.clusters import KubectlError
from tests.cluster.errors import ProgramFailed
from tests.model.examples import Manifest, consumer, manifest
from tests.model.rules import RULES_WITH_MESSAGE, RULES_WITHOUT_MESSAGE, VALID_MANIFESTS, Case
from tests.model.string_fields import ATTACKS, FREE_TEXTS, string_fields, with_value
from tests.operator.namespace import Namespace

TRY = f"/apis/{names.API_VERSION}/namespaces/default/{names.PLURAL}?dryRun=All&fieldValidation=Strict"


def in_default(resource: Manifest) -> Manifest:
    return {**resource, "metadata": {**resource["metadata"], "namespace": "default"}}


def accepted(api: ApiServer, resource: Manifest) -> Manifest:
    """Return the resource as the API server would store it."""
    stored: Manifest = api.request("POST", TRY, in_default(resource))
    return stored


def rejection(api: ApiServer, resource: Manifest) -> str:
    with pytest.raises(ProgramFailed) as caught:
        accepted(api, resource)
    text = str(caught.value)
    assert "answered 4" in text
    return text


def test_the_crd_is_accepted_without_a_warning(api: ApiServer) -> None:
    output = subprocess.run(
        [find("kubectl"), "apply", "--server-side", "--dry-run=server", "-f", "-"],
        input=json.dumps(custom_resource_definition()),
        env=api.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert output.stderr == ""


def test_the_schema_is_structural(api: ApiServer) -> None:
    stored = api.get("crd", f"{names.PLURAL}.{names.GROUP}")
    conditions = {each["type"]: each["status"] for each in stored["status"]["conditions"]}
    assert conditions["Established"] == conditions["NamesAccepted"] == "True"
    assert "NonStructuralSchema" not in conditions


def test_the_api_server_stores_the_crd_unchanged(api: ApiServer) -> None:
    """GitOps tools would show a field that the API server adds or drops as a permanent difference."""
    sent, stored = custom_resource_definition(), api.get("crd", f"{names.PLURAL}.{names.GROUP}")
    assert stored["spec"]["versions"] == sent["spec"]["versions"]


@pytest.mark.parametrize("right", VALID_MANIFESTS.values(), ids=VALID_MANIFESTS)
def test_a_valid_manifest_is_accepted(api: ApiServer, right: Manifest) -> None:
    assert StreamConsumer.parse(accepted(api, right)).name == right["metadata"]["name"]


@pytest.mark.parametrize("case", RULES_WITH_MESSAGE, ids=str)
def test_a_violated_rule_is_rejected_with_the_message_of_pydantic(api: ApiServer, case: Case) -> None:
    message = rejection(api, case.invalid_manifest)
    assert case.message in message
    assert case.field in message


@pytest.mark.parametrize("case", RULES_WITHOUT_MESSAGE, ids=str)
def test_a_wrong_type_is_rejected(api: ApiServer, case: Case) -> None:
    assert case.field in rejection(api, case.invalid_manifest)


def test_kubectl_rejects_a_misspelt_field(api_namespace: Namespace) -> None:
    with pytest.raises(KubectlError, match=r"unknown field \"spec.batchcount\""):
        api_namespace.cluster.kubectl(
            "create", "-f", "-", "--namespace", api_namespace.name, input=json.dumps(unplaced(batchcount=5))
        )


def unplaced(name: str = "orders", **spec: Any) -> Manifest:
    resource = manifest(name, **spec)
    del resource["metadata"]["namespace"]
    return resource


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "batchCount": st.sampled_from([0, 1, 10, 1000, 1001, "10", True, None, -1]),
    "replicas": st.sampled_from([0, 1, 1000, 1001, "1", None]),
    "startFrom": st.sampled_from(["0", "$", "1-1", "1-", "-1", "$0", "00", "", None, 0]),
    "encoding": st.sampled_from(["utf-8", "bytes", "UTF-8", "", None]),
    "drainTimeout": st.sampled_from(
        ["1s", "3600s", "1h0.001ms", "1.5m", "1e1s", "0.9s", "+5s", "5", "1h1s", "60m", "0h1s", "1µs", None, 5]
    ),
    "pollInterval": st.sampled_from(["100ms", "99.999ms", "0.1s", "1m", "1m0s1ms", ""]),
    "redis": st.fixed_dictionaries(
        {},
        optional={
            "url": st.sampled_from(
                [
                    "redis://r",
                    "rediss://r/1",
                    "rediss://r/0",
                    "http://r",
                    "redis:///0",
                    "redis://r?db=0",
                    "redis://r/?db=1",
                    "redis://r/00/?ssl_cert_reqs=none",
                    "rediss://r/0?ssl_cert_reqs=none&socket_timeout=3",
                    "redis://r?%64b=0",
                    "redis://a@r",
                    "redis:/r",
                    "",
                    None,
                ]
            ),
            "urlSecretRef": st.sampled_from([{"name": "a", "key": "b"}, {"name": "a"}, {"name": "", "key": "b"}, None]),
            "cluster": st.sampled_from([True, False, None]),
            "tls": st.sampled_from([{}, {"insecureSkipVerify": True}, {"certSecretRef": {"name": "a"}}, None]),
            "sentinel": st.sampled_from([{"masterName": "m", "nodes": ["s:1"]}, {"nodes": ["s"]}, {}, None]),
        },
    ),
    "handler": st.fixed_dictionaries(
        {},
        optional={
            "python": st.sampled_from(["a:b", "a.b.c:d", "a", "a:b:c", "1a:b", "a.:b", "a:b\n", "é:b", "", None]),
            "source": st.sampled_from(["x = 1", "", " ", None]),
            "http": st.sampled_from(
                [{"service": "a"}, {"service": "a-", "port": 1}, {"service": "a", "path": "a"}, {"port": 1}, {}, None]
            ),
            "batch": st.booleans(),
        },
    ),
    "env": st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "name": st.sampled_from(["A", "B", "STREAMCONSUMER_A", "STREAMCONSUMER", "1", "A-B", ""]),
                "value": st.sampled_from(["", "x", None]),
                "valueFrom": st.sampled_from(
                    [
                        {},
                        {"secretKeyRef": {"name": "a", "key": "b"}},
                        {"configMapKeyRef": {"name": "A", "key": "b"}},
                        None,
                    ]
                ),
            },
        ),
        max_size=3,
    ),
    "resources": st.fixed_dictionaries(
        {},
        optional={
            "limits": st.dictionaries(
                st.sampled_from(["cpu", "memory"]),
                st.sampled_from([1, 0, -1, "1", "0.5", ".5", "1Ki", "1ki", "1e3", "-1", "1 ", "", True]),
                max_size=2,
            )
        },
    ),
    "envFrom": st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "secretRef": st.sampled_from([{"name": "a"}, {"name": "a.b"}, {"name": ""}, None]),
                "configMapRef": st.sampled_from([{"name": "a"}, None]),
                "prefix": st.sampled_from(["A_", "STREAMCONSUMER_", "", None]),
            },
        ),
        max_size=2,
    ),
    "podLabels": st.dictionaries(
        st.sampled_from(["a", "app.kubernetes.io/name", "x/y", "streamconsumer.dev/name"]),
        st.sampled_from(["", "b", "-b", "b c", None]),
        max_size=2,
    ),
    "tolerations": st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "key": st.sampled_from(["a", "a/b", "", "a b", None]),
                "operator": st.sampled_from(["Exists", "Equal", "", None]),
                "value": st.sampled_from(["", "b", None]),
                "effect": st.sampled_from(["NoExecute", "NoSchedule", "", None]),
                "tolerationSeconds": st.sampled_from([0, -1, 60, None]),
            },
        ),
        max_size=2,
    ),
    "rollout": st.fixed_dictionaries(
        {},
        optional={
            "maxUnavailable": st.sampled_from([0, "0", "0%", 1, "100%", "101%", "00", "1 ", True, 10000, None]),
            "maxSurge": st.sampled_from([0, "0", "0%", "25%", None]),
            "progressDeadline": st.sampled_from(["10s", "9s", "24h", None]),
        },
    ),
    "telemetry": st.sampled_from(
        [
            *({}, {"endpoint": "http://c"}, {"endpoint": "c"}, {"endpoint": None}, None),
            *({"samplingRatio": each} for each in (0, 1, 0.5, 1.1, -0.1, "0.5", True)),
            *({"baggage": each} for each in ([], ["tenant"], ["a b"], [""], "tenant")),
            *({"context": each} for each in ("parent", "link", "ignore", "trust", "")),
            {"contextField": ""},
        ]
    ),
}


def check_same_answer(api: ApiServer, resource: Manifest) -> None:
    try:
        StreamConsumer.parse(resource)
    except InvalidResource:
        rejection(api, resource)
    else:
        accepted(api, resource)


@given(spec=st.fixed_dictionaries({}, optional=VALUES))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pydantic_and_the_api_server_accept_the_same_specs(api: ApiServer, spec: dict[str, Any]) -> None:
    """`render` and `dev` accept the same resources as the cluster."""
    check_same_answer(api, manifest(**spec))


@pytest.mark.parametrize("field", [field for field, _ in string_fields() if field not in FREE_TEXTS])
def test_pydantic_and_the_api_server_refuse_the_same_hostile_names(api: ApiServer, field: str) -> None:
    for attack in ATTACKS.values():
        check_same_answer(api, with_value(field, attack))


@given(text=st.text(min_size=1, max_size=20))
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pydantic_and_the_api_server_accept_the_same_names(api: ApiServer, text: str) -> None:
    """Python and RE2 interpret the patterns in the same way."""
    secret = "redis.passwordSecretRef"
    for field in ("stream", f"{secret}.name", f"{secret}.key", "image", "telemetry.endpoint", "nodeSelector.{key}.key"):
        check_same_answer(api, with_value(field, text))


def test_a_stored_resource_has_the_defaults(api: ApiServer) -> None:
    spec = accepted(api, manifest(delivery={}, env=[{"name": "A"}]))["spec"]
    assert {name: spec[name] for name in ("replicas", "batchCount", "concurrency", "startFrom", "encoding")} == {
        "replicas": 1,
        "batchCount": 10,
        "concurrency": 1,
        "startFrom": "0",
        "encoding": "utf-8",
    }
    assert (spec["pollInterval"], spec["drainTimeout"]) == ("5s", "25s")
    assert spec["delivery"] == {
        "minIdle": "30s",
        "maxDeliveries": 10,
        "maxEntryBytes": 16_777_216,
        "deadLetterMaxLength": 100_000,
    }
    assert spec["env"] == [{"name": "A", "value": ""}]


@pytest.mark.parametrize("field", ["stream", "consumerGroup"])
def test_stream_and_group_are_immutable(api_namespace: Namespace, field: str) -> None:
    api_namespace.create(manifest())
    with pytest.raises(ProgramFailed, match=f"{field} is immutable: create another StreamConsumer"):
        api_namespace.edit("orders", **{field: "other"})
    assert api_namespace.edit("orders", batchCount=20)["spec"]["batchCount"] == 20


def test_the_status_is_ignored_on_create(api_namespace: Namespace) -> None:
    stored = api_namespace.create({**manifest(), "status": {"replicas": 5}})
    assert stored["status"].items() >= {"observedGeneration": -1, "replicas": 0}.items()
    assert stored["metadata"]["generation"] == 1


def test_a_status_write_keeps_the_generation(api_namespace: Namespace) -> None:
    api_namespace.create(manifest())
    status = {"replicas": 2, "readyReplicas": 1, "selector": f"{names.LABEL_CONSUMER}=orders"}
    patched = api_namespace.patch("StreamConsumer", "orders", {"status": status}, "/status")
    assert patched["metadata"]["generation"] == 1
    assert patched["status"]["readyReplicas"] == 1


def test_kubectl_explain_shows_descriptions_and_defaults(api: ApiServer) -> None:
    output = api.kubectl("explain", "stc.spec.redis")
    assert "Redis or Valkey server that holds the stream." in " ".join(output.split())
    assert "in the form `redis://host:port/database`, or `rediss://…` for TLS." in " ".join(output.split())
    assert "<empty>" not in output
    output = " ".join(api.kubectl("explain", "stc.spec.delivery").split())
    assert "contains the error. Default: 10." in output, "kubectl itself shows no defaults"


def test_kubectl_explain_describes_every_field(api: ApiServer) -> None:
    output = api.kubectl("explain", "streamconsumer", "--recursive", "--output", "plaintext-openapiv2")
    assert all(field in output for field in ("pollInterval", "minIdle", "urlSecretRef", "lastTransitionTime"))
    assert "<no description>" not in api.kubectl("explain", "stc.spec")


def test_kubectl_finds_the_resource_by_short_name_and_category(api_namespace: Namespace) -> None:
    api_namespace.create(manifest())
    for word in ("stc", "streamconsumer", "streams"):
        assert api_namespace.kubectl("get", word, "--output", "name") == "streamconsumer.streamconsumer.dev/orders\n"


def test_kubectl_get_shows_the_main_columns(api_namespace: Namespace) -> None:
    api_namespace.create(manifest(replicas=3))
    reason = {"type": "Ready", "status": "False", "reason": "PodsStarting", "message": "1 of 3 pods ready."}
    condition = {**reason, "lastTransitionTime": "2026-11-24T12:00:00Z", "observedGeneration": 1}
    status: Manifest = {"status": {"desiredReplicas": 3, "readyReplicas": 1, "conditions": [condition]}}
    status["status"]["stream"] = {"lag": 7, "pending": 2}
    api_namespace.patch("StreamConsumer", "orders", status, "/status")
    head, row = api_namespace.kubectl("get", "stc").splitlines()
    assert head.split() == ["NAME", "STREAM", "GROUP", "DESIRED", "READY", "LAG", "PENDING", "STATUS", "AGE"]
    assert row.split()[:8] == ["orders", "orders", "billing", "3", "1", "7", "2", "PodsStarting"]
    wide = api_namespace.kubectl("get", "stc", "--output", "wide")
    assert "shop:1.4" in wide
    assert "1 of 3 pods ready." in wide


def test_a_status_with_an_invalid_condition_is_rejected(api_namespace: Namespace) -> None:
    api_namespace.create(manifest())
    with pytest.raises(ProgramFailed, match=r"status.conditions\[0\]"):
        api_namespace.patch("StreamConsumer", "orders", {"status": {"conditions": [{"type": "Ready"}]}}, "/status")


def test_kubectl_scale_changes_the_replicas(api_namespace: Namespace) -> None:
    api_namespace.create(manifest())
    api_namespace.kubectl("scale", "stc/orders", "--replicas=3")
    assert api_namespace.get("StreamConsumer", "orders")["spec"]["replicas"] == 3
    status = {"status": {"replicas": 2, "selector": f"{names.LABEL_CONSUMER}=orders"}}
    api_namespace.patch("StreamConsumer", "orders", status, "/status")
    scale = api_namespace.cluster.request("GET", api_namespace.path("StreamConsumer", "orders") + "/scale")
    assert scale["spec"] == {"replicas": 3}
    assert scale["status"] == {"replicas": 2, "selector": "streamconsumer.dev/name=orders"}


@pytest.mark.parametrize("replicas", [-1, 1001])
def test_a_scale_out_of_bounds_is_rejected(api_namespace: Namespace, replicas: int) -> None:
    api_namespace.create(manifest())
    with pytest.raises(ProgramFailed):
        api_namespace.patch("StreamConsumer", "orders", {"spec": {"replicas": replicas}}, "/scale")


def test_the_samples_are_accepted(api: ApiServer, pytestconfig: pytest.Config) -> None:
    for path in sorted((pytestconfig.rootpath / "k8s" / "samples").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] == "StreamConsumer":
                accepted(api, document)


OF_SECRETS = {
    "url": "rediss://r",
    "tls": {"certSecretRef": {"name": "r"}},
    "passwordSecretRef": {"name": "r", "key": "p"},
}
ALL_OF_PODS: dict[str, Any] = {
    "env": [
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b", "optional": True}}},
        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}},
    ],
    "envFrom": [
        {"secretRef": {"name": "a"}, "prefix": "A_"},
        {"configMapRef": {"name": "b", "optional": True}},
    ],
    "podLabels": {"team": "shop"},
    "podAnnotations": {"note": "any text", "empty": ""},
    "nodeSelector": {"kubernetes.io/arch": "amd64", "empty": ""},
    "tolerations": [
        {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0},
        {"key": "shop", "value": ""},
    ],
    "topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}],
    "imagePullSecrets": [{"name": "registry"}],
    "rollout": {"maxUnavailable": 0, "maxSurge": "50%", "progressDeadline": "10001ms"},
    "podDisruptionBudget": {"maxUnavailable": "25%"},
}
PODS: dict[str, dict[str, Any]] = {
    "image": {},
    "source": {"handler": {"source": "x = 1"}, "image": ...},
    "secrets": {"redis": OF_SECRETS},
    "all settings of pods": ALL_OF_PODS,
    "a Service": {"handler": {"http": {"service": "billing"}}, "image": ...},
    "suspended": {"suspend": True},
}


@pytest.mark.parametrize("spec", PODS.values(), ids=PODS)
def test_an_applied_deployment_is_stored_without_drift(api_namespace: Namespace, spec: dict[str, Any]) -> None:
    """Otherwise the operator would see drift in every reconcile and apply the Deployment without end."""
    (deployment,) = [each for each in desired(consumer(**spec), OperatorSettings()) if each["kind"] == "Deployment"]
    del deployment["metadata"]["namespace"], deployment["metadata"]["ownerReferences"]
    assert not differences(api_namespace.create(deployment), deployment)


@pytest.mark.parametrize("spec", PODS.values(), ids=PODS)
def test_pods_are_admitted_under_the_restricted_pod_security_standard(
    api_namespace: Namespace, spec: dict[str, Any]
) -> None:
    """The API server itself enforces the Pod Security Standard."""
    api_namespace.cluster.kubectl(
        "label", "namespace", api_namespace.name, "pod-security.kubernetes.io/enforce=restricted"
    )
    (deployment,) = [each for each in desired(consumer(**spec), OperatorSettings()) if each["kind"] == "Deployment"]
    template = deployment["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tried"}, "spec": template["spec"]}
    assert api_namespace.create(pod)["spec"]["securityContext"]["runAsNonRoot"] is True
    free: Manifest = json.loads(json.dumps({**pod, "metadata": {"name": "free"}}))
    del free["spec"]["containers"][0]["securityContext"]
    with pytest.raises(ProgramFailed, match="violates PodSecurity"):
        api_namespace.create(free)
