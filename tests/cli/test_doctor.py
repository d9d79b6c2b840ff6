"""`streamconsumer doctor --from-environment`, run as in a pod: real Redis, real collector."""

import json
from pathlib import Path
from typing import Any

import pytest

from streamconsumer.cli.cluster.facts import Finding
from streamconsumer.cli.doctor.facts import (
    ClusterFacts,
    Diagnosis,
    Operator,
    PodFacts,
    PodVerdict,
    Server,
    Target,
    Verdict,
)
from streamconsumer.cli.doctor.findings import WORTH, of_cluster, of_pod
from streamconsumer.cli.doctor.work import lines
from tests.cli import forked
from tests.cli.forked import Ran
from tests.cluster.collector import Collector
from tests.cluster.processes import free_port
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.operator.looking import client
from tests.processor.group import GROUP, STREAM
from tests.processor.pod import Pod
from tests.processor.test_acl import KEYS, SMALLEST


def doctor(pod: Pod, *arguments: str, **environment: str) -> Ran:
    words = ("doctor", *(arguments or ("--from-environment", "-o", "json")))
    return forked.run(*words, environment={**pod.environment, **environment}, folder=pod.folder)


def said(ran: Ran) -> dict[str, Any]:
    assert ran.out, ran.err
    found: dict[str, Any] = json.loads(ran.out)["pod"]
    return found


def found(ran: Ran) -> dict[str, str]:
    return {each["object"]: f"{each['severity']}: {each['found']}" for each in said(ran)["findings"]}


@pytest.fixture
def new_pod(tmp_path: Path) -> Any:
    def made(server: RedisServer, handler: str = "pod_handlers:note", **settings: str) -> Pod:
        return Pod(tmp_path, server.url, handler, **settings)

    return made


def test_where_all_is_there_each_thing_is_told_and_nothing_is_changed(
    new_pod: Any, start_redis: StartRedis, collector: Collector
) -> None:
    server = start_redis({"appendonly": "yes"})
    with client(server) as redis:
        redis.xgroup_create(STREAM, GROUP, mkstream=True)
        before = (redis.keys("*"), redis.xinfo_stream(STREAM), redis.xinfo_consumers(STREAM, GROUP))
        ran = doctor(new_pod(server), **collector.environment)
        assert (redis.keys("*"), redis.xinfo_stream(STREAM), redis.xinfo_consumers(STREAM, GROUP)) == before
    assert ran.code == 0, ran.out + ran.err
    assert said(ran)["findings"] == []
    told = {each["object"]: each["found"] for each in said(ran)["checked"]}
    assert told[f"Redis 127.0.0.1:{server.port}"] == f"answers, version {server.version}"
    assert told["handler pod_handlers:note"] == "can be called"
    assert told[f"collector {collector.http_endpoint}/v1/traces"] == "takes an empty export"
    assert told[f"group {GROUP!r} of {STREAM!r}"] == "exists"


def test_dangers_rights_and_a_missing_group_are_warnings(new_pod: Any, start_redis: StartRedis) -> None:
    server = start_redis({"maxmemory-policy": "allkeys-lru"})
    with client(server) as redis:
        redis.execute_command(
            "ACL", "SETUSER", "shop", "on", ">pw", *KEYS, "-@all", *SMALLEST, "+config|get", "-client|id"
        )
    ran = doctor(new_pod(server, redis_username="shop", redis_password="pw"))
    assert ran.code == 0, ran.out + ran.err
    told = [(each["object"], each["found"]) for each in said(ran)["findings"]]
    assert ("rights at Redis", "the user lacks +client|id") in told
    assert (f"group {GROUP!r} of {STREAM!r}", "there is no such group") in told
    assert [about for about, _ in told].count("settings of Redis") == 2
    assert {each["severity"] for each in said(ran)["findings"]} == {"warning"}


def test_a_missing_required_right_is_an_error_in_the_words_of_the_processor(
    new_pod: Any, start_redis: StartRedis
) -> None:
    server = start_redis()
    with client(server) as redis:
        redis.execute_command("ACL", "SETUSER", "shop", "on", ">pw", *KEYS, "-@all", *SMALLEST, "-eval")
    ran = doctor(new_pod(server, redis_username="shop", redis_password="pw"))
    assert ran.code == 1
    assert found(ran)[f"Redis 127.0.0.1:{server.port}"] == (
        f"error: Redis at 127.0.0.1:{server.port} refuses the Redis user what is required: +eval; "
        "grant it with ACL SETUSER, docs/redis.md lists the rights"
    )


def test_a_server_a_handler_and_a_collector_that_are_not_there_are_told_at_once(new_pod: Any, tmp_path: Path) -> None:
    port, nowhere = free_port(), f"http://user:hidden@127.0.0.1:{free_port()}"
    pod = Pod(tmp_path, f"redis://:hidden@127.0.0.1:{port}/0", "shop.orders:handle")
    ran = doctor(pod, OTEL_EXPORTER_OTLP_ENDPOINT=nowhere)
    assert ran.code == 1
    told = found(ran)
    assert told[f"Redis 127.0.0.1:{port}"].startswith("error: 127.0.0.1")
    assert "module 'shop' not found" in told["handler shop.orders:handle"]
    assert next(each for about, each in told.items() if "/v1/traces" in about).startswith("warning: no answer")
    assert "hidden" not in ran.out + ran.err


def test_a_wrong_password_is_an_error_and_is_not_printed(new_pod: Any, start_redis: StartRedis) -> None:
    server = start_redis({"requirepass": "right"})
    ran = doctor(new_pod(server, redis_password="hidden-wrong"), "--from-environment")
    assert ran.code == 1
    assert "the user name or the password is wrong" in " ".join(ran.out.split())
    assert "hidden-wrong" not in ran.out + ran.err


def test_a_key_that_is_no_stream_is_an_error(new_pod: Any, redis_server: RedisServer) -> None:
    with client(redis_server) as redis:
        redis.set(STREAM, "text")
    ran = doctor(new_pod(redis_server))
    assert ran.code == 1
    assert "the key is not a stream" in found(ran)[f"group {GROUP!r} of {STREAM!r}"]


def test_what_a_handler_does_at_import_neither_spoils_the_document_nor_holds_it(
    new_pod: Any, redis_server: RedisServer, tmp_path: Path
) -> None:
    lines = ["import threading", "print('hello')", "threading.Thread(target=threading.Event().wait).start()"]
    (tmp_path / "noisy.py").write_text("\n".join([*lines, "def handle(data): ...", ""]))
    ran = doctor(new_pod(redis_server, "noisy:handle"))
    assert ran.code == 0, ran.out + ran.err
    assert ran.err == "hello\n"
    assert said(ran)["name"] == "pod-a"


def test_a_service_is_asked_for_a_connection_only(tmp_path: Path, redis_server: RedisServer) -> None:
    pod = Pod(tmp_path, redis_server.url, "unused:unused")
    pod.environment.pop("STREAMCONSUMER_HANDLER_PYTHON")
    url = f"http://127.0.0.1:{free_port()}/orders"
    ran = doctor(pod, STREAMCONSUMER_HANDLER_HTTP_URL=url)
    assert ran.code == 1
    assert found(ran)[f"handler {url}"].startswith("error: it cannot be reached")


@pytest.mark.parametrize(
    "arguments", [(), ("orders", "--from-environment"), ("--from-environment",)], ids=["nothing", "both", "no pod"]
)
def test_wrong_use_is_exit_code_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ran = forked.run("doctor", *arguments, environment={}, folder=tmp_path)
    assert ran.code == 2, ran.err


# -- pure --------------------------------------------------------------------------------------------------------------


def pod_facts(**changed: Any) -> PodFacts:
    server = Server(address="redis:6379", version="8.2.1", group="exists", settings={"appendonly": "yes"})
    whole = {"name": "orders-consumer-a", "stream": "orders", "consumer_group": "billing", "server": server}
    return PodFacts(**{**whole, "handler": Target(name="shop:handle"), **changed})


def cluster_facts(**changed: Any) -> ClusterFacts:
    operator = Operator(namespace="ops", name="operator", image="operator:1", wanted=2, ready=2)
    whole = {"operators": [operator], "fields_lacking": [], "rights": dict.fromkeys(WORTH, True)}
    return ClusterFacts(**{**whole, **changed})


def objects(verdict: Verdict) -> list[tuple[str, str]]:
    return [(each.severity, each.object) for each in verdict.findings]


def test_a_server_that_cannot_be_used_says_nothing_more() -> None:
    verdict = of_pod(pod_facts(server=Server(address="redis:6379", problem="redis:6379: refused", lacking=["+time"])))
    assert objects(verdict) == [("error", "Redis redis:6379")]


def test_an_operator_without_pods_is_an_error_and_one_that_may_not_be_seen_is_not() -> None:
    away = Operator(namespace="ops", name="operator", image="operator:1", wanted=2, ready=0)
    assert objects(of_cluster(cluster_facts(operators=[away]))) == [("error", "operator ops/operator")]
    assert objects(of_cluster(cluster_facts(operators=[]))) == [("error", "operator")]
    assert objects(of_cluster(cluster_facts(operators=None, fields_lacking=None))) == []


def test_an_old_definition_is_a_warning_that_names_the_fields() -> None:
    (finding,) = of_cluster(cluster_facts(fields_lacking=["spec.new"])).findings
    assert (finding.severity, finding.found) == ("warning", "it does not know spec.new")


def test_a_right_that_is_lacking_says_what_it_is_for() -> None:
    rights = {**dict.fromkeys(WORTH, True), "create pods/exec": False}
    (finding,) = of_cluster(cluster_facts(rights=rights)).findings
    assert (finding.severity, finding.found) == ("warning", "you may not create pods/exec")


@pytest.mark.parametrize("width", [60, 100])
def test_the_screen_is_never_wider_than_the_terminal(width: int) -> None:
    wrong = Finding(severity="error", object="x", found="found " * 40, expected="y " * 90, advice="z " * 90)
    pod = PodVerdict(name="orders-consumer-a", findings=[wrong])
    shown = "\n".join(lines(Diagnosis(cluster=of_cluster(cluster_facts()), pod=pod), width))
    for code in ("\x1b[31m", "\x1b[1m", "\x1b[0m"):
        shown = shown.replace(code, "")
    assert max(map(len, shown.splitlines())) <= width
