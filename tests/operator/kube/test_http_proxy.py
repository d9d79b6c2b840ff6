"""The proxy of requests to the API server, with the rules of kubectl (golang.org/x/net/http/httpproxy)."""

import asyncio
from pathlib import Path

import pytest
from kubernetes.aio.config import incluster_config

from streamconsumer.errors import InvalidSettings
from streamconsumer.operator.kube.api import Connection, load_connection
from streamconsumer.operator.kube.http_proxy import find_proxy
from streamconsumer.operator.kube.watches import login, to_watch_connection
from tests.cluster.api_server import ApiServer

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("host", "no_proxy", "is_proxied"),
    [
        ("10.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "example.com, 10.0.0.0/8 ,other", False),
        ("10.1.2.3", "10.1.2.9/8", False),  # host bits are allowed
        ("11.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.0.0.0/80", True),
        ("10.1.2.3:6443", "10.0.0.0/8", False),
        ("[fd00:10::1]:6443", "fd00:10::/32", False),
        ("[fd00:11::1]", "fd00:10::/32", True),
        ("[::ffff:10.1.2.3]", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", False),
        ("10.1.2.3", "10.1.2.30", True),
        ("10.1.2.3:6443", "10.1.2.3:6443", False),
        ("10.1.2.3:6443", "10.1.2.3:443", True),
        ("10.1.2.3", "10.1.2.3:443", False),
        ("[fd00::1]:6443", "[fd00::1]:6443", False),
        ("[fd00::1]", "fd00::1", False),
        ("[fd00:0::1]", "fd00::0001", False),
        ("api.example.com", "example.com", False),
        ("API.example.com", "Example.COM", False),
        ("api.example.com", ".example.com", False),
        ("example.com", ".example.com", True),
        ("kubernetes.default.svc.cluster.local", "", False),
        ("kubernetes.default.svcs.example.com", "", True),
        ("api.example.com", "*.example.com", False),
        ("badexample.com", "example.com", True),
        ("api.example.com.", "example.com", False),
        ("api.example.com:6443", "example.com:6443", False),
        ("api.example.com:6443", "example.com:443", True),
        ("api.example.com", "*", False),
        ("api.example.com", "a,*", False),
        ("api.example.com", "", True),
        ("api.example.com", ",,:443", True),
        ("localhost:6443", "", False),
        ("127.0.0.5", "", False),
        ("[::1]", "", False),
        ("kubernetes.default.svc", "", False),
        ("kubernetes.default", "", False),
        ("10.96.0.1", "", False),  # KUBERNETES_SERVICE_HOST
    ],
)
def test_no_proxy_has_the_rules_of_kubectl(host: str, no_proxy: str, is_proxied: bool) -> None:
    environ = {"HTTPS_PROXY": PROXY, "NO_PROXY": no_proxy, "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    assert find_proxy(f"https://{host}", environ) == (PROXY if is_proxied else None)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"https_proxy": PROXY}, PROXY),
        ({"HTTPS_PROXY": PROXY, "https_proxy": "http://other:1"}, PROXY),
        ({"HTTPS_PROXY": "", "https_proxy": PROXY}, PROXY),
        ({"HTTP_PROXY": PROXY, "ALL_PROXY": PROXY}, None),
        ({"HTTPS_PROXY": "proxy.example:3128"}, PROXY),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "10.0.0.0/8"}, None),
    ],
)
def test_the_proxy_is_read_from_the_environment(environ: dict[str, str], expected: str | None) -> None:
    assert find_proxy("https://10.1.2.3:6443", environ) == expected


def test_a_proxy_that_is_not_an_http_proxy_is_refused_without_its_password() -> None:
    with pytest.raises(InvalidSettings, match="HTTPS_PROXY: found a proxy that is not an HTTP proxy") as caught:
        find_proxy("https://10.1.2.3", {"HTTPS_PROXY": "socks5://user:secret@proxy:1080"})
    assert "secret" not in str(caught.value)


@pytest.fixture
def in_cluster(api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a pod, with a proxy."""
    token = tmp_path / "token"
    token.write_text("a-token")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(api_server.ca))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)


@pytest.mark.usefixtures("in_cluster")
def test_requests_and_watches_in_a_pod_use_the_same_address_without_a_proxy() -> None:
    async def connections() -> tuple[Connection, object]:
        return await load_connection(), await login()

    requests, watches = asyncio.run(connections())
    assert (requests.configuration.host, requests.configuration.proxy) == ("https://[fd00::1]:6443", None)
    assert vars(watches) | {"_context": None} == vars(to_watch_connection(requests)) | {"_context": None}
