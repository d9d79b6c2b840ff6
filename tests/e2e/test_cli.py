"""`kubectl streamconsumer …` as a user runs it outside the cluster, for working and broken StreamConsumers."""

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.cli.plugin import SCRIPTS, CompletedCommand, run_plugin
from tests.cluster.api_server import ApiServer
from tests.cluster.binaries import find
from tests.e2e.shop import CHART, NAMESPACE, SYSTEM, Shop, eventually
from tests.e2e.test_upgrades import consumer
from tests.operator.namespace import Namespace

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

REJECTING = """
from streamconsumer.processor import Reject

def handle(data):
    raise Reject("no such customer")
"""
COLLECTOR = {"endpoint": "http://collector:4318"}


@pytest.fixture(scope="module")
def picky(shop: Shop) -> Iterator[Shop]:
    """Install the chart, and run a consumer whose handler has rejected one message."""
    shop.cluster.helm(
        *("upgrade", "--install", "streamconsumer", str(CHART), "--namespace", SYSTEM, "--create-namespace"),
        *("--wait", "--timeout", "90s", "--set", f"rbac.secretNamespaces={{{NAMESPACE}}}"),
    )
    shop.apply(consumer("picky", handler={"source": REJECTING}, replicas=1, telemetry=COLLECTOR))
    shop.wait_ready("picky")
    shop.redis("XADD", "picky", "*", "customer", "4711")
    eventually("the message is settled", lambda: shop.drained("picky"))
    # The pod creates the group, and the operator polls the stream every 15 s.
    eventually("the operator sees the group", lambda: shop.condition("picky", "GroupReady").get("status") == "True")
    yield shop
    shop.kubectl("delete", "stc", "--all")


def run_command(shop: Shop, *arguments: str) -> CompletedCommand:
    """Run the kubectl plugin, with kubectl on PATH."""
    path = os.pathsep.join([str(find("kubectl").parent), str(SCRIPTS), os.environ["PATH"]])
    return run_plugin(Namespace(cast("ApiServer", shop.cluster), NAMESPACE), *arguments, PATH=path)


def document(ran: CompletedCommand) -> Any:
    assert ran.stdout, ran.stderr
    return json.loads(ran.stdout)


def findings_text(diagnosis: Any) -> str:
    """Return all findings of doctor as one text."""
    verdicts = [diagnosis[part] for part in ("cluster", "pod") if diagnosis[part]]
    return json.dumps([finding for verdict in verdicts for finding in verdict["findings"]])


def other_findings(findings: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return all findings, except those about the new dead letter, which the operator reports a little later, and about
    the version of the installed Redis server."""
    expected = ("DeadLettersGrowing: ", "1 dead letter")
    return [each for each in findings if each["object"] != "Redis version" and not each["found"].startswith(expected)]


def test_status_shows_a_running_consumer_with_values_from_the_operator(picky: Shop) -> None:
    ran = run_command(picky, "status", "picky", "-o", "json")
    (found,) = document(ran)["streamConsumers"]
    assert other_findings(found["findings"]) == []
    assert [pod["ready"] for pod in found["pods"]] == [True]
    assert found["redis"]["source"] == "operator"  # `redis` is a name that only pods know
    assert "redis" in found["redis"]["problem"]


def test_doctor_runs_checks_in_a_pod_and_finds_no_problem(picky: Shop) -> None:
    ran = run_command(picky, "doctor", "picky", "-o", "json")
    found = document(ran)
    assert other_findings(found["cluster"]["findings"] + found["pod"]["findings"]) == []
    assert found["pod"]["name"] == picky.ready_pods("picky")[0]
    checked = {each["object"]: each["found"] for each in found["pod"]["passed"]}
    assert checked["Redis permissions"] == "the user has every required permission"
    assert checked["group 'tests' of 'picky'"] == "exists"
    assert any(name.startswith("collector http://collector:4318") for name in checked)


def test_report_archive_has_metrics_and_logs_of_each_pod_and_of_the_operator(picky: Shop, tmp_path: Path) -> None:
    archive = tmp_path / "bundle.tar.gz"
    ran = run_command(picky, "report", "picky", "--logs", "-o", str(archive))
    assert ran.returncode == 0, ran.stderr
    with tarfile.open(archive) as files:
        names = {each.name.partition("/")[2] for each in files}
        contents = files.extractfile("streamconsumer-report/contents.json")
        left_out = json.load(contents)["leftOut"] if contents else None
    pod = picky.ready_pods("picky")[0]
    folder = f"{NAMESPACE}/picky"
    assert {f"{folder}/metrics/{pod}.json", f"{folder}/logs/{pod}-processor.log"} <= names, left_out
    assert any(name.startswith("operator/metrics/") for name in names), left_out
    assert any(name.startswith("operator/logs/") for name in names), left_out


def test_dead_letters_are_listed_in_a_pod_when_only_pods_reach_redis(picky: Shop) -> None:
    ran = run_command(picky, "dead-letters", "list", "--name", "picky")
    assert ran.returncode == 3, ran.stdout
    assert "run the command in a pod" in ran.stderr
    command = ("exec", "deploy/picky-consumer", "--", "streamconsumer", "dead-letters", "list")
    assert "no such customer" in picky.kubectl(*command)


def test_doctor_and_condition_report_a_wrong_password(picky: Shop) -> None:
    picky.redis("ACL", "SETUSER", "locked", "on", ">the-right-one", "~*", "&*", "+@all")
    values = ("--from-literal=user=locked", "--from-literal=word=not-this-one")
    picky.kubectl("create", "secret", "generic", "locked", *values)
    refs = {"username": "user", "password": "word"}
    login = {f"{field}SecretRef": {"name": "locked", "key": key} for field, key in refs.items()}
    picky.apply(consumer("locked", redis={"url": "redis://redis:6379/0", **login}, replicas=1))
    is_reported = lambda: picky.condition("locked").get("reason") == "RedisUnusable"  # noqa: E731
    eventually("the condition reports the reason", is_reported)
    assert "the user name or the password is wrong" in picky.condition("locked")["message"]
    ran = run_command(picky, "doctor", "locked", "-o", "json")
    found = document(ran)
    assert ran.returncode == 1
    assert found["pod"], "a pod that is not ready can run the checks as well"
    assert "the password is wrong" in findings_text(found)
    assert "not-this-one" not in ran.stdout + ran.stderr + picky.kubectl("get", "stc,events", "-o", "yaml")


def test_doctor_reports_a_handler_that_cannot_be_imported(picky: Shop) -> None:
    picky.apply(consumer("absent", handler={"python": "shop.billing:handle"}, replicas=1))
    is_reported = lambda: picky.condition("absent").get("reason") == "HandlerUnusable"  # noqa: E731
    eventually("the condition reports it", is_reported)
    ran = run_command(picky, "doctor", "absent", "-o", "json")
    assert ran.returncode == 1
    assert "module 'shop' not found" in findings_text(document(ran))
