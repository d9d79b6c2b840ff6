"""Minutes of faults on a control plane with many StreamConsumers: the operator reconciles them all, and then rests.

The API server, the controllers, the scheduler, Redis, and the operator with its ServiceAccount and its RBAC rules are
real. The test writes the statuses of the pods in place of a kubelet. Use `pytest -s` to see the measured figures.
"""

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from streamconsumer.model import names
from tests.charts.rendering import Helm
from tests.cluster.control_plane import ControlPlane
from tests.cluster.credentials import User
from tests.cluster.errors import ProgramFailed
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.model.examples import Manifest
from tests.operator.conftest import install_crd
from tests.operator.namespace import Namespace, eventually
from tests.operator.node_stand_in import NodeStandIn, is_ready
from tests.operator.operator_process import OperatorProcess, running_operator
from tests.operator.redis_operator import manifest_for, redis_client
from tests.operator.test_admission_overrides import OVERRIDES, mutating_policy
from tests.operator.test_etcd_restore import start_cluster, stop_cluster
from tests.operator.test_namespaces import check_served
from tests.operator.test_rbac import ACCOUNT
from tests.operator.test_unreachable_webhook import WEBHOOK, unreachable_webhook

HOME = "operator-home"
"""The namespace of the operator's ServiceAccount."""

NAMESPACES = ("overridden", "refused", "evicted", "webhook", "edited", "quiet")
"""The watched namespaces, each with its fault. A restored backup of etcd affects all of them."""

FIRST_BATCH_COUNT = 20
"""The first value of spec.batchCount. The operator passes values other than the default to the pods."""

OVERRIDDEN_IMAGE = "mirror.example/"
"""The start of the images that the mutating policy sets."""

RETRIED_WATCH = "Request attempt #"
"""The start of the error that kopf logs before it repeats the request for a watch, for example after HTTP 429."""

CONTROLLERS = ("kube-controller-manager", "kube-scheduler")
MAX_MEBIBYTES = 250
WRITES = ("create", "update", "patch", "delete")

QUIET_SECONDS = 8.0
"""The time without a write after which the operator is expected to be at rest."""


@dataclass(frozen=True)
class Size:
    """The number of StreamConsumers, the duration of the test, and the time limit of each recovery."""

    consumers: int
    seconds: float
    webhook_seconds: float
    rest_seconds: float
    timeout: float


SIZES = {
    "small": Size(consumers=24, seconds=60, webhook_seconds=15, rest_seconds=3, timeout=120),
    "full": Size(consumers=300, seconds=600, webhook_seconds=60, rest_seconds=15, timeout=240),
}


@dataclass
class Soak:
    """A control plane with six watched namespaces, the operator, and the figures that the test prints."""

    cluster: ControlPlane
    operator: OperatorProcess
    node: NodeStandIn
    redis: RedisServer
    size: Size
    batch_counts: dict[tuple[str, str], int] = field(default_factory=dict)
    """The last value of spec.batchCount of each StreamConsumer, by namespace and name."""
    began_seconds: float = field(default_factory=time.monotonic)
    _audit_position: int = 0
    _reconciles: Counter[str] = field(default_factory=Counter)

    def namespace(self, name: str) -> Namespace:
        return Namespace(self.cluster, name)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began_seconds

    def create(self) -> None:
        """Create the StreamConsumers, and their consumer groups as their pods do. Every tenth has two pods."""
        lists: dict[str, list[Manifest]] = {name: [] for name in NAMESPACES}
        with closing(redis_client(self.redis)) as redis, redis.pipeline() as pipeline:
            for number in range(self.size.consumers):
                name, namespace = f"orders-{number}", NAMESPACES[number % len(NAMESPACES)]
                pipeline.xgroup_create(name, "billing", "0", mkstream=True)
                replicas = 2 if number % 10 == 0 else 1
                made = manifest_for(self.redis, name, stream=name, replicas=replicas, batchCount=FIRST_BATCH_COUNT)
                made["metadata"]["namespace"] = namespace
                lists[namespace].append(made)
                self.batch_counts[namespace, name] = FIRST_BATCH_COUNT
            pipeline.execute()
        for items in lists.values():
            self.cluster.kubectl(
                "create", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
            )

    def edit(self, *namespaces: str) -> None:
        """Change every StreamConsumer of the namespaces. Each change replaces the pods."""
        for (namespace, name), count in self.batch_counts.items():
            if namespace in namespaces:
                self.namespace(namespace).edit(name, batchCount=count + 1)
                self.batch_counts[namespace, name] = count + 1

    def check_ready(self, *namespaces: str) -> None:
        """Check that all StreamConsumers of the namespaces are reconciled and Ready, by the statuses of their pods."""
        for name in namespaces:
            namespace = self.namespace(name)
            resources = {each["metadata"]["name"]: each for each in namespace.list_all("StreamConsumer")}
            assert resources.keys() == {each for owner, each in self.batch_counts if owner == name}
            for resource in resources.values():
                check_resource(resource)
            deployments = {each["metadata"]["name"]: each for each in namespace.list_all("Deployment")}
            ready = Counter(
                pod["metadata"]["labels"][names.LABEL_CONSUMER] for pod in namespace.list_all("Pod") if is_ready(pod)
            )
            for each, resource in resources.items():
                check_deployment(deployments[f"{each}-consumer"], self.batch_counts[name, each])
                assert ready[each] == resource["spec"]["replicas"]

    def wait_until_ready(self, *namespaces: str) -> float:
        """Wait until all StreamConsumers of the namespaces are Ready. Returns the seconds."""
        began = time.monotonic()
        eventually(lambda: self.check_ready(*namespaces), self.size.timeout, pause=0.5)
        return time.monotonic() - began

    def new_requests(self) -> list[Manifest]:
        """Return the operator's writes since the last call, from the audit log of the API server."""
        with self.cluster.audit_log.open("rb") as log:
            log.seek(self._audit_position)
            text = log.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._audit_position += len(complete)
        user = f"system:serviceaccount:{HOME}:{ACCOUNT}"
        lines = (json.loads(line) for line in complete.splitlines())
        return [each for each in lines if each["user"]["username"] == user and is_write(each)]

    def versions(self) -> dict[str, str]:
        return {uid: version for name in NAMESPACES for uid, version in self.namespace(name).versions().items()}

    def report(self, phase: str, seconds: float, note: str = "") -> None:
        """Print what the phase has cost, then rest, and check that the operator writes nothing at rest."""
        requests = self.new_requests()
        while more := self._requests_within(QUIET_SECONDS):
            requests += more
        before = self.versions()
        assert self._requests_within(self.size.rest_seconds) == []
        assert self.versions() == before
        assert self.operator.exit_code is None
        done = [each for each in requests if each["responseStatus"]["code"] < 400]
        objects, total = Counter(map(target, done)), reconciles(self.operator)
        print(
            f"{self.seconds:5.0f} s  {phase}: all Ready after {seconds:.1f} s; {len(done)} writes to {len(objects)} "
            f"objects ({max(objects.values(), default=0)} at most), {len(requests) - len(done)} refused; "
            f"reconciles {dict(total - self._reconciles)}; {self.operator.resident_mebibytes():.0f} MiB; "
            f"at rest 0 writes in {self.size.rest_seconds:.0f} s{note}",
            flush=True,
        )
        self._reconciles = total

    def _requests_within(self, seconds: float) -> list[Manifest]:
        time.sleep(seconds)
        return self.new_requests()


def check_resource(resource: Manifest) -> None:
    status, name = resource.get("status", {}), resource["metadata"]["name"]
    assert status.get("observedGeneration") == resource["metadata"]["generation"], name
    conditions = {each["type"]: each for each in status["conditions"]}
    found = conditions["Ready"]["status"], conditions["Ready"]["reason"], conditions["Reconciling"]["status"]
    assert found == ("True", "AllPodsReady", "False"), f"{name}: {conditions}"


def check_deployment(deployment: Manifest, batch_count: int) -> None:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    values = {each["name"]: each.get("value") for each in container["env"]}
    assert values["STREAMCONSUMER_BATCH_COUNT"] == str(batch_count)
    status = deployment["status"]
    assert status["observedGeneration"] == deployment["metadata"]["generation"]
    assert status["availableReplicas"] == status["updatedReplicas"] == deployment["spec"]["replicas"]


def is_write(request: Manifest) -> bool:
    """Return True for a request that changes an object. An access review changes nothing."""
    return request["verb"] in WRITES and not request["objectRef"].get("apiGroup", "").startswith("auth")


def target(request: Manifest) -> tuple[str, str, str]:
    """Return the object of the request. The name of a new Event is in the response only."""
    ref = request["objectRef"]
    return ref["namespace"], ref["resource"], ref.get("name", request["auditID"])


def reconciles(operator: OperatorProcess) -> Counter[str]:
    """Return the number of reconciles by outcome."""
    found = re.findall(r'reconciles_total\{outcome="(\w+)"\} (\S+)', operator.metrics())
    return Counter({outcome: round(float(count)) for outcome, count in found})


def peak_mebibytes(operator: OperatorProcess) -> float:
    """Return the largest resident memory of the operator since its start."""
    (kibibytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{operator.pid}/status").read_text())
    return int(kibibytes) / 1024


@pytest.fixture(params=[pytest.param(size, id=name) for name, size in SIZES.items()])
def soak(request: pytest.FixtureRequest, tmp_path: Path, start_redis: StartRedis) -> Iterator[Soak]:
    """The operator with the ServiceAccount and the RBAC rules of the chart, on its own control plane."""
    with ExitStack() as stack:
        cluster = stack.enter_context(ControlPlane())
        install_crd(cluster)
        for name in (HOME, *NAMESPACES):
            cluster.kubectl("create", "namespace", name)
        cluster.apply(*permissions())
        node = stack.enter_context(NodeStandIn(cluster))
        watched = ",".join(NAMESPACES)
        kubeconfig = operator_kubeconfig(cluster, tmp_path)
        # An operator with a Lease ends, as every leader does, if the API server is down for longer than the Lease.
        operator = stack.enter_context(running_operator(kubeconfig, tmp_path, watch_namespaces=watched))
        yield Soak(cluster, operator, node, start_redis(), request.param)


def permissions() -> list[Manifest]:
    values = f"watchNamespaces={{{','.join(NAMESPACES)}}}"
    rendered = Helm("helm").template("--namespace", HOME, "--set", values)
    return [each for each in rendered if each["kind"] in ("ServiceAccount", "Role", "RoleBinding")]


def operator_kubeconfig(cluster: ControlPlane, folder: Path) -> Path:
    path = f"/api/v1/namespaces/{HOME}/serviceaccounts/{ACCOUNT}/token"
    token = cluster.request("POST", path, {"spec": {}})["status"]["token"]
    return cluster.credentials.write_kubeconfig(folder / "kubeconfig", cluster.url, User(token, ACCOUNT, ""))


@contextmanager
def stopped_cluster(cluster: ControlPlane) -> Iterator[Path]:
    """Stop all programs of the control plane during a block, and start them again. Yields the data folder of etcd."""
    for name in CONTROLLERS:
        cluster.programs[name].kill()
    stop_cluster(cluster)
    yield cluster.directory / "etcd"
    start_cluster(cluster)
    for name in CONTROLLERS:
        cluster.programs[name].start()


def timed(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def lose_permission(soak: Soak) -> None:
    """Delete a RoleBinding for good. The StreamConsumers of its namespace are edited in vain."""
    refused = soak.namespace("refused")
    refused.kubectl("delete", "rolebinding", ACCOUNT)
    soak.edit(*NAMESPACES)
    seconds = soak.wait_until_ready(*others("refused"))
    not_served = timed(lambda: eventually(lambda: check_served(soak.operator, refused, expected=False), 120))
    soak.report("RoleBinding lost, all edited", seconds, f"; not served {not_served:.0f} s later")


def evict_pods(soak: Soak) -> None:
    count = soak.node.evict(soak.namespace("evicted"))
    soak.report(f"{count} pods evicted", soak.wait_until_ready(*others("refused")))


def leave_webhook_unreachable(soak: Soak) -> None:
    """Edit StreamConsumers while the API server refuses all writes of their Deployments, and of others."""
    namespace = soak.namespace("webhook")
    with unreachable_webhook(namespace):
        ends = time.monotonic() + soak.size.webhook_seconds
        eventually(lambda: check_refuses(namespace))
        soak.edit("webhook", "quiet")
        during = soak.wait_until_ready(*others("refused", "webhook"))
        eventually(lambda: check_reported(namespace), soak.size.timeout)
        time.sleep(max(0.0, ends - time.monotonic()))
    seconds = soak.wait_until_ready(*others("refused"))
    note = f"; other namespaces were Ready after {during:.1f} s"
    soak.report(f"webhook unreachable for {soak.size.webhook_seconds:.0f} s", seconds, note)


def check_refuses(namespace: Namespace) -> None:
    """Check that the API server, which learns of webhooks in the background, refuses the write of a Deployment."""
    name = namespace.list_all("Deployment")[0]["metadata"]["name"]
    try:
        namespace.patch("Deployment", name, {"spec": {"paused": True}}, "?dryRun=All")
    except ProgramFailed as refusal:
        assert WEBHOOK in str(refusal)  # noqa: PT017 -- `eventually` repeats the check
    else:
        raise AssertionError("the API server does not ask the webhook yet")


def check_reported(namespace: Namespace) -> None:
    for resource in namespace.list_all("StreamConsumer"):
        ready = next(each for each in resource["status"]["conditions"] if each["type"] == "Ready")
        assert ready["reason"] == "ReconcileFailed"
        assert WEBHOOK in ready["message"]


@dataclass(frozen=True)
class Backup:
    """A copy of etcd, and the state of the StreamConsumers at that time."""

    folder: Path
    batch_counts: dict[tuple[str, str], int]
    versions: dict[str, str]


def back_up(soak: Soak, folder: Path) -> Backup:
    """Copy etcd while the control plane is stopped."""
    backup = Backup(folder / "backup", dict(soak.batch_counts), soak.versions())
    with stopped_cluster(soak.cluster) as etcd:
        shutil.copytree(etcd, backup.folder)
    soak.edit("edited")
    soak.report("control plane restarted, one namespace edited", soak.wait_until_ready(*NAMESPACES))
    return backup


def restore(soak: Soak, backup: Backup) -> None:
    """Restore etcd. The namespace without a RoleBinding gets it back, because the backup contains it."""
    with stopped_cluster(soak.cluster) as etcd:
        shutil.rmtree(etcd)
        shutil.copytree(backup.folder, etcd)
    soak.batch_counts = dict(backup.batch_counts)
    refused = soak.namespace("refused")
    served = timed(lambda: eventually(lambda: check_served(soak.operator, refused, expected=True), 120))
    note = f"; all namespaces served after {served:.0f} s"
    soak.report("etcd restored", soak.wait_until_ready(*NAMESPACES), note)
    assert soak.versions() == backup.versions
    soak.edit(*NAMESPACES)
    soak.report("all edited", soak.wait_until_ready(*NAMESPACES))


def others(*excluded: str) -> list[str]:
    return [name for name in NAMESPACES if name not in excluded]


def rest_until_the_end(soak: Soak) -> None:
    seconds = max(soak.size.rest_seconds, soak.size.seconds - soak.seconds)
    before = soak.versions()
    time.sleep(seconds)
    assert soak.new_requests() == []
    assert soak.versions() == before
    for each in soak.namespace("overridden").list_all("Deployment"):
        (container,) = each["spec"]["template"]["spec"]["containers"]
        assert container["image"].startswith(OVERRIDDEN_IMAGE)
    lines = Counter((each.get("severity"), each["message"]) for each in soak.operator.unexpected_lines())
    peak = peak_mebibytes(soak.operator)
    print(f"{soak.seconds:5.0f} s  0 writes in the last {seconds:.0f} s; peak {peak:.0f} MiB; log: {dict(lines)}")
    assert soak.operator.exit_code is None
    assert [text for severity, text in lines if severity != "warn" and not text.startswith(RETRIED_WATCH)] == []
    assert peak < MAX_MEBIBYTES


@pytest.mark.cluster
@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_streamconsumers_are_reconciled_after_each_fault_and_cause_no_writes_at_rest(
    soak: Soak, tmp_path: Path
) -> None:
    patch, _ = OVERRIDES["another image for each write"]
    print()
    with mutating_policy(soak.namespace("overridden"), patch):
        soak.create()
        soak.report(f"{soak.size.consumers} created", soak.wait_until_ready(*NAMESPACES))
        backup = back_up(soak, tmp_path)
        lose_permission(soak)
        evict_pods(soak)
        leave_webhook_unreachable(soak)
        restore(soak, backup)
        rest_until_the_end(soak)
