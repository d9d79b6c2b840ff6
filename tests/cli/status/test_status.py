"""`kubectl streamconsumer status`, `suspend` and `resume` with a real API server, operator and Redis. No pod runs."""

import subprocess
from pathlib import Path

import pytest

from tests.cli.plugin import SCRIPTS, environment, run_json, run_plugin
from tests.cli.pods import container_status, create_pod
from tests.cluster.processes import free_port
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.model.examples import manifest
from tests.operator.looking import manifest_for, redis_client, running_with_redis, wait_for_condition
from tests.operator.operators import running_operator
from tests.operator.places import Namespace, eventually


def test_status_shows_the_current_values_of_redis(on_api: Namespace, redis_server: RedisServer, tmp_path: Path) -> None:
    redis = redis_client(redis_server)
    with running_with_redis(on_api, tmp_path):
        on_api.create(manifest_for(redis_server, replicas=0))
        wait_for_condition(on_api, "orders", "GroupReady", "GroupExists")
        create_pod(on_api, "orders-consumer-a", phase="Running", containerStatuses=[container_status(ready=True)])
        for number in range(3):
            redis.xadd("orders", {"n": number})
        redis.xreadgroup("billing", "orders-consumer-a", {"orders": ">"}, count=1)
        (item,) = run_json(on_api, "status", "orders")["streamConsumers"]
        ran = run_plugin(on_api, "status", "orders")
    assert item["redis"]["source"] == "redis"
    assert (item["redis"]["stats"]["lag"], item["redis"]["stats"]["pending"]) == (2, 1)
    assert item["redis"]["consumers"][0] | {"idleSeconds": 0} == {
        "name": "orders-consumer-a",
        "pending": 1,
        "idleSeconds": 0,
        "isPod": True,
    }
    assert "\x1b" not in ran.stdout
    assert "reads 'orders' as 'billing'" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 100
    redis.close()


def test_wrong_password_is_an_error_with_a_remedy(on_api: Namespace, start_redis: StartRedis, tmp_path: Path) -> None:
    server = start_redis({"requirepass": "right"})
    with running_with_redis(on_api, tmp_path):
        on_api.create(manifest_for(server, replicas=0))
        wait_for_condition(on_api, "orders", "RedisReachable", "CredentialsRefused")
        ran = run_plugin(on_api, "status", "orders")
    assert ran.returncode == 1
    assert "correct the user or the password in the Secret" in " ".join(ran.stdout.split())


def test_unreachable_redis_and_an_unusable_handler_are_reported(on_api: Namespace, tmp_path: Path) -> None:
    message = "HandlerUnusable: handler 'shop.orders:handle': module 'shop' not found; is it in the image?"
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    ended = {"terminated": {"exitCode": 78, "message": message}}
    with running_with_redis(on_api, tmp_path):
        on_api.create(manifest(redis={"url": f"redis://127.0.0.1:{free_port()}/0"}))
        wait_for_condition(on_api, "orders", "RedisReachable", "Unreachable")
        create_pod(
            on_api,
            "orders-consumer-a",
            phase="Running",
            containerStatuses=[container_status(state=waiting, lastState=ended, restartCount=4)],
        )
        (item,) = run_json(on_api, "status", "orders")["streamConsumers"]
    findings = [(each["object"], each["found"]) for each in item["findings"]]
    assert ("Pod orders-consumer-a", message) in findings
    assert any(subject == "StreamConsumer orders" and "Unreachable: " in text for subject, text in findings)
    assert item["redis"]["source"] == "unknown"
    assert "Connect call failed" in item["redis"]["problem"]


def test_missing_status_is_reported_if_no_operator_runs(on_api: Namespace) -> None:
    on_api.create(manifest())
    ran = run_plugin(on_api, "status", "orders")
    assert ran.returncode == 1
    assert "no valid status" in ran.stdout


def test_status_without_name_prints_one_line_each_and_rejects_a_missing_name(on_api: Namespace) -> None:
    for name in ("orders", "returns"):
        on_api.create(manifest(name))
    lines = run_plugin(on_api, "status").stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["NAME", "orders", "returns"]
    absent = run_plugin(on_api, "status", "absent")
    assert absent.returncode == 2
    assert f"StreamConsumer {on_api.name}/absent: not found" in absent.stderr


@pytest.mark.parametrize("name", ["", "stc/orders", "orders/status"])
def test_invalid_name_is_wrong_use(on_api: Namespace, name: str) -> None:
    on_api.create(manifest())
    for verb in ("status", "suspend", "doctor", "report"):
        ran = run_plugin(on_api, verb, name)
        assert ran.returncode == 2, ran.stdout + ran.stderr
        assert "is not a valid StreamConsumer name" in ran.stderr


@pytest.mark.parametrize("text", ["", "a: [", "- a list", "clusters: 7"])
def test_invalid_kubeconfig_prints_one_line(on_api: Namespace, tmp_path: Path, text: str) -> None:
    broken = tmp_path / "kubeconfig"
    broken.write_text(text)
    command = [str(SCRIPTS / "streamconsumer"), "status"]
    variables = environment(on_api, KUBECONFIG=str(broken))
    ran = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert ran.returncode == 2, ran.stderr
    assert "no usable kubeconfig" in ran.stderr.splitlines()[-1]


def test_exit_code_is_3_if_the_api_server_does_not_answer(on_api: Namespace, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(on_api.cluster.kubeconfig.read_text().replace(f":{_port(on_api)}", f":{free_port()}"))
    ran = run_plugin(on_api, "status", KUBECONFIG=str(kubeconfig))
    assert ran.returncode == 3, ran.stderr
    assert "does not answer" in ran.stderr


def _port(place: Namespace) -> str:
    return str(place.cluster.url.rpartition(":")[2])


@pytest.mark.parametrize(("verb", "before"), [("suspend", False), ("resume", True)])
def test_suspend_and_resume_change_only_spec_suspend(on_api: Namespace, verb: str, before: bool) -> None:
    on_api.create(manifest(suspend=before))
    ran = run_plugin(on_api, verb, "orders")
    assert (ran.returncode, ran.stdout) == (0, f"{on_api.name}/orders {verb.removesuffix('e')}ed\n"), ran.stderr
    assert on_api.get("StreamConsumer", "orders")["spec"].get("suspend", False) is not before


@pytest.mark.parametrize(("verb", "before"), [("suspend", False), ("resume", True)])
def test_kubectl_wait_returns_after_suspend_and_resume(
    on_api: Namespace, tmp_path: Path, verb: str, before: bool
) -> None:
    with running_operator(on_api.cluster.kubeconfig, tmp_path, watch_namespaces=on_api.name):
        on_api.create(manifest(replicas=0, suspend=before))
        eventually(lambda: on_api.conditions("orders")["Ready"])
        deployment = on_api.get("Deployment", "orders-consumer")
        observed = {"observedGeneration": deployment["metadata"]["generation"] + 1}
        on_api.patch("Deployment", "orders-consumer", {"status": observed}, "/status")
        ran = run_plugin(on_api, verb, "orders")
        assert ran.returncode == 0, ran.stderr
        on_api.kubectl("wait", "stc/orders", f"--for=condition={'Ready' if before else 'Suspended'}", "--timeout=30s")
        conditions = on_api.conditions("orders")
        assert conditions["Ready"]["status"] == "True"
        assert conditions.get("Suspended", {}).get("status") == ("False" if before else "True")


def test_all_namespaces_option_shows_every_namespace_and_rejects_a_name(on_api: Namespace) -> None:
    on_api.create(manifest())
    items = run_json(on_api, "status", "-A")["streamConsumers"]
    assert (on_api.name, "orders") in {(item["namespace"], item["name"]) for item in items}
    both = run_plugin(on_api, "status", "orders", "-A")
    assert both.returncode == 2
    assert "NAME cannot be combined with --all-namespaces" in both.stderr


def test_kubectl_completes_commands_and_names(on_api: Namespace) -> None:
    on_api.create(manifest("returns"))

    def completed(*words: str) -> list[str]:
        command = [str(SCRIPTS / "kubectl_complete-streamconsumer"), *words]
        ran = subprocess.run(command, env=environment(on_api), capture_output=True, text=True, check=True)
        return [line.partition("\t")[0] for line in ran.stdout.splitlines()]

    assert completed("sus") == ["suspend", ":4"]
    assert completed("status", "-n", on_api.name, "ret") == ["returns", ":4"]
    assert completed("group", "delete", "-n", on_api.name, "ret") == ["returns", ":4"]
