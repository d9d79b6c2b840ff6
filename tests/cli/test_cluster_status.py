"""`kubectl streamconsumer status`, `suspend` and `resume`: real API server, operator and Redis; pods only on paper."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.plugin import SCRIPTS, environment, run_json, run_plugin
from tests.cluster.processes import free_port
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.model.examples import Manifest, manifest
from tests.operator.namespace import Namespace, eventually
from tests.operator.operator_process import running_operator
from tests.operator.redis_operator import manifest_for, redis_client, running_with_redis, wait_for_condition


def pod(place: Namespace, name: str, consumer: str = "orders", **status: Any) -> None:
    """A pod as the kubelet would report it."""
    place.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"streamconsumer.dev/name": consumer}},
            "spec": {"containers": [{"name": "processor", "image": "shop:1.4"}]},
        }
    )
    place.patch("Pod", name, {"status": status}, "/status")


def container(**told: Any) -> Manifest:
    return {"name": "processor", "image": "shop:1.4", "imageID": "", "ready": False, "restartCount": 0, **told}


def test_a_healthy_one_is_shown_on_one_screen_with_what_redis_says_now(
    on_api: Namespace, redis_server: RedisServer, tmp_path: Path
) -> None:
    redis = redis_client(redis_server)
    with running_with_redis(on_api, tmp_path):
        on_api.create(manifest_for(redis_server, replicas=0))
        wait_for_condition(on_api, "orders", "GroupReady", "GroupExists")
        pod(on_api, "orders-consumer-a", phase="Running", containerStatuses=[container(ready=True)])
        for number in range(3):
            redis.xadd("orders", {"n": number})
        redis.xreadgroup("billing", "orders-consumer-a", {"orders": ">"}, count=1)
        said = run_json(on_api, "status", "orders")["streamConsumers"]
        ran = run_plugin(on_api, "status", "orders")
    (one,) = said
    assert one["redis"]["source"] == "redis"
    assert (one["redis"]["stats"]["lag"], one["redis"]["stats"]["pending"]) == (2, 1)
    assert one["redis"]["consumers"][0] | {"idleSeconds": 0} == {
        "name": "orders-consumer-a",
        "pending": 1,
        "idleSeconds": 0,
        "isPod": True,
    }
    assert "\x1b" not in ran.stdout
    assert "reads stream 'orders' in group 'billing'" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 100
    redis.close()


def test_a_password_that_is_wrong_is_an_error_with_what_to_do(
    on_api: Namespace, start_redis: StartRedis, tmp_path: Path
) -> None:
    server = start_redis({"requirepass": "right"})
    with running_with_redis(on_api, tmp_path):
        on_api.create(manifest_for(server, replicas=0))
        wait_for_condition(on_api, "orders", "RedisReachable", "CredentialsRefused")
        ran = run_plugin(on_api, "status", "orders")
    assert ran.returncode == 1
    assert "correct the user or the password in the Secret" in " ".join(ran.stdout.split())


def test_redis_that_is_down_and_a_pod_that_cannot_import_its_handler_are_told(
    on_api: Namespace, tmp_path: Path
) -> None:
    words = "HandlerUnusable: handler 'shop.orders:handle': module 'shop' not found; is it in the image?"
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    ended = {"terminated": {"exitCode": 78, "message": words}}
    with running_with_redis(on_api, tmp_path):
        on_api.create(manifest(redis={"url": f"redis://127.0.0.1:{free_port()}/0"}))
        wait_for_condition(on_api, "orders", "RedisReachable", "Unreachable")
        pod(
            on_api,
            "orders-consumer-a",
            phase="Running",
            containerStatuses=[container(state=waiting, lastState=ended, restartCount=4)],
        )
        found = run_json(on_api, "status", "orders")["streamConsumers"][0]
    told = [(each["object"], each["found"]) for each in found["findings"]]
    assert ("Pod orders-consumer-a", words) in told
    assert any(about == "StreamConsumer orders" and "Unreachable: " in said for about, said in told)
    assert found["redis"]["source"] == "unknown"
    assert "Connect call failed" in found["redis"]["problem"]


def test_one_that_no_operator_has_seen_is_told_as_such(on_api: Namespace) -> None:
    on_api.create(manifest())
    ran = run_plugin(on_api, "status", "orders")
    assert ran.returncode == 1
    assert "no valid status" in ran.stdout


def test_many_are_a_line_each_and_a_name_that_is_not_there_is_wrong_use(on_api: Namespace) -> None:
    for name in ("orders", "returns"):
        on_api.create(manifest(name))
    lines = run_plugin(on_api, "status").stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["NAME", "orders", "returns"]
    absent = run_plugin(on_api, "status", "absent")
    assert absent.returncode == 2
    assert f"StreamConsumer {on_api.name}/absent: not found" in absent.stderr


@pytest.mark.parametrize("name", ["", "stc/orders", "orders/status"])
def test_what_is_no_name_is_wrong_use(on_api: Namespace, name: str) -> None:
    on_api.create(manifest())
    for verb in ("status", "suspend", "doctor", "report"):
        ran = run_plugin(on_api, verb, name)
        assert ran.returncode == 2, ran.stdout + ran.stderr
        assert "is not a valid StreamConsumer name" in ran.stderr


def only(place: Namespace, folder: Path, *resources: str) -> str:
    """A kubeconfig of somebody who may get and list these, and nothing else."""
    place.kubectl("create", "serviceaccount", "visitor")
    place.kubectl("create", "role", "visitor", "--verb=get,list", *(f"--resource={each}" for each in resources))
    place.kubectl("create", "rolebinding", "visitor", "--role=visitor", f"--serviceaccount={place.name}:visitor")
    config = json.loads(place.cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": place.kubectl("create", "token", "visitor").strip()}
    path = folder / "visitor.kubeconfig"
    path.write_text(json.dumps(config))
    return str(path)


@pytest.mark.parametrize("text", ["", "a: [", "- a list", "clusters: 7"])
def test_a_kubeconfig_that_is_none_is_told_in_a_line(on_api: Namespace, tmp_path: Path, text: str) -> None:
    broken = tmp_path / "kubeconfig"
    broken.write_text(text)
    command = [str(SCRIPTS / "streamconsumer"), "status"]
    told = environment(on_api, KUBECONFIG=str(broken))
    ran = subprocess.run(command, env=told, capture_output=True, text=True, check=False)
    assert ran.returncode == 2, ran.stderr
    assert "no usable kubeconfig" in ran.stderr.splitlines()[-1]


def test_an_api_server_that_does_not_answer_is_exit_code_3(on_api: Namespace, tmp_path: Path) -> None:
    nowhere = tmp_path / "kubeconfig"
    nowhere.write_text(on_api.cluster.kubeconfig.read_text().replace(f":{_port(on_api)}", f":{free_port()}"))
    ran = run_plugin(on_api, "status", KUBECONFIG=str(nowhere))
    assert ran.returncode == 3, ran.stderr
    assert "does not answer" in ran.stderr


def _port(place: Namespace) -> str:
    return str(place.cluster.url.rpartition(":")[2])


@pytest.mark.parametrize(("verb", "before"), [("suspend", False), ("resume", True)])
def test_suspend_and_resume_write_one_field(on_api: Namespace, verb: str, before: bool) -> None:
    on_api.create(manifest(suspend=before))
    ran = run_plugin(on_api, verb, "orders")
    assert (ran.returncode, ran.stdout) == (0, f"{on_api.name}/orders {verb.removesuffix('e')}ed\n"), ran.stderr
    assert on_api.get("StreamConsumer", "orders")["spec"].get("suspend", False) is not before


@pytest.mark.parametrize(("verb", "before"), [("suspend", False), ("resume", True)])
def test_kubectl_wait_returns_once_the_operator_has_followed(
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


def test_status_of_all_namespaces_takes_no_name(on_api: Namespace) -> None:
    on_api.create(manifest())
    found = run_json(on_api, "status", "-A")["streamConsumers"]
    assert (on_api.name, "orders") in {(each["namespace"], each["name"]) for each in found}
    both = run_plugin(on_api, "status", "orders", "-A")
    assert both.returncode == 2
    assert "NAME cannot be combined with --all-namespaces" in both.stderr


def test_kubectl_completes_verbs_and_names(on_api: Namespace) -> None:
    on_api.create(manifest("returns"))

    def completed(*words: str) -> list[str]:
        command = [str(SCRIPTS / "kubectl_complete-streamconsumer"), *words]
        ran = subprocess.run(command, env=environment(on_api), capture_output=True, text=True, check=True)
        return [line.partition("\t")[0] for line in ran.stdout.splitlines()]

    assert completed("sus") == ["suspend", ":4"]
    assert completed("status", "-n", on_api.name, "ret") == ["returns", ":4"]
    assert completed("group", "delete", "-n", on_api.name, "ret") == ["returns", ":4"]
