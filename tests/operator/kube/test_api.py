"""Requests to a real API server."""

from urllib.parse import urlsplit

import pytest

from streamconsumer.operator.kube.api import connect
from tests.cluster.api_server import ApiServer


async def test_endpoints_of_the_api_server_are_known(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    async with connect() as api:
        configured, announced = await api.server_endpoints(), await api._announced_addresses()
        assert ("127.0.0.1", urlsplit(api_server.url).port) in configured
        assert len(announced) > 0
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
        assert ("fd00::1", 6443) in await api.server_endpoints()
