"""Restricted Pod Security Standard, enforced for the pods of both images by a real API server."""

from pathlib import Path

import pytest
import yaml

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests import Manifest, desired
from streamconsumer.operator.settings import OperatorSettings
from tests.charts.rendering import Helm, of_kind, pod_template
from tests.cluster.errors import ProgramFailed
from tests.operator.namespace import Namespace

MISSING_CLASSES = ("priorityClassName", "runtimeClassName")
"""Fields that name objects that do not exist in the test. The standard does not cover them."""

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def restricted(api_namespace: Namespace) -> Namespace:
    labels = {
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/enforce-version": "latest",
    }
    path = f"/api/v1/namespaces/{api_namespace.name}"
    api_namespace.cluster.request("PATCH", path, {"metadata": {"labels": labels}})
    return api_namespace


def pod(name: str, template: Manifest) -> Manifest:
    metadata = {**template["metadata"], "name": name}
    spec = {field: value for field, value in template["spec"].items() if field not in MISSING_CLASSES}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_namespace_rejects_an_insecure_pod(restricted: Namespace) -> None:
    template = pod_template(Helm("helm").template("--set", "securityContext=null"))
    with pytest.raises(ProgramFailed, match="violates PodSecurity"):
        restricted.create(pod("insecure", template))


def test_operator_pod_is_admitted(restricted: Namespace) -> None:
    restricted.create(pod("operator", pod_template(Helm("helm").template())))


def test_pod_of_helm_test_is_admitted(restricted: Namespace) -> None:
    (tester,) = of_kind("Pod", Helm("helm").template("--set", "test.redisUrl=redis://redis:6379/0"))
    restricted.create(pod("tester", {**tester, "spec": {**tester["spec"], "serviceAccountName": "default"}}))


@pytest.mark.parametrize("example", sorted(path.name for path in GOLDEN.iterdir() if path.is_dir()))
def test_processor_pod_of_each_golden_case_is_admitted(restricted: Namespace, example: str) -> None:
    consumer = StreamConsumer.parse(yaml.safe_load((GOLDEN / example / "consumer.yaml").read_text()))
    (deployment,) = of_kind("Deployment", desired(consumer, OperatorSettings()))
    restricted.create(pod("processor", deployment["spec"]["template"]))
