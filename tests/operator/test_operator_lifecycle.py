"""The operator process: start, restart, stop, minimal permissions, and an API server that is unavailable."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamconsumer.model import names
from streamconsumer.model.crd import custom_resource_definition
from streamconsumer.model.status import STREAM_CONDITIONS
from tests.cluster.api_server import ApiServer
from tests.cluster.errors import ProgramFailed
from tests.cluster.namespaces import fresh_namespace
from tests.cluster.processes import free_port
from tests.model.examples import Manifest, manifest
from tests.operator.conftest import install_crd
from tests.operator.namespace import Namespace, eventually, wait_until_reconciled, wait_until_settled
from tests.operator.operator_process import OperatorProcess, running_operator

STOP_SECONDS = 20.0
"""A time limit, in seconds, that is shorter than the grace period of any pod."""


def test_sigterm_stops_the_operator_quickly(api_namespace: Namespace, tmp_path: Path) -> None:
    with running_operator(api_namespace.cluster.kubeconfig, tmp_path, watch_namespaces=api_namespace.name) as operator:
        api_namespace.create(manifest())
        wait_until_reconciled(api_namespace, "orders")
        code, seconds = operator.stop()
    print(f"\nended after {seconds:.2f} s")
    assert code == 0
    assert seconds < STOP_SECONDS
    assert operator.logged("operator stopped")


def test_unknown_variable_is_reported_at_start(api_namespace: Namespace, tmp_path: Path) -> None:
    settings = {"watch_namespaces": api_namespace.name, "watch_namespace": "shop"}
    with running_operator(api_namespace.cluster.kubeconfig, tmp_path, **settings) as operator:
        [line] = operator.logged("unknown environment variable")
    assert line["found"] == "STREAMCONSUMER_OPERATOR_WATCH_NAMESPACE"
    assert line["remedy"] == "did you mean STREAMCONSUMER_OPERATOR_WATCH_NAMESPACES?"


def test_the_log_of_an_undisturbed_operator_has_no_warnings(api_namespace: Namespace, tmp_path: Path) -> None:
    """The log has no lines of kopf, only JSON, and no warnings except the one about `allowed_destinations`."""
    with running_operator(api_namespace.cluster.kubeconfig, tmp_path, watch_namespaces=api_namespace.name) as operator:
        api_namespace.create(manifest(replicas=2))
        wait_until_reconciled(api_namespace, "orders", replicas=2)
        api_namespace.edit("orders", replicas=1, batchCount=20)
        wait_until_reconciled(api_namespace, "orders", replicas=1)
        api_namespace.delete("StreamConsumer", "orders")
        wait_until_settled(api_namespace, 0.5)
        operator.stop()
    assert operator.unexpected_lines() == []
    assert {line["message"].split()[0] for line in operator.lines()} == {
        "allowed_destinations",  # the tests allow loopback addresses
        "operator",
        "created",
        "deleted",
    }


def test_a_restart_writes_nothing(api_namespace: Namespace, tmp_path: Path) -> None:
    """An upgrade is a restart too, and writes nothing if everything is up to date."""
    for name, spec in {
        "plain": manifest("plain"),
        "full": manifest(
            "full",
            handler={"source": "x = 1"},
            replicas=3,
            env=[{"name": "EMPTY"}],
            resources={"limits": {"cpu": "1000m", "memory": "1024Mi"}, "requests": {"cpu": 1}},
        ),
        "refused": manifest("refused", stream="$$(x)"),
    }.items():
        api_namespace.create({**spec, "metadata": {"name": name}})
    variables = {"watch_namespaces": api_namespace.name}
    with running_operator(api_namespace.cluster.kubeconfig, tmp_path, **variables) as first:
        for name in ("plain", "full", "refused"):
            wait_until_reconciled(api_namespace, name)
        before = wait_until_settled(api_namespace)
        first.stop()
    with running_operator(api_namespace.cluster.kubeconfig, tmp_path, **variables) as second:
        eventually(lambda: check_reconcile_count(second, 3))
        assert wait_until_settled(api_namespace, 2) == before
    assert {reason for name in ("plain", "full", "refused") for reason, _ in api_namespace.events(name)} == {"Created"}


def check_reconcile_count(operator: OperatorProcess, consumers: int) -> None:
    counted = [
        line for line in operator.metrics().splitlines() if line.startswith("streamconsumer_operator_reconciles_total")
    ]
    assert sum(float(line.split()[-1]) for line in counted) >= consumers


def test_only_the_configured_namespaces_are_served(api_namespace: Namespace, tmp_path: Path) -> None:
    with (
        fresh_namespace(api_namespace.cluster) as second,
        fresh_namespace(api_namespace.cluster) as other,
        running_operator(
            api_namespace.cluster.kubeconfig, tmp_path, watch_namespaces=f"{api_namespace.name}, {second}"
        ),
    ):
        namespaces = [Namespace(api_namespace.cluster, name) for name in (api_namespace.name, second, other)]
        for namespace in namespaces:
            namespace.create(manifest())
        for namespace in namespaces[:2]:
            wait_until_reconciled(namespace, "orders")
        assert namespaces[2].get("StreamConsumer", "orders")["status"]["observedGeneration"] == -1
        assert namespaces[2].children("orders") == {}


def restricted(namespace: Namespace, folder: Path, *, clusterwide: bool) -> Path:
    """Write a kubeconfig with exactly the permissions that the chart and kustomize install, and return its path."""
    base = Path(__file__).parents[2] / "k8s" / "base"
    role = yaml.safe_load((base / "clusterrole.yaml").read_text())
    lead, leads = yaml.safe_load_all((base / "lead-role.yaml").read_text())
    prefix = "Cluster" if clusterwide else ""
    kind, name = f"{prefix}Role", f"operator-{namespace.name}"
    scope = {} if clusterwide else {"namespace": namespace.name}
    subject = {"kind": "ServiceAccount", "name": "operator", "namespace": namespace.name}
    namespace.cluster.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "operator", "namespace": namespace.name}},
        {**role, "kind": kind, "metadata": {"name": name, **scope}},
        {
            "apiVersion": role["apiVersion"],
            "kind": f"{kind}Binding",
            "metadata": {"name": name, **scope},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
            "subjects": [subject],
        },
        {**lead, "metadata": {**lead["metadata"], "namespace": namespace.name}},
        {**leads, "metadata": {**leads["metadata"], "namespace": namespace.name}, "subjects": [subject]},
    )
    config = json.loads(namespace.cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": namespace.kubectl("create", "token", "operator").strip()}
    path = folder / "restricted.kubeconfig"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("clusterwide", [True, False], ids=["in the cluster", "in one namespace"])
def test_the_installed_rbac_rules_are_sufficient(api_namespace: Namespace, tmp_path: Path, clusterwide: bool) -> None:
    kubeconfig = restricted(api_namespace, tmp_path, clusterwide=clusterwide)
    served = {} if clusterwide else {"watch_namespaces": api_namespace.name}
    lease = f"{api_namespace.name}/streamconsumer-operator"
    with running_operator(kubeconfig, tmp_path, lease=lease, **served) as operator:
        api_namespace.create(manifest(handler={"source": "x = 1"}, replicas=2))
        wait_until_reconciled(api_namespace, "orders")
        api_namespace.edit("orders", handler={"source": None, "python": "shop:handle"}, replicas=1)
        wait_until_reconciled(api_namespace, "orders", replicas=1)
        eventually(lambda: check_children(api_namespace, "ServiceAccount", "Deployment"))
        api_namespace.patch("Deployment", "orders-consumer", {"spec": {"replicas": 4}})
        wait_until_reconciled(api_namespace, "orders", replicas=1)
        api_namespace.delete("Deployment", "orders-consumer")
        wait_until_reconciled(api_namespace, "orders")
        eventually(lambda: check_reasons(api_namespace, "Created", "Pruned", "DriftRepaired"))
        assert operator.stop()[0] == 0
    assert [line for line in operator.unexpected_lines() if line.get("reason") != "DriftRepaired"] == []
    assert "forbidden" not in operator.log.read_text()


def check_children(namespace: Namespace, *kinds: str) -> None:
    assert set(namespace.children("orders")) == set(kinds)


def check_reasons(namespace: Namespace, *reasons: str) -> None:
    assert {reason for reason, _ in namespace.events("orders")} == set(reasons)


@pytest.fixture
def own_api(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    """A separate API server that a test may break, without the CRD."""
    with ApiServer() as server:
        yield server


@pytest.mark.cluster
def test_an_operator_that_starts_before_the_crd_waits_for_it(own_api: ApiServer, tmp_path: Path) -> None:
    operator = OperatorProcess(own_api.kubeconfig, tmp_path).start()
    try:
        eventually(lambda: check_logged(operator, "failed to list resources; retrying"))
        assert operator.exit_code is None
        install_crd(own_api)
        operator.wait_until_started()
        namespace = Namespace(own_api, "default")
        namespace.create(manifest())
        wait_until_reconciled(namespace, "orders")
    finally:
        operator.kill()


def check_logged(operator: OperatorProcess, message: str) -> None:
    assert operator.logged(message)


@pytest.mark.cluster
def test_an_operator_without_an_api_server_retries_and_stops_quickly(own_api: ApiServer, tmp_path: Path) -> None:
    config = json.loads(own_api.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{free_port()}"
    nowhere = tmp_path / "nowhere.kubeconfig"
    nowhere.write_text(json.dumps(config))
    operator = OperatorProcess(nowhere, tmp_path).start()
    try:
        eventually(lambda: check_logged(operator, "failed to list resources; retrying"))
        code, seconds = operator.stop()
        assert code == 0
        assert seconds < STOP_SECONDS
    finally:
        operator.kill()


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_changes_during_a_broken_watch_are_reconciled(own_api: ApiServer, tmp_path: Path) -> None:
    """A restarted API server has no history, so no watch reports the deletions afterwards."""
    install_crd(own_api)
    namespace = Namespace(own_api, "default")
    with running_operator(own_api.kubeconfig, tmp_path) as operator:
        for name in ("changed", "robbed", "deleted"):
            namespace.create(manifest(name))
        for name in ("changed", "robbed", "deleted"):
            wait_until_reconciled(namespace, name)
        wait_until_settled(namespace, 0.5)
        with frozen(operator):
            restart(own_api)
            namespace.edit("changed", batchCount=20)
            for kind, name in (
                ("Deployment", "robbed-consumer"),
                ("StreamConsumer", "deleted"),
                ("Deployment", "deleted-consumer"),
                ("ServiceAccount", "deleted-consumer"),
            ):
                namespace.delete(kind, name)
        wait_until_reconciled(namespace, "changed", within=100)
        wait_until_reconciled(namespace, "robbed", within=100)
        wait_until_settled(namespace, 3)
        assert namespace.find("Deployment", "deleted-consumer") is None
        namespace.create(manifest("deleted"))
        wait_until_reconciled(namespace, "deleted")
        assert operator.stop()[0] == 0


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_an_operator_continues_after_a_restart_of_the_api_server(own_api: ApiServer, tmp_path: Path) -> None:
    """A starting API server may leave an accepted watch without events. Such a watch ends after 70 s."""
    install_crd(own_api)
    namespace = Namespace(own_api, "default")
    with running_operator(own_api.kubeconfig, tmp_path) as operator:
        namespace.create(manifest())
        wait_until_reconciled(namespace, "orders")
        restart(own_api)
        namespace.edit("orders", replicas=0)
        wait_until_reconciled(namespace, "orders", within=100, replicas=0)
        assert operator.exit_code is None


BROKEN = """
import asyncio
from streamconsumer.operator import main

async def broken(_):
    await asyncio.sleep(1)
    raise RuntimeError("a programming error")

main.Resync.run = broken
main.run()
"""


def test_an_operator_whose_main_loop_fails_exits_with_the_error(api_namespace: Namespace, tmp_path: Path) -> None:
    """Kubernetes restarts a process that exits. A process that runs without working would go unnoticed for minutes."""
    operator = OperatorProcess(api_namespace.cluster.kubeconfig, tmp_path, watch_namespaces=api_namespace.name)
    operator.command = (sys.executable, "-c", BROKEN)
    try:
        operator.start().wait_until_started()
        eventually(lambda: check_exited(operator))
        assert operator.exit_code == 1
        assert "RuntimeError: a programming error" in operator.log.read_text()
    finally:
        operator.kill()


def check_exited(operator: OperatorProcess) -> None:
    assert operator.exit_code is not None


@contextmanager
def frozen(operator: OperatorProcess) -> Iterator[None]:
    """Freeze the operator for the duration of a block."""
    os.kill(operator.pid, signal.SIGSTOP)
    yield
    os.kill(operator.pid, signal.SIGCONT)


def restart(server: ApiServer) -> None:
    """Kill the API server and start it again with the same etcd."""
    program = server.programs["kube-apiserver"]
    program.kill()
    program.start()
    program.wait_until(server._is_ready, 30)


@pytest.mark.cluster
def test_an_invalid_resource_stalls_without_affecting_others(own_api: ApiServer, tmp_path: Path) -> None:
    """A CRD without rules, or of another version, accepts resources that the operator cannot reconcile."""
    loosened = custom_resource_definition()
    loosened["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }
    install_crd(own_api)
    own_api.apply(loosened)
    namespace = Namespace(own_api, "default")
    with running_operator(own_api.kubeconfig, tmp_path) as operator:

        def create() -> None:
            namespace.create(manifest("wrong", batchCount="many", redis={"url": "redis://:hunter2@redis"}))

        eventually_without_errors(create)
        namespace.create(manifest("right", replicas=2))
        wait_until_reconciled(namespace, "right", replicas=2)

        def stalled() -> dict[str, Manifest]:
            assert namespace.reason("wrong") == "InvalidSpec"
            return namespace.conditions("wrong")

        conditions = eventually(stalled)
        assert {kind: each["status"] for kind, each in conditions.items()} == {
            "Ready": "False",
            "Reconciling": "False",
            "Stalled": "True",
            "Suspended": "False",
        }
        assert "spec.batchCount is 'many': must be an integer" in conditions["Stalled"]["message"]
        assert (
            "hunter2" not in json.dumps(namespace.get("StreamConsumer", "wrong")["status"]) + operator.log.read_text()
        )
        assert namespace.children("wrong") == {}
        wait_until_settled(namespace, 0.5)
        assert [reason for reason, _ in namespace.events("wrong")] == ["InvalidSpec"]
        namespace.edit("wrong", batchCount=5, redis={"url": "redis://redis"})
        wait_until_reconciled(namespace, "wrong")
        namespace.patch("Deployment", "right-consumer", {"spec": {"replicas": 7}})
        wait_until_reconciled(namespace, "right", replicas=2)


def eventually_without_errors(act: Any) -> None:
    def tried() -> None:
        try:
            act()
        except ProgramFailed as failure:
            raise AssertionError(str(failure)) from None

    eventually(tried)


def test_a_damaged_status_is_restored(api_namespace: Namespace, tmp_path: Path) -> None:
    with running_operator(api_namespace.cluster.kubeconfig, tmp_path, watch_namespaces=api_namespace.name):
        api_namespace.create(manifest())
        wait_until_reconciled(api_namespace, "orders")
        wait_until_settled(api_namespace, 0.5)
        api_namespace.patch("StreamConsumer", "orders", {"status": None}, "/status")

        def restored() -> None:
            assert set(api_namespace.conditions("orders")) - set(STREAM_CONDITIONS) == {
                "Ready",
                "Reconciling",
                "Stalled",
                "Suspended",
            }

        eventually(restored)
        before = wait_until_settled(api_namespace)
        foreign = {
            "type": "Synced",
            "status": "True",
            "reason": "ByTool",
            "message": "",
            "lastTransitionTime": "2026-11-24T12:00:00Z",
        }
        own = list(api_namespace.conditions("orders").values())
        api_namespace.patch("StreamConsumer", "orders", {"status": {"conditions": [*own, foreign]}}, "/status")
        after = wait_until_settled(api_namespace)
        changed = [uid for uid in after if after[uid] != before[uid]]
        assert changed == [api_namespace.get("StreamConsumer", "orders")["metadata"]["uid"]]
        assert set(api_namespace.conditions("orders")) - set(STREAM_CONDITIONS) == {
            "Ready",
            "Reconciling",
            "Stalled",
            "Suspended",
            "Synced",
        }


def test_the_selector_in_the_status_equals_the_one_of_the_deployment(api_namespace: Namespace, tmp_path: Path) -> None:
    with running_operator(api_namespace.cluster.kubeconfig, tmp_path, watch_namespaces=api_namespace.name):
        api_namespace.create(manifest())
        live = wait_until_reconciled(api_namespace, "orders")
        (label,) = live["spec"]["selector"]["matchLabels"].items()
        assert api_namespace.get("StreamConsumer", "orders")["status"]["selector"] == "=".join(label)
        assert label == (names.LABEL_CONSUMER, "orders")


def test_any_unicode_character_of_a_source_reaches_the_config_map_unchanged(
    api_namespace: Namespace, tmp_path: Path
) -> None:
    source = "text = '🦊 é \x7f \x85 \u2028 \ufeff \\ud83e'\n\ndef handle(data): ..."
    with running_operator(api_namespace.cluster.kubeconfig, tmp_path, watch_namespaces=api_namespace.name):
        api_namespace.create(manifest(handler={"source": source}))
        (config_map,) = eventually(lambda: [api_namespace.children("orders")["ConfigMap"]])
        assert config_map["data"] == {"handler_source.py": source}
