"""The commands print one sentence with a command if the CRD, the operator, the context or the login is missing."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.plugin import SCRIPTS, CompletedCommand, environment, run_plugin
from tests.cluster.api_server import ApiServer
from tests.model.examples import manifest
from tests.operator.namespace import Namespace

COMMANDS = [["status"], ["status", "orders"], ["doctor", "orders"], ["suspend", "orders"], ["report", "orders"]]
INSTALL = "helm install streamconsumer charts/streamconsumer-operator"


@pytest.fixture(scope="module")
def empty_cluster() -> Iterator[Namespace]:
    """A cluster without the CRD."""
    with ApiServer() as server:
        yield Namespace(server, "default")


def sentence(ran: CompletedCommand) -> str:
    """Return the only line of the output."""
    assert ran.stdout == ""
    (line,) = ran.stderr.strip().splitlines()
    assert "Traceback" not in line
    return line


@pytest.mark.cluster
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_missing_crd_is_named_with_the_command_that_installs_it(empty_cluster: Namespace, command: list[str]) -> None:
    ran = run_plugin(empty_cluster, *command)
    assert ran.returncode == 2
    assert "the cluster does not serve streamconsumer.dev/v1alpha1 StreamConsumer" in sentence(ran)
    assert INSTALL in ran.stderr


def test_missing_operator_is_reported_with_a_command(api_namespace: Namespace) -> None:
    api_namespace.create(manifest())
    status, doctor = (
        " ".join(run_plugin(api_namespace, each, "orders").stdout.split()) for each in ("status", "doctor")
    )
    assert f"kubectl streamconsumer doctor orders -n {api_namespace.name}" in status
    assert f"command: {INSTALL}" in doctor


def run_with(place: Namespace, folder: Path, changes: dict[str, Any], *options: str) -> CompletedCommand:
    """Run `status` with a changed kubeconfig."""
    config = {**json.loads(place.cluster.kubeconfig.read_text()), **changes}
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    command = [str(SCRIPTS / "streamconsumer"), "status", *options]
    variables = environment(place, KUBECONFIG=str(path))
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_missing_context_is_named_with_a_similar_one(api_namespace: Namespace, tmp_path: Path) -> None:
    config = json.loads(api_namespace.cluster.kubeconfig.read_text())
    contexts = [{**config["contexts"][0], "name": "production"}]
    line = sentence(run_with(api_namespace, tmp_path, {"contexts": contexts}, "--context", "prodution"))
    assert "no context prodution in the kubeconfig; did you mean production?" in line
    assert "`kubectl config get-contexts` lists the contexts" in line


def test_missing_current_context_is_named(api_namespace: Namespace, tmp_path: Path) -> None:
    line = sentence(run_with(api_namespace, tmp_path, {"current-context": ""}))
    assert "run `kubectl config use-context NAME`" in line


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "echo start >&2; echo token expired, run aws sso login >&2; exit 7",
            "exit code 7: token expired, run aws sso login",
        ),
        ("exit 1", "exit code 1"),
        ("echo text", "failed to decode process output"),
        ("echo '{}'", "malformed response. missing key 'apiVersion'"),
        ('echo \'{"apiVersion": "v0", "kind": "E", "status": {}}\'', "plugin api version v0 does not match"),
    ],
)
def test_failure_of_an_exec_plugin_is_shown(api_namespace: Namespace, tmp_path: Path, script: str, reason: str) -> None:
    plugin = tmp_path / "login"
    plugin.write_text(f"#!/bin/sh\n{script}\n")
    plugin.chmod(0o700)
    line = sentence(run_with(api_namespace, tmp_path, users(api_namespace, "./login")))
    assert "the exec plugin of the kubeconfig returned no credentials" in line
    assert reason in line
    assert "run `kubectl auth whoami` to see the whole error" in line


def test_missing_exec_plugin_is_named(api_namespace: Namespace, tmp_path: Path) -> None:
    line = sentence(run_with(api_namespace, tmp_path, users(api_namespace, "no-such-login")))
    assert "no-such-login: the command is not on the PATH; install the command" in line


def users(place: Namespace, command: str) -> dict[str, Any]:
    config = json.loads(place.cluster.kubeconfig.read_text())
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": command, "interactiveMode": "Never"}}
    return {"users": [{**config["users"][0], "user": user}]}


def test_refused_credentials_are_named_with_a_command(api_namespace: Namespace, tmp_path: Path) -> None:
    config = json.loads(api_namespace.cluster.kubeconfig.read_text())
    ran = run_with(api_namespace, tmp_path, {"users": [{**config["users"][0], "user": {"token": "expired"}}]})
    assert ran.returncode == 3
    assert "Unauthorized; run `kubectl auth whoami` to check your login" in sentence(ran)
