"""Redis monitor with a real API server and real Redis servers, without pods."""

import os
import re
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
    create_group,
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


def test_status_shows_the_stream_statistics(
    api_namespace: Namespace, operator: OperatorProcess, any_redis: RedisServer
) -> None:
    redis = redis_client(any_redis)
    redis.xgroup_create("orders", "billing", "0", mkstream=True)
    for number in range(5):
        redis.xadd("orders", {"n": number})
    [[_, entries]] = redis.xreadgroup("billing", "another", {"orders": ">"}, count=2)
    redis.xadd(group_key("orders", "billing", "dead-letters"), {"n": 0})
    api_namespace.create(manifest_for(any_redis))
    stats = wait_for_stats(api_namespace, lag=3, lagKnown=True, pending=2, length=5, deadLetters=1, consumers=1)
    assert stats["lastDeliveredId"] == entries[-1][0].decode()
    age = time.time() - int(entries[0][0].decode().partition("-")[0]) / 1000
    assert stats["oldestPendingTime"] <= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    assert age < 60
    header, row = api_namespace.kubectl("get", "stc", "orders").splitlines()
    assert header.split()[5:7] == ["LAG", "PENDING"]
    assert row.split()[5:7] == ["3", "2"]
    redis.close()


def test_lag_is_counted_when_redis_does_not_report_it(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    redis.xgroup_create("orders", "billing", "0", mkstream=True)
    ids = [redis.xadd("orders", {"n": number}) for number in range(5)]
    redis.xreadgroup("billing", "another", {"orders": ">"}, count=1)
    redis.xdel("orders", ids[3])
    assert redis.xinfo_groups("orders")[0]["lag"] is None
    api_namespace.create(manifest_for(redis_server))
    wait_for_stats(api_namespace, lag=3, lagKnown=True)
    redis.close()


def test_operator_writes_nothing_at_rest(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    for number in range(20):
        create_group(redis_server, f"orders-{number}")
        api_namespace.create(manifest_for(redis_server, f"orders-{number}", stream=f"orders-{number}"))
    for number in range(20):
        wait_for_condition(api_namespace, f"orders-{number}", "GroupReady", "GroupExists")
    versions = wait_until_settled(api_namespace, 2)
    polls = redis.info("commandstats")["cmdstat_xinfo|groups"]["calls"]
    time.sleep(3)
    assert redis.info("commandstats")["cmdstat_xinfo|groups"]["calls"] > polls
    assert api_namespace.versions() == versions
    (connection,) = [client for client in redis.client_list() if client["cmd"] != "client|list"]
    assert connection["cmd"] in ("xlen", "eval")
    operator.kill()
    with running_with_redis(api_namespace, operator.log.parent, stream_interval=POLL_INTERVAL):
        time.sleep(3)
        assert api_namespace.versions() == versions
    redis.close()


def test_changing_statistics_are_written_rarely(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    create_group(redis_server)
    api_namespace.create(manifest_for(redis_server))
    wait_for_stats(api_namespace, lag=0)
    started, versions = time.monotonic(), set()
    while time.monotonic() - started < 6:
        redis.xadd("orders", {"n": 1})
        versions.add(api_namespace.get("StreamConsumer", "orders")["metadata"]["resourceVersion"])
        time.sleep(0.2)
    assert len(versions) == 1
    redis.close()


def test_unavailable_server_does_not_delay_other_servers(
    api_namespace: Namespace, operator: OperatorProcess, start_redis: StartRedis
) -> None:
    frozen, good = start_redis(), start_redis()
    frozen.pause()
    try:
        api_namespace.create(manifest_for(frozen, "frozen"))
        api_namespace.create(manifest("nowhere", redis={"url": "redis://127.0.0.1:1"}))
        api_namespace.create(manifest_for(good, "good"))
        wait_for_condition(api_namespace, "good", "RedisReachable", "Connected")
        for name in ("frozen", "nowhere"):
            condition = wait_for_condition(api_namespace, name, "RedisReachable", "Unreachable")
            assert condition["status"] == "False"
            assert api_namespace.conditions(name)["GroupReady"]["status"] == "Unknown"
        assert "127.0.0.1:1" in api_namespace.conditions("nowhere")["RedisReachable"]["message"]
    finally:
        frozen.resume()
    wait_for_condition(api_namespace, "frozen", "RedisReachable", "Connected")


def test_missing_database_is_reported_as_invalid_settings(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    api_namespace.create(manifest(redis={"url": f"redis://127.0.0.1:{redis_server.port}/99"}))
    condition = wait_for_condition(api_namespace, "orders", "RedisReachable", "InvalidSettings")
    assert "the server has no database with this number" in condition["message"]


def test_error_of_one_stream_is_reported_only_for_that_stream(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    redis.set("text", "x")
    api_namespace.create(manifest_for(redis_server, "wrong", stream="text"))
    api_namespace.create(manifest_for(redis_server, "right"))
    assert wait_for_condition(api_namespace, "wrong", "GroupReady", "NotAStream")["status"] == "False"
    wait_for_condition(api_namespace, "right", "GroupReady", "GroupMissing")
    assert {api_namespace.conditions(name)["RedisReachable"]["status"] for name in ("wrong", "right")} == {"True"}
    redis.close()


def test_password_is_read_again_after_a_change(
    api_namespace: Namespace, operator: OperatorProcess, start_redis: StartRedis
) -> None:
    server = start_redis({"requirepass": "old"})
    ref = {"name": "redis", "key": "password"}
    api_namespace.create(manifest_for(server, password=ref))
    assert "redis" in wait_for_condition(api_namespace, "orders", "RedisReachable", "SecretMissing")["message"]
    create_secret(api_namespace, "redis", password="wrong-hunter2\n")
    rejected = wait_for_condition(api_namespace, "orders", "RedisReachable", "CredentialsRefused")
    redis = redis_client(server, password="old")
    redis.config_set("requirepass", "wrong-hunter2")
    wait_for_condition(api_namespace, "orders", "RedisReachable", "Connected")
    redis.config_set("requirepass", "new")
    redis.execute_command("CLIENT", "KILL", "TYPE", "normal")
    wait_for_condition(api_namespace, "orders", "RedisReachable", "CredentialsRefused")
    encoded = {"data": {"password": b64encode(b"new").decode()}}
    api_namespace.cluster.request("PATCH", f"/api/v1/namespaces/{api_namespace.name}/secrets/redis", encoded)
    wait_for_condition(api_namespace, "orders", "RedisReachable", "Connected")
    assert "hunter2" not in rejected["message"] + operator.log.read_text() + str(api_namespace.events("orders"))
    redis.close()


def test_url_in_a_secret_is_never_quoted(api_namespace: Namespace, operator: OperatorProcess) -> None:
    url = "redis://shop:hunter2@127.0.0.1:1/0"
    create_secret(api_namespace, "redis", url=url, garbage="hunter2", option=f"{url}?hunter2=1")
    for key in ("url", "garbage", "option"):
        api_namespace.create(manifest(key, redis={"urlSecretRef": {"name": "redis", "key": key}}))
    unreachable = wait_for_condition(api_namespace, "url", "RedisReachable", "Unreachable")["message"]
    garbage = wait_for_condition(api_namespace, "garbage", "RedisReachable", "InvalidSettings")["message"]
    option = wait_for_condition(api_namespace, "option", "RedisReachable", "InvalidSettings")["message"]
    assert "key garbage of Secret redis: expected a value that spec.redis accepts" in garbage
    assert "key option of Secret redis has an option that cannot be used: option 1 after `?`" in option
    output = f"{unreachable}{garbage}{option}{operator.log.read_text()}"
    assert not [secret for secret in ("hunter2", "shop:", "127.0.0.1:1") if secret in output]


def test_option_of_a_url_in_a_secret_never_opens_a_file_or_a_socket(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer, tmp_path: Path
) -> None:
    """A FIFO that is opened blocks the operator, so that it does not reconcile the last StreamConsumer."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    urls = {
        "ca": f"rediss://127.0.0.1:1/0?ssl_ca_certs={fifo}",
        "cert": f"rediss://127.0.0.1:1/0?ssl_certfile={fifo}&ssl_keyfile={fifo}",
        "encoded": f"rediss://127.0.0.1:1/0?ssl%5Fca_certs={fifo}",
        "codec": f"redis://127.0.0.1:{redis_server.port}/0?encoding=rot13",
        "socket": f"unix://{fifo}",
    }
    create_secret(api_namespace, "redis", **urls)
    for key in urls:
        api_namespace.create(manifest(key, redis={"urlSecretRef": {"name": "redis", "key": key}}))
    found = {
        key: wait_for_condition(api_namespace, key, "RedisReachable", "InvalidSettings")["message"] for key in urls
    }
    expected = {
        "ca": "(ssl_ca_certs) is not allowed; set redis.tls",
        "cert": "(ssl_certfile) is not allowed; set redis.tls",
        "encoded": "(ssl_ca_certs) is not allowed; set redis.tls",
        "codec": "(encoding) is not allowed; remove the option",
        "socket": "begins with unix://, which only pods can use",
    }
    assert all(text in found[key] and f"key {key} of Secret redis" in found[key] for key, text in expected.items())
    api_namespace.create(manifest_for(redis_server, "right"))
    wait_for_condition(api_namespace, "right", "RedisReachable", "Connected")


def test_large_secret_of_certificates_is_rejected(api_namespace: Namespace, operator: OperatorProcess) -> None:
    pem = f"-----BEGIN CERTIFICATE-----\n{'A' * 700_000}\n-----END CERTIFICATE-----\n"
    create_secret(api_namespace, "ca", **{"ca.crt": pem})
    tls = {"caSecretRef": {"name": "ca", "key": "ca.crt"}}
    api_namespace.create(manifest("large", redis={"url": "rediss://127.0.0.1:1/0", "tls": tls}))
    message = wait_for_condition(api_namespace, "large", "RedisReachable", "InvalidSettings")["message"]
    assert re.search("Key ca.crt of Secret ca: found 70005[45] bytes, expected at most 524288", message)


def test_certificates_are_read_from_secrets(
    api_namespace: Namespace, operator: OperatorProcess, tmp_path: Path, start_redis: StartRedis
) -> None:
    authority, port = Authority(tmp_path), free_port()
    server, client = authority.sign("server"), authority.sign("client")
    files = {"tls-cert-file": server.certificate, "tls-key-file": server.key, "tls-ca-cert-file": authority.file}
    start_redis({"tls-port": str(port), "tls-auth-clients": "yes", **files})
    create_secret(api_namespace, "ca", **{"ca.crt": authority.file.read_text(), "garbage": "x"})
    client_files = {"tls.crt": client.certificate.read_text(), "tls.key": client.key.read_text()}
    create_secret(api_namespace, "client", **client_files)
    certificate = {"certSecretRef": {"name": "client"}}
    for name, tls in {
        "mutual": {"caSecretRef": {"name": "ca", "key": "ca.crt"}, **certificate},
        "unknown": {"caSecretRef": {"name": "ca", "key": "ca.crt"}},
        "garbled": {"caSecretRef": {"name": "ca", "key": "garbage"}, **certificate},
    }.items():
        api_namespace.create(manifest(name, redis={"url": f"rediss://localhost:{port}/0", "tls": tls}))
    wait_for_condition(api_namespace, "mutual", "RedisReachable", "Connected")
    assert "certSecretRef" in wait_for_condition(api_namespace, "unknown", "RedisReachable", "TlsFailed")["message"]
    assert (
        "key garbage of Secret ca"
        in wait_for_condition(api_namespace, "garbled", "RedisReachable", "InvalidSettings")["message"]
    )


def test_missing_permission_leaves_only_that_value_unknown(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    create_group(redis_server)
    permissions = ("+eval", "+xinfo|groups", "+xpending")
    redis.execute_command("ACL", "SETUSER", "shop", "on", ">pw", "~orders", *permissions)
    redis.execute_command("ACL", "SETUSER", "blind", "on", ">pw", "~orders", "+ping")
    for user in ("shop", "blind"):
        create_secret(api_namespace, user, username=user, password="pw")
        refs = {f"{key}SecretRef": {"name": user, "key": key} for key in ("username", "password")}
        api_namespace.create(manifest(user, redis={"url": f"redis://{redis_server.host}:{redis_server.port}", **refs}))
    assert "grant +xlen with" in wait_for_condition(api_namespace, "shop", "GroupReady", "GroupExists")["message"]
    wait_for_stats(api_namespace, "shop", pending=0, lag=0, length=None, deadLetters=None)
    blind = wait_for_condition(api_namespace, "blind", "GroupReady", "NoPermission")
    assert blind["status"] == "Unknown"
    assert "+eval" in blind["message"]
    redis.close()


def test_missing_permission_to_read_secrets_is_reported_with_the_remedy(
    api_namespace: Namespace, tmp_path: Path
) -> None:
    create_secret(api_namespace, "redis", password="hunter2")
    settings = {"watch_namespaces": api_namespace.name, "stream_interval": POLL_INTERVAL}
    with (
        FaultyApiProxy(api_namespace.cluster) as proxy,
        running_operator(proxy.kubeconfig(tmp_path), tmp_path, **settings),
    ):
        proxy.fault_for = lambda request: "403" if "/secrets/" in request.path else None
        ref = {"name": "redis", "key": "password"}
        redis = {"url": "redis://127.0.0.1:1", "passwordSecretRef": ref}
        api_namespace.create(manifest(redis=redis))
        condition = wait_for_condition(api_namespace, "orders", "RedisReachable", "SecretsNotReadable")
        assert api_namespace.find("Deployment", "orders-consumer")
    assert condition["status"] == "Unknown"
    assert "run: kubectl create rolebinding streamconsumer-secret-reader" in condition["message"]


def test_operator_never_writes_to_redis(
    api_namespace: Namespace, operator: OperatorProcess, any_redis: RedisServer
) -> None:
    """The server may belong to another tenant. The author of the StreamConsumers cannot reach such a server."""
    redis = redis_client(any_redis)
    redis.xadd("crowded", {"n": 1})
    redis.xgroup_create("crowded", "billing", "$")
    for number in range(3):
        redis.xgroup_createconsumer("crowded", "billing", f"crowded-consumer-66c9f7d7b-ended{number}")
    redis.hset(group_key("crowded", "billing", "consumers"), "crowded-consumer-66c9f7d7b-ended0", 1)
    redis.xadd("without-group", {"n": 1})
    before = writes(redis)
    streams = ("crowded", "without-group", "absent")
    for stream in streams:
        for start, number in (("0", 0), ("$", 1)):
            scaling = {"minReplicas": 0, "cooldown": "0s"}
            item = manifest_for(any_redis, f"{stream}-{number}", stream=stream, startFrom=start, autoscaling=scaling)
            api_namespace.create(item)
        api_namespace.create(manifest_for(any_redis, stream, stream=stream))
    wait_for_condition(api_namespace, "crowded", "GroupReady", "GroupExists")
    for stream in ("without-group", "absent"):
        wait_for_condition(api_namespace, stream, "GroupReady", "GroupMissing")
    check_polled(redis)
    assert writes(redis) == before
    redis.close()


def writes(redis: Any) -> tuple[int, int]:
    """Return the number of changes to the data set, and the number of keys."""
    return redis.info("persistence")["rdb_changes_since_last_save"], redis.dbsize()


def check_polled(redis: Any) -> None:
    polls = redis.info("commandstats")["cmdstat_evalsha"]["calls"]
    time.sleep(2.5)
    assert redis.info("commandstats")["cmdstat_evalsha"]["calls"] > polls


def test_metrics_endpoint_exports_the_statistics_of_each_group(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    create_group(redis_server)
    api_namespace.create(manifest_for(redis_server))
    api_namespace.create(manifest("lost", redis={"url": "redis://127.0.0.1:1/0"}))
    wait_for_condition(api_namespace, "orders", "GroupReady", "GroupExists")
    for number in range(5):
        redis.xadd("orders", {"n": number})
    redis.xreadgroup("billing", "another", {"orders": ">"}, count=2)
    wait_for_stats(api_namespace, lag=3, pending=2)
    labels = (
        f'{{consumer_group="billing",resource_name="%s",resource_namespace="{api_namespace.name}",stream="orders"}}'
    )
    text = operator.metrics()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("streamconsumer_"))
    own_labels = labels % "orders"
    assert values[f"streamconsumer_group_lag{own_labels}"] == "3.0"
    assert values[f"streamconsumer_group_lag_known{own_labels}"] == "1.0"
    assert values[f"streamconsumer_group_pending{own_labels}"] == "2.0"
    assert 0 <= float(values[f"streamconsumer_group_oldest_pending_age_seconds{own_labels}"]) < 60
    assert values[f"streamconsumer_ready{labels % 'lost'}"] == "0.0"
    assert f"streamconsumer_group_lag{labels % 'lost'}" not in values
    api_namespace.edit("orders", suspend=True)
    eventually(lambda: check_not_exported(operator, f"streamconsumer_group_lag{own_labels}"))
    redis.close()


def check_not_exported(operator: OperatorProcess, metric: str) -> None:
    assert metric not in operator.metrics()
