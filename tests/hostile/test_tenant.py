"""A tenant who may only write StreamConsumers and Secrets in one namespace, and attacks every text field.

The resources are created twice: by the tenant's user, past our CRD and our policy, and by the administrator after the
CRD has lost its rules, as if an older version had stored the resources.
"""

import json
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.hostile.administrator import TERMINAL_CONTROLS, Ran, run_command, run_report
from tests.hostile.attacks import OWN_KEYS, OWN_SECRET, Attack, Canaries, sample, url_values
from tests.hostile.behaviours import server
from tests.hostile.canaries import CanarySocket, OpenDetector
from tests.hostile.measured_operator import MAX_MEBIBYTES, MeasuredOperator, Record, is_unhandled, measured_operator
from tests.hostile.redis_server import HOST, HostileServers
from tests.hostile.shared_cluster import (
    TENANT,
    VICTIM,
    SharedCluster,
    TenantSession,
    secret,
    shared_cluster,
    wait_until_policy_is_active,
)
from tests.model.examples import manifest
from tests.operator.namespace import Namespace, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

CANARY = "canary-9d2c41f0-payroll"
FILE_CANARY = "canary-5e07b3aa-file"
LEAKS = (CANARY, FILE_CANARY, b64encode(CANARY.encode()).decode())
RECORDER = "recorder"
"""The name of the tenant's Redis server, which records everything that it receives."""

SETTLE_SECONDS = 3.0
"""Time for two more polls of each server after every resource has a condition."""


@dataclass
class Outcome:
    """Everything that was observed during the attacks."""

    accepted: list[Attack] = field(default_factory=list)
    """Attacks that CRD and policy accepted."""
    stored: int = 0
    received: bytes = b""
    objects: str = ""
    """All objects of the tenant's namespace, and the texts of the operator: metrics and log."""
    messages: Sequence[str] = ()
    """The texts of all conditions and Events."""
    opened_files: int = 0
    socket_connections: int = 0
    forbidden_requests: Sequence[str] = ()
    unserved: Sequence[str] = ()
    log_problems: Sequence[str] = ()
    long_callbacks: Sequence[Record] = ()
    blocking_calls: Sequence[Record] = ()
    peak_mebibytes: float = 0
    scrapes: Sequence[int] = ()
    victim_is_served: bool = False
    commands: list[Ran] = field(default_factory=list)


@pytest.fixture(scope="module", params=[2, pytest.param(30, marks=pytest.mark.chaos)])
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    folder = tmp_path_factory.mktemp("tenant")
    canary_file = folder / "canary.pem"
    canary_file.write_text(FILE_CANARY)
    with (
        shared_cluster() as cluster,
        HostileServers({RECORDER: server()}) as servers,
        OpenDetector(canary_file) as opened,
        CanarySocket(folder / "canary.sock") as unix_socket,
    ):
        canaries = Canaries(VICTIM, "payroll", canary_file, folder / "canary.sock", f"{HOST}:{cluster.server.port}")
        address = f"{HOST}:{servers.ports[RECORDER]}"
        attacks = sample(canaries, address, request.param)
        outcome = Outcome()
        create_victim(cluster.victim)
        with measured_operator(cluster.operator_kubeconfig(folder), folder, stream_interval="1s") as operator:
            since = time.monotonic()
            attack(cluster, attacks, url_values(canaries, address), address, outcome)
            wait_until_processed(cluster.tenant, operator)
            outcome.unserved = unserved(cluster.tenant)
            outcome.victim_is_served = serves_victim(cluster.victim)
            outcome.scrapes = [operator.get(path)[0] for path in ("metrics", "livez")]
            outcome.objects = all_objects(cluster.tenant) + operator.metrics() + operator.log.read_text()
            outcome.messages = messages(cluster.tenant)
            outcome.commands += administrate(cluster.tenant, folder)
            outcome.log_problems = [str(each)[:1500] for each in operator.lines() if is_unhandled(each)]
            outcome.long_callbacks, outcome.blocking_calls = (
                operator.long_callbacks(since),
                operator.blocking_calls(since),
            )
            outcome.peak_mebibytes = operator.peak_mebibytes()
        outcome.received = servers.all_received()
        outcome.opened_files, outcome.socket_connections = opened.count(), unix_socket.count()
        outcome.forbidden_requests = sorted(set(cluster.forbidden_requests()))
        yield outcome


def create_victim(namespace: Namespace) -> None:
    """Create a Secret that no StreamConsumer refers to, and a StreamConsumer without Secrets."""
    for kind in ("secrets", "configmaps"):
        item = secret("payroll", {"password": CANARY, "value": CANARY, "tls.crt": CANARY, "tls.key": CANARY})
        if kind == "configmaps":
            item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": item["metadata"], "data": {"value": CANARY}}
        namespace.cluster.request("POST", f"/api/v1/namespaces/{namespace.name}/{kind}", item)
    namespace.create(manifest("victim", replicas=1))


def attack(
    cluster: SharedCluster, attacks: Sequence[Attack], urls: Sequence[str], address: str, outcome: Outcome
) -> None:
    """Create the resources of all attacks, first with our CRD and policy, then without."""
    session = TenantSession(cluster.server)
    wait_until_policy_is_active(session)
    assert session.create(secret(OWN_SECRET, OWN_KEYS), user=None) == ""
    for number, each in enumerate(attacks):
        if not session.create(each.manifest(f"valid-{number}", url_of(number, address))):
            outcome.accepted.append(each)
    for number, url in enumerate(urls):
        session.create(secret(f"url-{number}", {"url": url}), user=None)
        redis = {"urlSecretRef": {"name": f"url-{number}", "key": "url"}}
        assert session.create(manifest(f"secret-url-{number}", redis=redis)) == ""
    outcome.stored = len(attacks) + len(urls)
    cluster.accept_everything()
    for number, each in enumerate(attacks):
        eventually(partial(store, session, each, number, address))
    session.close()


def url_of(number: int, address: str) -> str:
    """Return the URL of the tenant's server with a database that identifies the attack."""
    return f"redis://{address}/{number + 1}"


def store(session: TenantSession, attack: Attack, number: int, address: str) -> None:
    error = session.create(attack.manifest(f"stored-{number}", url_of(number, address)), user=None)
    assert error == "" or "already exists" in error, error[:500]


def wait_until_processed(namespace: Namespace, operator: MeasuredOperator) -> None:
    """Wait until every resource is served, or until the operator has stopped to make progress."""
    deadline, before = time.monotonic() + 30, len(unserved(namespace))
    while before and time.monotonic() < deadline and operator.exit_code is None:
        time.sleep(1)
        now = len(unserved(namespace))
        if now < before:
            deadline, before = time.monotonic() + 30, now
    time.sleep(SETTLE_SECONDS)


def unserved(namespace: Namespace) -> list[str]:
    """Return the resources without a Ready condition for their generation."""
    return [
        each["metadata"]["name"]
        for each in namespace.list_all("StreamConsumer")
        if not any(
            condition["type"] == "Ready" and condition.get("reason")
            for condition in each.get("status", {}).get("conditions", [])
        )
    ]


def serves_victim(namespace: Namespace) -> bool:
    """Return True if an edit of the victim's StreamConsumer is still applied."""
    namespace.edit("victim", replicas=2)

    def check() -> None:
        assert namespace.get("Deployment", "victim-consumer")["spec"]["replicas"] == 2

    try:
        eventually(check)
    except (AssertionError, KeyError):
        return False
    return True


def all_objects(namespace: Namespace) -> str:
    """Return every object of the tenant's namespace that the operator can write, as JSON."""
    kinds = ("StreamConsumer", "Deployment", "ConfigMap", "ServiceAccount", "Event", "PodDisruptionBudget")
    return json.dumps([namespace.list_all(kind) for kind in kinds], ensure_ascii=False)


def messages(namespace: Namespace) -> list[str]:
    resources = namespace.list_all("StreamConsumer")
    conditions = [each for item in resources for each in item.get("status", {}).get("conditions", [])]
    return [each.get("message", "") for each in conditions] + [each["note"] for each in namespace.list_all("Event")]


def administrate(namespace: Namespace, folder: Path) -> list[Ran]:
    some = [each["metadata"]["name"] for each in namespace.list_all("StreamConsumer")][::400]
    return [
        run_command(namespace, folder, "status", "-A"),
        run_command(namespace, folder, "status", "-A", "-o", "json"),
        *(run_report(namespace, folder, name, "-n", TENANT, "--logs") for name in some),
        *(run_command(namespace, folder, "doctor", name, "-n", TENANT) for name in some),
    ]


def test_no_secret_of_another_namespace_reaches_the_tenants_server(outcome: Outcome) -> None:
    assert [canary for canary in LEAKS if canary.encode() in outcome.received] == []


def test_no_canary_reaches_an_object_a_log_or_a_metric(outcome: Outcome) -> None:
    assert [canary for canary in LEAKS if canary in outcome.objects] == []


def test_no_attack_opens_a_file(outcome: Outcome) -> None:
    assert outcome.opened_files == 0


def test_no_attack_connects_to_a_unix_socket(outcome: Outcome) -> None:
    assert outcome.socket_connections == 0


def test_the_operator_sends_no_request_outside_the_tenants_namespace(outcome: Outcome) -> None:
    assert outcome.forbidden_requests == []


def test_no_name_becomes_a_command_of_redis(outcome: Outcome) -> None:
    assert b"\r\nFLUSHALL\r\n" not in outcome.received


def test_every_resource_gets_a_condition(outcome: Outcome) -> None:
    assert outcome.unserved == []


def test_the_victim_is_still_served(outcome: Outcome) -> None:
    assert (outcome.victim_is_served, outcome.scrapes) == (True, [200, 200])


def test_the_log_of_the_operator_contains_no_unhandled_error(outcome: Outcome) -> None:
    assert outcome.log_problems == []


def test_no_condition_and_no_event_contains_terminal_controls(outcome: Outcome) -> None:
    found = {control for control in TERMINAL_CONTROLS for message in outcome.messages if control in message}
    assert found == set()


def test_the_operator_stays_below_its_memory_limit(outcome: Outcome) -> None:
    print(f"{outcome.peak_mebibytes:.0f} MiB, {len(outcome.accepted)} of {outcome.stored} attacks accepted")
    assert outcome.peak_mebibytes < MAX_MEBIBYTES


def test_no_callback_of_the_event_loop_needs_more_than_100_ms(outcome: Outcome) -> None:
    assert outcome.long_callbacks == []


def test_the_event_loop_makes_no_blocking_call(outcome: Outcome) -> None:
    assert outcome.blocking_calls == []


def test_commands_of_an_administrator_work_and_leak_nothing(outcome: Outcome) -> None:
    for ran in outcome.commands:
        print(f"{ran.command}: {ran.seconds:.1f} s, {ran.peak_mebibytes:.0f} MiB, exit code {ran.code}")
    assert [problem for ran in outcome.commands for problem in ran.problems(LEAKS)] == []
