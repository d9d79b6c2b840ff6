"""What the operator sees of Redis and does there: a real API server, real servers of Redis, and no pods."""

import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamconsumer.redis_client.keys import group_key
from tests.cluster.certificates import Authority
from tests.cluster.processes import free_port
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.model.examples import manifest
from tests.operator.faulty_api_proxy import FaultyApiProxy
from tests.operator.namespace import Namespace, eventually, wait_until_settled
from tests.operator.operator_process import OperatorProcess, running_operator
from tests.operator.redis_operator import (
    POLL_INTERVAL,
    create_secret,
    manifest_for,
    redis_client,
    running_with_redis,
    wait_for_condition,
    wait_for_stats,
)


@pytest.fixture
def operator(api_namespace: Namespace, tmp_path: Path) -> Iterator[OperatorProcess]:
    with running_with_redis(api_namespace, tmp_path) as operator:
        yield operator


def test_a_group_is_there_before_the_first_pod_and_begins_where_it_is_to(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    first = redis.xadd("orders", {"n": 1}).decode()
    redis.xadd("orders", {"n": 2})
    api_namespace.create(manifest_for(redis_server, startFrom=first))
    assert wait_for_condition(api_namespace, "orders", "RedisReachable", "Connected")["status"] == "True"
    assert wait_for_condition(api_namespace, "orders", "GroupReady", "GroupExists")["status"] == "True"
    assert wait_for_condition(api_namespace, "orders", "Degraded", "Healthy")["status"] == "False"
    assert (
        wait_for_stats(api_namespace, lag=1, lagKnown=True, pending=0, length=2, deadLetters=0)["lastDeliveredId"]
        == first
    )
    redis.close()


def test_what_redis_says_stands_in_the_status_of_each(
    api_namespace: Namespace, operator: OperatorProcess, any_redis: RedisServer
) -> None:
    redis = redis_client(any_redis)
    redis.xgroup_create("orders", "billing", "0", mkstream=True)
    for number in range(5):
        redis.xadd("orders", {"n": number})
    [[_, entries]] = redis.xreadgroup("billing", "somebody", {"orders": ">"}, count=2)
    redis.xadd(group_key("orders", "billing", "dead-letters"), {"n": 0})
    api_namespace.create(manifest_for(any_redis))
    found = wait_for_stats(api_namespace, lag=3, lagKnown=True, pending=2, length=5, deadLetters=1, consumers=1)
    assert found["lastDeliveredId"] == entries[-1][0].decode()
    age = time.time() - int(entries[0][0].decode().partition("-")[0]) / 1000
    assert found["oldestPendingTime"] <= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    assert age < 60
    said = api_namespace.kubectl("get", "stc", "orders")
    assert said.splitlines()[0].split()[5:7] == ["LAG", "PENDING"]
    assert said.splitlines()[1].split()[5:7] == ["3", "2"]
    redis.close()


def test_a_lag_that_redis_does_not_know_is_counted(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    redis.xgroup_create("orders", "billing", "0", mkstream=True)
    ids = [redis.xadd("orders", {"n": number}) for number in range(5)]
    redis.xreadgroup("billing", "somebody", {"orders": ">"}, count=1)
    redis.xdel("orders", ids[3])
    assert redis.xinfo_groups("orders")[0]["lag"] is None
    api_namespace.create(manifest_for(redis_server))
    wait_for_stats(api_namespace, lag=3, lagKnown=True)
    redis.close()


def test_at_rest_nothing_is_written(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    for number in range(20):
        api_namespace.create(manifest_for(redis_server, f"orders-{number}", stream=f"orders-{number}"))
    for number in range(20):
        wait_for_condition(api_namespace, f"orders-{number}", "GroupReady", "GroupExists")
    rest = wait_until_settled(api_namespace, 2)
    looks = redis.info("commandstats")["cmdstat_xinfo|groups"]["calls"]
    time.sleep(3)
    assert redis.info("commandstats")["cmdstat_xinfo|groups"]["calls"] > looks
    assert api_namespace.versions() == rest
    (mine,) = [each for each in redis.client_list() if each["cmd"] != "client|list"]
    assert mine["cmd"] in ("xlen", "xinfo|groups")
    operator.kill()
    with running_with_redis(api_namespace, operator.log.parent, stream_interval=POLL_INTERVAL):
        time.sleep(3)
        assert api_namespace.versions() == rest
    redis.close()


def test_figures_that_move_are_written_seldom(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    api_namespace.create(manifest_for(redis_server))
    wait_for_stats(api_namespace, lag=0)
    began, versions = time.monotonic(), set()
    while time.monotonic() - began < 6:
        redis.xadd("orders", {"n": 1})
        versions.add(api_namespace.get("StreamConsumer", "orders")["metadata"]["resourceVersion"])
        time.sleep(0.2)
    assert len(versions) == 1
    redis.close()


def test_one_broken_server_keeps_nobody_else_waiting(
    api_namespace: Namespace, operator: OperatorProcess, start_redis: StartRedis
) -> None:
    frozen, good = start_redis(), start_redis()
    frozen.pause()
    try:
        api_namespace.create(manifest_for(frozen, "frozen"))
        api_namespace.create(manifest("nowhere", redis={"url": "redis://127.0.0.1:1"}))
        api_namespace.create(manifest_for(good, "good"))
        wait_for_condition(api_namespace, "good", "GroupReady", "GroupExists")
        for name in ("frozen", "nowhere"):
            found = wait_for_condition(api_namespace, name, "RedisReachable", "Unreachable")
            assert found["status"] == "False"
            assert api_namespace.conditions(name)["GroupReady"]["status"] == "Unknown"
        assert "127.0.0.1:1" in api_namespace.conditions("nowhere")["RedisReachable"]["message"]
    finally:
        frozen.resume()
    wait_for_condition(api_namespace, "frozen", "RedisReachable", "Connected")


def test_a_database_that_redis_does_not_have_is_said_to_be_so(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    api_namespace.create(manifest(redis={"url": f"redis://127.0.0.1:{redis_server.port}/99"}))
    found = wait_for_condition(api_namespace, "orders", "RedisReachable", "InvalidSettings")
    assert "the server has no database of this number" in found["message"]


def test_what_concerns_one_stream_is_said_of_it_alone(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    redis.set("text", "x")
    api_namespace.create(manifest_for(redis_server, "wrong", stream="text"))
    api_namespace.create(manifest_for(redis_server, "right"))
    assert wait_for_condition(api_namespace, "wrong", "GroupReady", "NotAStream")["status"] == "False"
    wait_for_condition(api_namespace, "right", "GroupReady", "GroupExists")
    assert {api_namespace.conditions(name)["RedisReachable"]["status"] for name in ("wrong", "right")} == {"True"}
    redis.close()


def test_a_password_that_changes_is_read_again(
    api_namespace: Namespace, operator: OperatorProcess, start_redis: StartRedis
) -> None:
    server = start_redis({"requirepass": "old"})
    ref = {"name": "redis", "key": "password"}
    api_namespace.create(manifest_for(server, password=ref))
    assert "redis" in wait_for_condition(api_namespace, "orders", "RedisReachable", "SecretMissing")["message"]
    create_secret(api_namespace, "redis", password="wrong-hunter2\n")
    refused = wait_for_condition(api_namespace, "orders", "RedisReachable", "CredentialsRefused")
    redis = redis_client(server, password="old")
    redis.config_set("requirepass", "wrong-hunter2")
    wait_for_condition(api_namespace, "orders", "GroupReady", "GroupExists")
    redis.config_set("requirepass", "new")
    redis.execute_command("CLIENT", "KILL", "TYPE", "normal")
    wait_for_condition(api_namespace, "orders", "RedisReachable", "CredentialsRefused")
    encoded = {"data": {"password": b64encode(b"new").decode()}}
    api_namespace.cluster.request("PATCH", f"/api/v1/namespaces/{api_namespace.name}/secrets/redis", encoded)
    wait_for_condition(api_namespace, "orders", "RedisReachable", "Connected")
    assert "hunter2" not in refused["message"] + operator.log.read_text() + str(api_namespace.events("orders"))
    redis.close()


def test_a_url_in_a_secret_is_told_by_nothing_it_says(api_namespace: Namespace, operator: OperatorProcess) -> None:
    url = "redis://shop:hunter2@127.0.0.1:1/0"
    create_secret(
        api_namespace, "redis", url=url, garbage="hunter2", option=f"{url}?hunter2=1", socket="unix:///run/hunter2"
    )
    for key in ("url", "garbage", "option", "socket"):
        api_namespace.create(manifest(key, redis={"urlSecretRef": {"name": "redis", "key": key}}))
    told = [
        wait_for_condition(api_namespace, name, "RedisReachable", "Unreachable")["message"]
        for name in ("url", "socket")
    ]
    garbage = wait_for_condition(api_namespace, "garbage", "RedisReachable", "InvalidSettings")["message"]
    option = wait_for_condition(api_namespace, "option", "RedisReachable", "InvalidSettings")["message"]
    assert "Secret redis" in garbage
    assert "an option" in option
    everything = "".join([*told, garbage, option, operator.log.read_text()])
    assert not [word for word in ("hunter2", "shop:", "127.0.0.1:1") if word in everything]


def test_certificates_come_from_secrets(
    api_namespace: Namespace, operator: OperatorProcess, tmp_path: Path, start_redis: StartRedis
) -> None:
    authority, port = Authority(tmp_path), free_port()
    own, ours = authority.sign("server"), authority.sign("client")
    files = {"tls-cert-file": own.certificate, "tls-key-file": own.key, "tls-ca-cert-file": authority.file}
    start_redis({"tls-port": str(port), "tls-auth-clients": "yes", **{name: str(file) for name, file in files.items()}})
    create_secret(api_namespace, "ca", **{"ca.crt": authority.file.read_text(), "garbage": "x"})
    create_secret(api_namespace, "us", **{"tls.crt": ours.certificate.read_text(), "tls.key": ours.key.read_text()})
    certificate = {"certSecretRef": {"name": "us"}}
    for name, tls in {
        "mutual": {"caSecretRef": {"name": "ca", "key": "ca.crt"}, **certificate},
        "unknown": {"caSecretRef": {"name": "ca", "key": "ca.crt"}},
        "garbled": {"caSecretRef": {"name": "ca", "key": "garbage"}, **certificate},
    }.items():
        api_namespace.create(manifest(name, redis={"url": f"rediss://localhost:{port}/0", "tls": tls}))
    wait_for_condition(api_namespace, "mutual", "GroupReady", "GroupExists")
    assert "certSecretRef" in wait_for_condition(api_namespace, "unknown", "RedisReachable", "TlsFailed")["message"]
    assert (
        "key garbage of Secret ca"
        in wait_for_condition(api_namespace, "garbled", "RedisReachable", "InvalidSettings")["message"]
    )


def test_what_a_user_may_not_ask_is_not_known_and_the_rest_is(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    rights = ("+xinfo|groups", "+xgroup|create", "+xpending")
    redis.execute_command("ACL", "SETUSER", "shop", "on", ">pw", "~orders", *rights)
    redis.execute_command("ACL", "SETUSER", "blind", "on", ">pw", "~orders", "+ping")
    for user in ("shop", "blind"):
        create_secret(api_namespace, user, username=user, password="pw")
        refs = {f"{key}SecretRef": {"name": user, "key": key} for key in ("username", "password")}
        api_namespace.create(manifest(user, redis={"url": f"redis://{redis_server.host}:{redis_server.port}", **refs}))
    assert "grant +xlen with" in wait_for_condition(api_namespace, "shop", "GroupReady", "GroupExists")["message"]
    wait_for_stats(api_namespace, "shop", pending=0, lag=0, length=None, deadLetters=None)
    blind = wait_for_condition(api_namespace, "blind", "GroupReady", "NoPermission")
    assert blind["status"] == "Unknown"
    assert "+xinfo|groups" in blind["message"]
    redis.close()


def test_without_the_right_to_read_secrets_the_condition_says_so_and_what_it_costs(
    api_namespace: Namespace, tmp_path: Path
) -> None:
    create_secret(api_namespace, "redis", password="hunter2")
    told = {"watch_namespaces": api_namespace.name, "stream_interval": POLL_INTERVAL}
    with FaultyApiProxy(api_namespace.cluster) as proxy, running_operator(proxy.kubeconfig(tmp_path), tmp_path, **told):
        proxy.fault_for = lambda request: "403" if "/secrets/" in request.path else None
        ref = {"name": "redis", "key": "password"}
        redis = {"url": "redis://127.0.0.1:1", "passwordSecretRef": ref}
        api_namespace.create(manifest(redis=redis))
        found = wait_for_condition(api_namespace, "orders", "RedisReachable", "SecretsNotReadable")
        assert api_namespace.find("Deployment", "orders-consumer")
    assert found["status"] == "Unknown"
    assert "rbac.readSecrets" in found["message"]


def test_a_group_that_is_lost_begins_where_it_was(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    """No pod is there that knew better."""
    redis = redis_client(redis_server)
    api_namespace.create(manifest_for(redis_server))
    wait_for_condition(api_namespace, "orders", "GroupReady", "GroupExists")
    for number in range(3):
        redis.xadd("orders", {"n": number})
    redis.xreadgroup("billing", "somebody", {"orders": ">"}, count=2)
    last = redis.xinfo_groups("orders")[0]["last-delivered-id"]
    eventually(lambda: check_looked_after(redis))
    redis.xgroup_destroy("orders", "billing")
    eventually(lambda: check_position(redis, last))
    wait_for_stats(api_namespace, lag=1, lagKnown=True)  # not even Redis 7 knows it after that
    redis.close()


def test_a_group_that_is_deleted_while_suspended_is_created_after_the_resume_where_it_was(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    api_namespace.create(manifest_for(redis_server))
    wait_for_condition(api_namespace, "orders", "GroupReady", "GroupExists")
    redis.xadd("orders", {"n": 1})
    redis.xreadgroup("billing", "somebody", {"orders": ">"})
    last = redis.xinfo_groups("orders")[0]["last-delivered-id"]
    wait_for_stats(api_namespace, lastDeliveredId=last.decode())
    api_namespace.edit("orders", suspend=True)
    wait_until_settled(api_namespace)
    redis.xgroup_destroy("orders", "billing")
    api_namespace.create(manifest_for(redis_server, "other", stream="other"))
    wait_for_condition(api_namespace, "other", "GroupReady", "GroupExists")
    redis.xgroup_destroy("other", "billing")
    eventually(lambda: check_created_again(redis, "other"))  # by a look that comes after the deletion
    assert redis.xinfo_groups("orders") == []
    api_namespace.edit("orders", suspend=False)
    eventually(lambda: check_position(redis, last))
    redis.close()


def check_created_again(redis: Any, stream: str) -> None:
    assert redis.xinfo_groups(stream)


def check_looked_after(redis: Any) -> None:
    before = redis.info("commandstats")["cmdstat_xinfo|groups"]["calls"]
    time.sleep(2.5)
    assert redis.info("commandstats")["cmdstat_xinfo|groups"]["calls"] > before


def check_position(redis: Any, last: bytes) -> None:
    found = redis.xinfo_groups("orders")
    assert [each["last-delivered-id"] for each in found] == [last]


@pytest.mark.parametrize(("phase", "reason"), [("Pending", "GroupExists"), ("Running", "GroupMissing")])
def test_a_group_is_created_beside_pods_that_never_ran_and_not_beside_others(
    api_namespace: Namespace, redis_server: RedisServer, tmp_path: Path, phase: str, reason: str
) -> None:
    """Such as those that wait for their image, or were quicker there than the first look at Redis."""
    spec = {"containers": [{"name": "processor", "image": "shop:1.4"}]}
    labels = {"streamconsumer.dev/name": "orders", "app.kubernetes.io/managed-by": "streamconsumer-operator"}
    metadata = {"name": "orders-consumer-66c9f7d7b-first", "labels": labels}
    api_namespace.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    api_namespace.patch("Pod", "orders-consumer-66c9f7d7b-first", {"status": {"phase": phase}}, "/status")
    api_namespace.create(manifest_for(redis_server))
    with running_with_redis(api_namespace, tmp_path):
        wait_for_condition(api_namespace, "orders", "GroupReady", reason)


def test_consumers_of_pods_that_are_gone_go_if_they_hold_nothing(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    redis.xgroup_create("orders", "billing", "0", mkstream=True)
    redis.xadd("orders", {"n": 1})
    gone, holds, lives = (f"orders-consumer-66c9f7d7b-{name}" for name in ("gone1", "holds", "lives"))
    redis.xreadgroup("billing", holds, {"orders": ">"})
    for name in (gone, lives, "somebody"):
        redis.xgroup_createconsumer("orders", "billing", name)
    members = group_key("orders", "billing", "consumers")
    redis.hset(members, mapping={gone: 1, holds: 1, lives: redis.time()[0]})
    api_namespace.create(manifest_for(redis_server))
    eventually(lambda: check_consumers(redis, holds, lives, "somebody"))
    assert set(redis.hkeys(members)) == {holds.encode(), lives.encode()}
    redis.close()


def check_consumers(redis: Any, *names: str) -> None:
    found = redis.xinfo_consumers("orders", "billing")
    assert sorted(each["name"].decode() for each in found) == sorted(names)


def test_prometheus_reads_of_each_group_at_the_operator(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    api_namespace.create(manifest_for(redis_server))
    api_namespace.create(manifest("lost", redis={"url": "redis://127.0.0.1:1/0"}))
    wait_for_condition(api_namespace, "orders", "GroupReady", "GroupExists")
    for number in range(5):
        redis.xadd("orders", {"n": number})
    redis.xreadgroup("billing", "somebody", {"orders": ">"}, count=2)
    wait_for_stats(api_namespace, lag=3, pending=2)
    labels = (
        f'{{consumer_group="billing",resource_name="%s",resource_namespace="{api_namespace.name}",stream="orders"}}'
    )
    text = operator.metrics()
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("streamconsumer_"))
    mine = labels % "orders"
    assert found[f"streamconsumer_group_lag{mine}"] == "3.0"
    assert found[f"streamconsumer_group_lag_known{mine}"] == "1.0"
    assert found[f"streamconsumer_group_pending{mine}"] == "2.0"
    assert 0 <= float(found[f"streamconsumer_group_oldest_pending_age_seconds{mine}"]) < 60
    assert found[f"streamconsumer_ready{labels % 'lost'}"] == "0.0"
    assert f"streamconsumer_group_lag{labels % 'lost'}" not in found
    api_namespace.edit("orders", suspend=True)
    eventually(lambda: check_not_told(operator, f"streamconsumer_group_lag{mine}"))  # it would stand for ever
    redis.close()


def check_not_told(operator: OperatorProcess, figure: str) -> None:
    assert figure not in operator.metrics()
