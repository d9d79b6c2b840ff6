"""Identity of Redis endpoints."""

from streamconsumer.operator.redis_monitor.monitor import _endpoint_id
from streamconsumer.operator.redis_monitor.monitored_stream import EndpointId
from tests.model.examples import consumer


def endpoint_ids(url: str) -> set[EndpointId]:
    return {_endpoint_id(consumer(namespace=namespace, redis={"url": url})) for namespace in ("shop", "office")}


def test_namespaces_share_an_endpoint_only_if_the_host_means_the_same_in_both() -> None:
    assert len(endpoint_ids("redis://redis:6379/0")) == 2
    assert len(endpoint_ids("redis://redis-0.redis:6379/0")) == 2
    assert len(endpoint_ids("redis://redis.shared.svc:6379/0")) == 1
    assert len(endpoint_ids("redis://10.0.0.7:6379/0")) == 1
