"""Children without their owner reference, as a restore or `kubectl delete --cascade=orphan` leaves them behind."""

import re
import shlex
from pathlib import Path

from tests.model.examples import manifest
from tests.operator.namespace import Namespace, eventually
from tests.operator.operator_process import running_operator

CHILDREN = {"ServiceAccount", "ConfigMap", "Deployment", "PodDisruptionBudget"}


def test_all_orphaned_children_are_named_and_the_command_in_the_message_resolves_the_conflict(
    plane_namespace: Namespace, tmp_path: Path
) -> None:
    resource = manifest(handler={"source": "def handle(data): ..."}, replicas=2)

    def created() -> None:
        assert set(plane_namespace.children("orders")) == CHILDREN

    with running_operator(plane_namespace.cluster.kubeconfig, tmp_path, watch_namespaces=plane_namespace.name):
        plane_namespace.create(resource)
        eventually(created)
        plane_namespace.kubectl("delete", "stc", "orders", "--cascade=orphan")
        eventually(lambda: check_orphaned(plane_namespace))
        before = plane_namespace.children("orders")
        plane_namespace.create(resource)

        def conflict() -> str:
            message = str(plane_namespace.conditions("orders")["Ready"]["message"])
            assert plane_namespace.reason("orders") == "NameConflict"
            assert all(f"{kind} {child['metadata']['name']}" in message for kind, child in before.items())
            return message

        message = eventually(conflict)
        assert plane_namespace.children("orders") == before
        [command] = re.findall(r"`kubectl (.*?)`", message)
        plane_namespace.cluster.kubectl(*shlex.split(command))

        def recovered() -> None:
            assert plane_namespace.reason("orders") != "NameConflict"
            after = plane_namespace.children("orders")
            assert set(after) == CHILDREN
            assert all(child["metadata"]["uid"] != before[kind]["metadata"]["uid"] for kind, child in after.items())

        eventually(recovered, 60)


def check_orphaned(namespace: Namespace) -> None:
    assert namespace.find("StreamConsumer", "orders") is None
    children = namespace.children("orders")
    assert set(children) == CHILDREN
    assert not any("ownerReferences" in child["metadata"] for child in children.values())
