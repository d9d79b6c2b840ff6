import pytest

from tests.charts.rendering import Helm


@pytest.fixture(params=["helm", "helm3"])
def helm(request: pytest.FixtureRequest) -> Helm:
    """Every promise of the chart holds with Helm 4 and with Helm 3."""
    return Helm(request.param)
