"""The operator connects only to allowed addresses, and conditions reveal nothing about other servers.

The servers listen on loopback. The setting allowed_destinations contains 127.0.0.1, and 127.0.0.2 is a refused address.
"""

from collections.abc import Iterator
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from streamconsumer.operator.main import DANGEROUS_EXCEPTION
from streamconsumer.operator.redis_monitor.probe import NO_REPLY_MESSAGE
from tests.cluster.processes import free_port
from tests.model.examples import Manifest, manifest
from tests.operator.foreign_server import ForeignServer, foreign_server
from tests.operator.namespace import Namespace, eventually
from tests.operator.operator_process import OperatorProcess
from tests.operator.redis_operator import running_with_redis, wait_for_condition


@pytest.fixture
def refused() -> Iterator[ForeignServer]:
    """A server at a refused address."""
    with foreign_server(host="127.0.0.2") as server:
        yield server


@pytest.fixture
def operator_with_exception(api_namespace: Namespace, tmp_path: Path) -> Iterator[OperatorProcess]:
    with running_with_redis(api_namespace, tmp_path, allowed_destinations="127.0.0.1/32") as operator:
        yield operator


def bulk(*items: str) -> bytes:
    return b"".join(b"$%d\r\n%s\r\n" % (len(item), item.encode()) for item in items)


def sentinel_reply(host: str, port: int) -> bytes:
    """Replies to HELLO or CLIENT SETINFO, and to SENTINEL GET-MASTER-ADDR-BY-NAME."""
    return b"*2\r\n" + bulk(host, str(port))


def cluster_reply(host: str, port: int) -> bytes:
    return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n" + bulk(host) + b":%d\r\n" % port


def create(namespace: Namespace, name: str, **redis: object) -> None:
    namespace.create(manifest(name, redis=redis))


def test_refused_address_gets_no_connection(
    api_namespace: Namespace, operator_with_exception: OperatorProcess, refused: ForeignServer
) -> None:
    hosts = {
        "plain": "127.0.0.2",
        "mapped": "[::ffff:127.0.0.2]",
        "unspecified": "0.0.0.0",
        "metadata": "169.254.169.254",
    }
    for name, host in hosts.items():
        create(api_namespace, name, url=f"redis://{host}:{refused.port}/0")
    for name, host in hosts.items():
        condition = wait_for_condition(api_namespace, name, "RedisReachable", "DestinationNotAllowed")
        assert condition["status"] == "False"
        assert str(ip_address(host.strip("[]"))) in condition["message"]
        assert "allowedDestinations" in condition["message"]
    assert refused.connections == 0


def test_api_server_is_refused_although_its_address_is_allowed(
    api_namespace: Namespace, operator_with_exception: OperatorProcess
) -> None:
    create(api_namespace, "api", url=f"redis://127.0.0.1:{urlsplit(api_namespace.cluster.url).port}/0")
    message = wait_for_condition(api_namespace, "api", "RedisReachable", "DestinationNotAllowed")["message"]
    assert "Kubernetes API server" in message
    assert "allowedDestinations" not in message, "this value never allows the API server"


def test_primary_that_a_sentinel_names_is_checked(
    api_namespace: Namespace, operator_with_exception: OperatorProcess, refused: ForeignServer
) -> None:
    with foreign_server(sentinel_reply("127.0.0.2", refused.port)) as sentinel:
        nodes = [f"127.0.0.1:{sentinel.port}"]
        create(api_namespace, "named", url="redis:///0", sentinel={"masterName": "main", "nodes": nodes})
        create(
            api_namespace, "sentinel", url="redis:///0", sentinel={"masterName": "main", "nodes": ["127.0.0.2:26379"]}
        )
        for name in ("named", "sentinel"):
            message = wait_for_condition(api_namespace, name, "RedisReachable", "DestinationNotAllowed")["message"]
            assert "127.0.0.2" in message
        assert sentinel.connections > 0
    assert refused.connections == 0


def test_primary_that_a_cluster_node_names_is_checked(
    api_namespace: Namespace, operator_with_exception: OperatorProcess, refused: ForeignServer
) -> None:
    with foreign_server(cluster_reply("127.0.0.2", refused.port)) as node:
        create(api_namespace, "cluster", url=f"redis://127.0.0.1:{node.port}/0", cluster=True)
        wait_for_condition(api_namespace, "cluster", "RedisReachable", "DestinationNotAllowed")
        assert node.connections > 0
    assert refused.connections == 0


@pytest.mark.parametrize("reply", [b"+OK hunter2", b"-ERR hunter2", b"-WRONGTYPE hunter2", b"$7\r\nhunter2"])
def test_text_of_a_server_is_never_quoted(
    api_namespace: Namespace, operator_with_exception: OperatorProcess, reply: bytes
) -> None:
    """The server may be one that a NetworkPolicy hides from the author of the StreamConsumer."""
    with foreign_server(reply + b"\r\n") as server:
        node = f"127.0.0.1:{server.port}"
        create(api_namespace, "plain", url=f"redis://{node}/0")
        create(api_namespace, "database", url=f"redis://{node}/1")
        create(api_namespace, "cluster", url=f"redis://{node}/0", cluster=True)
        create(api_namespace, "sentinel", url="redis:///0", sentinel={"masterName": "main", "nodes": [node]})
        for name in ("plain", "database", "cluster", "sentinel"):
            status = eventually(partial(check_polled, api_namespace, name))
            assert "hunter2" not in str(status), name
        assert "hunter2" not in operator_with_exception.log.read_text()


def check_polled(namespace: Namespace, name: str) -> Manifest:
    conditions = namespace.conditions(name)
    assert "GroupReady" in conditions
    assert conditions["GroupReady"]["status"] != "True"
    return conditions


def test_exception_for_the_own_host_is_logged(operator_with_exception: OperatorProcess) -> None:
    (line,) = operator_with_exception.logged(DANGEROUS_EXCEPTION)
    assert (line["severity"], line["network"], line["allows"]) == ("warn", "127.0.0.1/32", ["a loopback address"])


def test_condition_is_the_same_for_closed_silent_and_foreign_ports(
    api_namespace: Namespace, operator_with_exception: OperatorProcess
) -> None:
    greeting = b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"
    with (
        foreign_server() as silent,
        foreign_server(greeting=greeting) as ssh,
        foreign_server(b"HTTP/1.1 400\r\n") as web,
    ):
        ports = {"closed": free_port(), "silent": silent.port, "ssh": ssh.port, "web": web.port}
        names = {f"{scheme}-{name}": port for scheme in ("redis", "rediss") for name, port in ports.items()}
        for name, port in names.items():
            create(api_namespace, name, url=f"{name.partition('-')[0]}://127.0.0.1:{port}/0")
        for name, port in names.items():
            message = wait_for_condition(api_namespace, name, "RedisReachable", "Unreachable")["message"]
            assert message == f"127.0.0.1:{port}: {NO_REPLY_MESSAGE}"
