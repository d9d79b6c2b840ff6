"""User ids of the pods: a cluster that assigns arbitrary user ids, and an image with a user name.

OpenShift assigns each namespace a range of user ids, and its admission plugin writes an id from this range into each
pod that does not set `runAsUser`. Here, a MutatingAdmissionPolicy does the same.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster import images
from tests.e2e.shop import CHART, SYSTEM, Shop, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

USER_ID = 1_000_660_000
GROUP = "admissionregistration.k8s.io/v1"
POLICY = "assign-user-id"
HANDLE = "import os\ndef handle(data):\n    print('handled as', os.getuid(), os.getgid(), os.environ.get('HOME'))\n"
NAMED_USER = "streamconsumer-test/named-user:test"
OPERATOR = "deploy/streamconsumer-operator"


def _policy() -> str:
    """Return the policy and its binding. The policy assigns the id as OpenShift's restricted-v2 constraints do."""
    assignment = f"Object{{spec: Object.spec{{securityContext: Object.spec.securityContext{{runAsUser: {USER_ID}}}}}}}"
    policy = {
        "apiVersion": GROUP,
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": POLICY},
        "spec": {
            "matchConstraints": {
                "resourceRules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
                ]
            },
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "matchConditions": [
                {
                    "name": "product",
                    "expression": "has(object.metadata.labels) && 'app.kubernetes.io/name' in object.metadata.labels "
                    "&& object.metadata.labels['app.kubernetes.io/name'].startsWith('streamconsumer-')",
                },
                {"name": "unset", "expression": "!has(object.spec.securityContext.runAsUser)"},
            ],
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": assignment}}],
        },
    }
    binding = {
        "apiVersion": GROUP,
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": POLICY},
        "spec": {"policyName": POLICY},
    }
    return yaml.safe_dump_all([policy, binding])


def _consumer(name: str, **spec: object) -> str:
    manifest = {
        "apiVersion": "streamconsumer.dev/v1alpha1",
        "kind": "StreamConsumer",
        "metadata": {"name": name},
        "spec": {
            "redis": {"urlSecretRef": {"name": "user-ids", "key": "url"}},
            "stream": name,
            "consumerGroup": "tests",
            "handler": {"source": HANDLE},
            **spec,
        },
    }
    return yaml.safe_dump(manifest)


@pytest.fixture(scope="module")
def release(shop: Shop) -> Iterator[Shop]:
    """Install the chart, and create the Secret of the consumers."""
    shop.cluster.helm(
        *("upgrade", "--install", "streamconsumer", str(CHART), "--namespace", SYSTEM, "--create-namespace"),
        *("--wait", "--timeout", "90s"),
    )
    shop.kubectl("create", "secret", "generic", "user-ids", "--from-literal=url=redis://redis:6379/0")
    yield shop
    shop.kubectl("delete", "stc", "--all")
    shop.kubectl("delete", "secret", "user-ids")


@pytest.fixture
def assigned_user_ids(release: Shop) -> Iterator[Shop]:
    """Assign a user id to each new pod of the product, and restart the operator with this id."""
    kubectl = release.cluster.kubectl
    kubectl("apply", "-f", "-", input=_policy())
    eventually("the policy is in use", lambda: _assigns_an_id(release), 60)
    kubectl("rollout", "restart", OPERATOR, "--namespace", SYSTEM)
    kubectl("rollout", "status", OPERATOR, "--namespace", SYSTEM, "--timeout=90s")
    yield release
    kubectl("delete", "-f", "-", input=_policy())


def _assigns_an_id(shop: Shop) -> bool:
    """Return True if the API server assigns an id to a new pod, tried with a dry run."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe", "labels": {"app.kubernetes.io/name": "streamconsumer-probe"}},
        "spec": {"containers": [{"name": "probe", "image": "probe"}]},
    }
    arguments = ("create", "--dry-run=server", "--output", "jsonpath={.spec.securityContext.runAsUser}", "-f", "-")
    return shop.kubectl(*arguments, stdin=yaml.safe_dump(pod)).strip() == str(USER_ID)


def test_image_with_a_user_name_is_reported_with_the_remedy(release: Shop) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dockerfile = Path(folder) / "Dockerfile"
        dockerfile.write_text("ARG PROCESSOR\nFROM ${PROCESSOR}\nUSER nobody\n")
        processor = {"PROCESSOR": images.full_reference("streamconsumer-processor:0.1.0")}
        release.cluster.load_image(images.build(Path(folder), dockerfile, NAMED_USER, build_args=processor))
    release.apply(_consumer("named", image=NAMED_USER))
    eventually("the problem is reported", lambda: release.condition("named").get("reason") == "PodInvalid", 60)
    message = release.condition("named")["message"]
    assert "image has non-numeric user (nobody)" in message
    assert "set a numeric USER other than 0 in the Dockerfile of spec.image, such as USER 65532" in message


def test_operator_and_pods_run_with_an_assigned_user_id_in_group_0(assigned_user_ids: Shop) -> None:
    shop = assigned_user_ids
    shop.apply(_consumer("assigned"))
    shop.wait_ready("assigned", 90)
    (pod,) = shop.pods("assigned")
    assert pod["spec"]["securityContext"]["runAsUser"] == USER_ID
    shop.redis("XADD", "assigned", "*", "a", "b")
    eventually("the entry is acknowledged", lambda: shop.drained("assigned"), 60)
    log = shop.kubectl("logs", pod["metadata"]["name"])
    assert f"handled as {USER_ID} 0 /" in log
    selector = "app.kubernetes.io/name=streamconsumer-operator"
    operators = shop.cluster.get("pods", "--namespace", SYSTEM, "--selector", selector)["items"]
    running = [each for each in operators if "deletionTimestamp" not in each["metadata"]]
    assert {each["spec"]["securityContext"].get("runAsUser") for each in running} == {USER_ID}
