from pathlib import Path

import pytest
import yaml

from tests.charts.all_values import ALL_VALUES
from tests.charts.rendering import Helm, Manifest


@pytest.fixture(params=["helm", "helm3"])
def helm(request: pytest.FixtureRequest) -> Helm:
    """Every promise of the chart holds with Helm 4 and with Helm 3."""
    return Helm(request.param)


@pytest.fixture
def everything(helm: Helm, tmp_path: Path) -> list[Manifest]:
    """What is installed with all values set."""
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(ALL_VALUES))
    return helm.template("--values", str(values))
