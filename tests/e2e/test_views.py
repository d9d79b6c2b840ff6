"""`kubectl streamconsumer …` as a person types it, outside the cluster: what runs well, and what is broken."""

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
from tests.operator.places import Namespace

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PICKY = """
from streamconsumer.processor import Reject

def handle(data):
    raise Reject("no such customer")
"""
COLLECTOR = {"endpoint": "http://collector:4318"}


@pytest.fixture(scope="module")
def picky(shop: Shop) -> Iterator[Shop]:
    """The chart, and a consumer whose handler has rejected one message."""
    shop.cluster.helm(
        *("upgrade", "--install", "streamconsumer", str(CHART), "--namespace", SYSTEM, "--create-namespace"),
        *("--wait", "--timeout", "90s"),
    )
    shop.apply(consumer("picky", handler={"source": PICKY}, replicas=1, telemetry=COLLECTOR))
    shop.wait_ready("picky")
    shop.redis("XADD", "picky", "*", "customer", "4711")
    eventually("it is settled", lambda: shop.drained("picky"))
    yield shop
    shop.kubectl("delete", "stc", "--all")


def asked(shop: Shop, *arguments: str) -> CompletedCommand:
    """With kubectl on PATH, as whoever has a plugin has it."""
    path = os.pathsep.join([str(find("kubectl").parent), str(SCRIPTS), os.environ["PATH"]])
    return run_plugin(Namespace(cast("ApiServer", shop.cluster), NAMESPACE), *arguments, PATH=path)


def document(ran: CompletedCommand) -> Any:
    assert ran.stdout, ran.stderr
    return json.loads(ran.stdout)


def wrong(diagnosis: Any) -> str:
    """All that doctor finds, in one text."""
    verdicts = [diagnosis[where] for where in ("cluster", "pod") if diagnosis[where]]
    return json.dumps([finding for verdict in verdicts for finding in verdict["findings"]])


def test_status_shows_a_consumer_that_runs_with_the_figures_of_the_operator(picky: Shop) -> None:
    ran = asked(picky, "status", "picky", "-o", "json")
    (found,) = document(ran)["streamConsumers"]
    assert ran.returncode == 0, found["findings"]
    assert [pod["ready"] for pod in found["pods"]] == [True]
    assert found["redis"]["source"] == "operator"  # `redis` is a name that only pods know
    assert "redis" in found["redis"]["problem"]


def test_doctor_has_a_pod_look_and_finds_nothing_wrong(picky: Shop) -> None:
    ran = asked(picky, "doctor", "picky", "-o", "json")
    found = document(ran)
    assert ran.returncode == 0, wrong(found)
    assert found["pod"]["name"] == picky.ready_pods("picky")[0]
    checked = {each["object"]: each["found"] for each in found["pod"]["passed"]}
    assert checked["Redis permissions"] == "the user has every permission in use"
    assert checked["group 'tests' of 'picky'"] == "exists"
    assert any(name.startswith("collector http://collector:4318") for name in checked)


def test_report_writes_an_archive_with_metrics_and_logs_of_each_pod_and_of_the_operator(
    picky: Shop, tmp_path: Path
) -> None:
    archive = tmp_path / "bundle.tar.gz"
    ran = asked(picky, "report", "picky", "--logs", "-o", str(archive))
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


def test_dead_letters_that_only_pods_reach_are_listed_in_a_pod_as_the_error_says(picky: Shop) -> None:
    ran = asked(picky, "dead-letters", "list", "--name", "picky")
    assert ran.returncode == 3, ran.stdout
    assert "run the command in a pod" in ran.stderr
    in_a_pod = ("exec", "deploy/picky-consumer", "--", "streamconsumer", "dead-letters", "list")
    assert "no such customer" in picky.kubectl(*in_a_pod)


def test_doctor_and_the_condition_find_a_wrong_password(picky: Shop) -> None:
    picky.redis("ACL", "SETUSER", "locked", "on", ">the-right-one", "~*", "&*", "+@all")
    told = ("--from-literal=user=locked", "--from-literal=word=not-this-one")
    picky.kubectl("create", "secret", "generic", "locked", *told)
    refs = {"username": "user", "password": "word"}
    login = {f"{what}SecretRef": {"name": "locked", "key": key} for what, key in refs.items()}
    picky.apply(consumer("locked", redis={"url": "redis://redis:6379/0", **login}, replicas=1))
    lifted = lambda: picky.condition("locked").get("reason") == "RedisUnusable"  # noqa: E731
    eventually("the condition says why the pod does not read", lifted)
    assert "the user name or the password is wrong" in picky.condition("locked")["message"]
    ran = asked(picky, "doctor", "locked", "-o", "json")
    found = document(ran)
    assert ran.returncode == 1
    assert found["pod"], "a pod that is not ready can look too"
    assert "the password is wrong" in wrong(found)
    assert "not-this-one" not in ran.stdout + ran.stderr + picky.kubectl("get", "stc,events", "-o", "yaml")


def test_doctor_finds_a_handler_that_cannot_be_imported(picky: Shop) -> None:
    picky.apply(consumer("absent", handler={"python": "shop.billing:handle"}, replicas=1))
    lifted = lambda: picky.condition("absent").get("reason") == "HandlerUnusable"  # noqa: E731
    eventually("the condition says it", lifted)
    ran = asked(picky, "doctor", "absent", "-o", "json")
    assert ran.returncode == 1
    assert "module 'shop' not found" in wrong(document(ran))
