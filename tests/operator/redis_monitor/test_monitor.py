"""Identity of Redis endpoints."""

from typing import Any

import pytest

from streamconsumer.operator.redis_monitor.monitor import _endpoint_id
from streamconsumer.operator.redis_monitor.monitored_stream import EndpointId
from tests.model.examples import consumer

TLS = {"caSecretRef": {"name": "ca", "key": "ca.crt"}}
SENTINEL = {"masterName": "primary", "nodes": ["10.0.0.7:26379"]}


def endpoint_id(
    url: str = "redis://10.0.0.7", namespace: str = "shop", stream: str = "orders", **redis: Any
) -> EndpointId:
    return _endpoint_id(consumer(namespace=namespace, stream=stream, redis={"url": url, **redis}))


@pytest.mark.parametrize("url", ["redis://redis:6379/0", "redis://redis.shared.svc:6379/0", "redis://10.0.0.7:6379/0"])
def test_namespaces_never_share_an_endpoint(url: str) -> None:
    assert endpoint_id(url) != endpoint_id(url, namespace="office")


@pytest.mark.parametrize(
    "url",
    [
        "redis://REDIS",
        "redis://redis:6379",
        "redis://redis/",
        "redis://redis/00/",
        "redis://redis?socket_timeout=1&socket_keepalive=no",
    ],
)
def test_spellings_of_a_url_are_one_endpoint(url: str) -> None:
    assert endpoint_id(url) == endpoint_id("redis://redis:6379/0")


def test_different_servers_databases_and_tls_settings_are_different_endpoints() -> None:
    endpoints = [
        endpoint_id(),
        endpoint_id("redis://10.0.0.7/1"),
        endpoint_id("redis://10.0.0.7:6380"),
        endpoint_id("rediss://10.0.0.7"),
        endpoint_id("rediss://10.0.0.7?ssl_cert_reqs=none"),
        endpoint_id("rediss://10.0.0.7?ssl_check_hostname=false"),
        endpoint_id("rediss://10.0.0.7", tls={}),
        endpoint_id("rediss://10.0.0.7", tls=TLS),
        endpoint_id(passwordSecretRef={"name": "redis", "key": "password"}),
        endpoint_id(passwordSecretRef={"name": "redis", "key": "other"}),
        endpoint_id(sentinel=SENTINEL),
        endpoint_id(cluster=True),
        endpoint_id(cluster=True, stream="payments"),
    ]
    assert len(set(endpoints)) == len(endpoints)
