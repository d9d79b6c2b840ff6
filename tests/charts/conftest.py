"""Fixtures of the chart tests."""

from pathlib import Path

import pytest
import yaml

from tests.charts.all_values import ALL_VALUES
from tests.charts.rendering import Helm, Manifest


@pytest.fixture(params=["helm", "helm3"])
def helm(request: pytest.FixtureRequest) -> Helm:
    """Each test runs with Helm 4 and with Helm 3."""
    return Helm(request.param)


@pytest.fixture
def all_objects(helm: Helm, tmp_path: Path) -> list[Manifest]:
    """Objects that the chart installs with all values set."""
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(ALL_VALUES))
    return helm.template("--values", str(values))
