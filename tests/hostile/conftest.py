"""Tests of the promises to a cluster whose tenants, Redis servers, producers and name servers are hostile."""

import pytest

from tests.cluster.api_server import ApiServer
from tests.operator.conftest import install_crd


@pytest.fixture(scope="session")
def api(api_server: ApiServer) -> ApiServer:
    """An API server with the CRD and without controllers."""
    install_crd(api_server)
    return api_server
