"""`kubectl streamconsumer status`, `suspend` and `resume` with a real API server, operator and Redis. No pod runs."""

import subprocess
from pathlib import Path

import pytest

from tests.cli.plugin import SCRIPTS, environment, run_json, run_plugin
from tests.cli.pods import container_status, create_pod
from tests.cluster.processes import free_port
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.model.examples import manifest
from tests.operator.namespace import Namespace, eventually
from tests.operator.operator_process import running_operator
from tests.operator.redis_operator import (
    create_group,
    manifest_for,
    redis_client,
    running_with_redis,
    wait_for_condition,
)


def test_status_shows_the_current_values_of_redis(
    api_namespace: Namespace, redis_server: RedisServer, tmp_path: Path
) -> None:
    redis = redis_client(redis_server)
    with running_with_redis(api_namespace, tmp_path):
        create_group(redis_server)
        api_namespace.create(manifest_for(redis_server, replicas=0))
        wait_for_condition(api_namespace, "orders", "GroupReady", "GroupExists")
        create_pod(
            api_namespace, "orders-consumer-a", phase="Running", containerStatuses=[container_status(ready=True)]
        )
        for number in range(3):
            redis.xadd("orders", {"n": number})
        redis.xreadgroup("billing", "orders-consumer-a", {"orders": ">"}, count=1)
        (item,) = run_json(api_namespace, "status", "orders")["streamConsumers"]
        ran = run_plugin(api_namespace, "status", "orders")
    assert item["redis"]["source"] == "redis"
    assert (item["redis"]["stats"]["lag"], item["redis"]["stats"]["pending"]) == (2, 1)
    assert item["redis"]["consumers"][0] | {"idleSeconds": 0} == {
        "name": "orders-consumer-a",
        "pending": 1,
        "idleSeconds": 0,
        "isPod": True,
    }
    assert "\x1b" not in ran.stdout
    assert "reads stream 'orders' in group 'billing'" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 100
    redis.close()


def test_wrong_password_is_an_error_with_a_remedy(
    api_namespace: Namespace, start_redis: StartRedis, tmp_path: Path
) -> None:
    server = start_redis({"requirepass": "right"})
    with running_with_redis(api_namespace, tmp_path):
        api_namespace.create(manifest_for(server, replicas=0))
        wait_for_condition(api_namespace, "orders", "RedisReachable", "CredentialsRefused")
        ran = run_plugin(api_namespace, "status", "orders")
    assert ran.returncode == 1
    assert "correct the user or the password in the Secret" in " ".join(ran.stdout.split())


def test_unreachable_redis_and_an_unusable_handler_are_reported(api_namespace: Namespace, tmp_path: Path) -> None:
    message = "HandlerUnusable: handler 'shop.orders:handle': module 'shop' not found; is it in the image?"
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    ended = {"terminated": {"exitCode": 78, "message": message}}
    with running_with_redis(api_namespace, tmp_path):
        api_namespace.create(manifest(redis={"url": f"redis://127.0.0.1:{free_port()}/0"}))
        wait_for_condition(api_namespace, "orders", "RedisReachable", "Unreachable")
        create_pod(
            api_namespace,
            "orders-consumer-a",
            phase="Running",
            containerStatuses=[container_status(state=waiting, lastState=ended, restartCount=4)],
        )
        (item,) = run_json(api_namespace, "status", "orders")["streamConsumers"]
    findings = [(each["object"], each["found"]) for each in item["findings"]]
    assert ("Pod orders-consumer-a", message) in findings
    assert any(subject == "StreamConsumer orders" and "Unreachable: " in text for subject, text in findings)
    assert item["redis"]["source"] == "unknown"
    assert "Connect call failed" in item["redis"]["problem"]


def test_missing_status_is_reported_if_no_operator_runs(api_namespace: Namespace) -> None:
    api_namespace.create(manifest())
    ran = run_plugin(api_namespace, "status", "orders")
    assert ran.returncode == 1
    assert "no valid status" in ran.stdout


def test_status_without_name_prints_one_line_each_and_rejects_a_missing_name(api_namespace: Namespace) -> None:
    for name in ("orders", "returns"):
        api_namespace.create(manifest(name))
    lines = run_plugin(api_namespace, "status").stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["NAME", "orders", "returns"]
    absent = run_plugin(api_namespace, "status", "absent")
    assert absent.returncode == 2
    assert f"StreamConsumer {api_namespace.name}/absent: not found" in absent.stderr


@pytest.mark.parametrize("name", ["", "stc/orders", "orders/status"])
def test_invalid_name_is_wrong_use(api_namespace: Namespace, name: str) -> None:
    api_namespace.create(manifest())
    for verb in ("status", "suspend", "doctor", "report"):
        ran = run_plugin(api_namespace, verb, name)
        assert ran.returncode == 2, ran.stdout + ran.stderr
        assert "is not a valid StreamConsumer name" in ran.stderr


@pytest.mark.parametrize("text", ["", "a: [", "- a list", "clusters: 7"])
def test_invalid_kubeconfig_prints_one_line(api_namespace: Namespace, tmp_path: Path, text: str) -> None:
    broken = tmp_path / "kubeconfig"
    broken.write_text(text)
    command = [str(SCRIPTS / "streamconsumer"), "status"]
    variables = environment(api_namespace, KUBECONFIG=str(broken))
    ran = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert ran.returncode == 2, ran.stderr
    assert "usable kubeconfig" in ran.stderr.splitlines()[-1]


def test_exit_code_is_3_if_the_api_server_does_not_answer(api_namespace: Namespace, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        api_namespace.cluster.kubeconfig.read_text().replace(f":{_port(api_namespace)}", f":{free_port()}")
    )
    ran = run_plugin(api_namespace, "status", KUBECONFIG=str(kubeconfig))
    assert ran.returncode == 3, ran.stderr
    assert "does not answer" in ran.stderr


def _port(place: Namespace) -> str:
    return str(place.cluster.url.rpartition(":")[2])


@pytest.mark.parametrize(("verb", "before"), [("suspend", False), ("resume", True)])
def test_suspend_and_resume_change_only_spec_suspend(api_namespace: Namespace, verb: str, before: bool) -> None:
    api_namespace.create(manifest(suspend=before))
    ran = run_plugin(api_namespace, verb, "orders")
    assert (ran.returncode, ran.stdout) == (0, f"{api_namespace.name}/orders {verb.removesuffix('e')}ed\n"), ran.stderr
    assert api_namespace.get("StreamConsumer", "orders")["spec"].get("suspend", False) is not before


@pytest.mark.parametrize(("verb", "before"), [("suspend", False), ("resume", True)])
def test_kubectl_wait_returns_after_suspend_and_resume(
    api_namespace: Namespace, tmp_path: Path, verb: str, before: bool
) -> None:
    with running_operator(api_namespace.cluster.kubeconfig, tmp_path, watch_namespaces=api_namespace.name):
        api_namespace.create(manifest(replicas=0, suspend=before))
        eventually(lambda: api_namespace.conditions("orders")["Ready"])
        deployment = api_namespace.get("Deployment", "orders-consumer")
        observed = {"observedGeneration": deployment["metadata"]["generation"] + 1}
        api_namespace.patch("Deployment", "orders-consumer", {"status": observed}, "/status")
        ran = run_plugin(api_namespace, verb, "orders")
        assert ran.returncode == 0, ran.stderr
        api_namespace.kubectl(
            "wait", "stc/orders", f"--for=condition={'Ready' if before else 'Suspended'}", "--timeout=30s"
        )
        conditions = api_namespace.conditions("orders")
        assert conditions["Ready"]["status"] == "True"
        assert conditions.get("Suspended", {}).get("status") == ("False" if before else "True")


def test_all_namespaces_option_shows_every_namespace_and_rejects_a_name(api_namespace: Namespace) -> None:
    api_namespace.create(manifest())
    items = run_json(api_namespace, "status", "-A")["streamConsumers"]
    assert (api_namespace.name, "orders") in {(item["namespace"], item["name"]) for item in items}
    both = run_plugin(api_namespace, "status", "orders", "-A")
    assert both.returncode == 2
    assert "NAME cannot be combined with --all-namespaces" in both.stderr


def test_kubectl_completes_commands_and_names(api_namespace: Namespace) -> None:
    api_namespace.create(manifest("returns"))

    def completed(*words: str) -> list[str]:
        command = [str(SCRIPTS / "kubectl_complete-streamconsumer"), *words]
        ran = subprocess.run(command, env=environment(api_namespace), capture_output=True, text=True, check=True)
        return [line.partition("\t")[0] for line in ran.stdout.splitlines()]

    assert completed("sus") == ["suspend", ":4"]
    assert completed("status", "-n", api_namespace.name, "ret") == ["returns", ":4"]
    assert completed("group", "delete", "-n", api_namespace.name, "ret") == ["returns", ":4"]
