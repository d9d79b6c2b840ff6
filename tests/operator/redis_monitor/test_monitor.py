"""Identity of Redis endpoints."""

import pytest

from streamconsumer.operator.redis_monitor.monitor import _endpoint_id
from tests.model.examples import consumer


@pytest.mark.parametrize("url", ["redis://redis:6379/0", "redis://redis.shared.svc:6379/0", "redis://10.0.0.7:6379/0"])
def test_namespaces_share_no_endpoint(url: str) -> None:
    shop, office = (consumer(namespace=namespace, redis={"url": url}) for namespace in ("shop", "office"))
    assert _endpoint_id(shop) != _endpoint_id(office)
    assert _endpoint_id(shop) == _endpoint_id(consumer("other", namespace="shop", redis={"url": url}))
