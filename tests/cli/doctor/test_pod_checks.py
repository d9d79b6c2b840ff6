"""Checks in a pod: `streamconsumer doctor --from-environment` with a real Redis and a real collector."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli import forked
from tests.cli.forked import CommandResult
from tests.cluster.collector import Collector
from tests.cluster.processes import free_port
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.operator.redis_operator import redis_client
from tests.processor.consumer.test_permissions import KEYS, SMALLEST
from tests.processor.group import GROUP, STREAM
from tests.processor.pod import Pod


def doctor(pod: Pod, *arguments: str, **environment: str) -> CommandResult:
    options = arguments or ("--from-environment", "-o", "json")
    return forked.run("doctor", *options, environment={**pod.environment, **environment}, folder=pod.folder)


def result(ran: CommandResult) -> dict[str, Any]:
    """Return the result of the pod."""
    assert ran.out, ran.err
    pod: dict[str, Any] = json.loads(ran.out)["pod"]
    return pod


def findings(ran: CommandResult) -> dict[str, str]:
    return {each["object"]: f"{each['severity']}: {each['found']}" for each in result(ran)["findings"]}


@pytest.fixture
def new_pod(tmp_path: Path) -> Any:
    def create(server: RedisServer, handler: str = "pod_handlers:log_handled", **settings: str) -> Pod:
        return Pod(tmp_path, server.url, handler, **settings)

    return create


def test_doctor_passes_every_check_and_changes_nothing(
    new_pod: Any, start_redis: StartRedis, collector: Collector
) -> None:
    server = start_redis({"appendonly": "yes"})
    with redis_client(server) as redis:
        redis.xgroup_create(STREAM, GROUP, mkstream=True)
        before = (redis.keys("*"), redis.xinfo_stream(STREAM), redis.xinfo_consumers(STREAM, GROUP))
        ran = doctor(new_pod(server), **collector.environment)
        assert (redis.keys("*"), redis.xinfo_stream(STREAM), redis.xinfo_consumers(STREAM, GROUP)) == before
    assert ran.code == 0, ran.out + ran.err
    assert result(ran)["findings"] == []
    passed = {each["object"]: each["found"] for each in result(ran)["passed"]}
    assert passed[f"Redis 127.0.0.1:{server.port}"] == f"answers, version {server.version}"
    assert passed["handler pod_handlers:log_handled"] == "can be called"
    assert passed[f"collector {collector.http_endpoint}/v1/traces"] == "accepts an empty export"
    assert passed[f"group {GROUP!r} of {STREAM!r}"] == "exists"


def test_risky_settings_missing_permissions_and_a_missing_group_are_warnings(
    new_pod: Any, start_redis: StartRedis
) -> None:
    server = start_redis({"maxmemory-policy": "allkeys-lru"})
    with redis_client(server) as redis:
        redis.execute_command(
            "ACL", "SETUSER", "shop", "on", ">pw", *KEYS, "-@all", *SMALLEST, "+config|get", "-client|id"
        )
    ran = doctor(new_pod(server, redis_username="shop", redis_password="pw"))
    assert ran.code == 0, ran.out + ran.err
    warnings = [(each["object"], each["found"]) for each in result(ran)["findings"]]
    assert ("Redis permissions", "the user is missing +client|id") in warnings
    assert (f"group {GROUP!r} of {STREAM!r}", "the group does not exist") in warnings
    assert [subject for subject, _ in warnings].count("Redis settings") == 2
    assert {each["severity"] for each in result(ran)["findings"]} == {"warning"}


def test_missing_required_permission_is_an_error_with_the_message_of_the_processor(
    new_pod: Any, start_redis: StartRedis
) -> None:
    server = start_redis()
    with redis_client(server) as redis:
        redis.execute_command("ACL", "SETUSER", "shop", "on", ">pw", *KEYS, "-@all", *SMALLEST, "-eval")
    ran = doctor(new_pod(server, redis_username="shop", redis_password="pw"))
    assert ran.code == 1
    assert findings(ran)[f"Redis 127.0.0.1:{server.port}"] == (
        f"error: Redis at 127.0.0.1:{server.port} does not grant required permissions: +eval; "
        "grant them with ACL SETUSER; docs/redis.md lists the permissions"
    )


def test_missing_server_handler_and_collector_are_reported_together(new_pod: Any, tmp_path: Path) -> None:
    port, endpoint = free_port(), f"http://user:hidden@127.0.0.1:{free_port()}"
    pod = Pod(tmp_path, f"redis://:hidden@127.0.0.1:{port}/0", "shop.orders:handle")
    ran = doctor(pod, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    assert ran.code == 1
    errors = findings(ran)
    assert errors[f"Redis 127.0.0.1:{port}"].startswith("error: 127.0.0.1")
    assert "module 'shop' not found" in errors["handler shop.orders:handle"]
    assert next(text for subject, text in errors.items() if "/v1/traces" in subject).startswith("warning: no response")
    assert "hidden" not in ran.out + ran.err


def test_wrong_password_is_an_error_and_is_not_printed(new_pod: Any, start_redis: StartRedis) -> None:
    server = start_redis({"requirepass": "right"})
    ran = doctor(new_pod(server, redis_password="hidden-wrong"), "--from-environment")
    assert ran.code == 1
    assert "the user name or the password is wrong" in " ".join(ran.out.split())
    assert "hidden-wrong" not in ran.out + ran.err


def test_key_of_another_type_is_an_error(new_pod: Any, redis_server: RedisServer) -> None:
    with redis_client(redis_server) as redis:
        redis.set(STREAM, "text")
    ran = doctor(new_pod(redis_server))
    assert ran.code == 1
    assert "contains another type of value" in findings(ran)[f"group {GROUP!r} of {STREAM!r}"]


def test_output_and_threads_of_a_handler_module_do_not_affect_the_document(
    new_pod: Any, redis_server: RedisServer, tmp_path: Path
) -> None:
    lines = ["import threading", "print('hello')", "threading.Thread(target=threading.Event().wait).start()"]
    (tmp_path / "noisy.py").write_text("\n".join([*lines, "def handle(data): ...", ""]))
    ran = doctor(new_pod(redis_server, "noisy:handle"))
    assert ran.code == 0, ran.out + ran.err
    assert ran.err == "hello\n"
    assert result(ran)["name"] == "pod-a"


def test_http_handler_is_checked_by_a_connection_only(tmp_path: Path, redis_server: RedisServer) -> None:
    pod = Pod(tmp_path, redis_server.url, "unused:unused")
    pod.environment.pop("STREAMCONSUMER_HANDLER_PYTHON")
    url = f"http://127.0.0.1:{free_port()}/orders"
    ran = doctor(pod, STREAMCONSUMER_HANDLER_HTTP_URL=url)
    assert ran.code == 1
    assert findings(ran)[f"handler {url}"].startswith("error: connection failed")


@pytest.mark.parametrize(
    "arguments", [(), ("orders", "--from-environment"), ("--from-environment",)], ids=["nothing", "both", "no pod"]
)
def test_exit_code_is_2_for_wrong_use(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ran = forked.run("doctor", *arguments, environment={}, folder=tmp_path)
    assert ran.code == 2, ran.err
