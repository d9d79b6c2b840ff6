"""The images that the end-to-end tests build: user, labels and SBOM."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import images
from tests.e2e.shop import ROOT, Shop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

IMAGES = ("processor", "operator")
EXPECTED = {"processor": {"redis", "opentelemetry-sdk", "pip"}, "operator": {"redis", "kopf", "kubernetes"}}


def configuration(image: str) -> Any:
    reference = images.full_reference(f"streamconsumer-{image}:0.1.0")
    inspected = subprocess.run(["buildah", "inspect", "--type=image", reference], capture_output=True, check=True)
    return json.loads(inspected.stdout)["OCIv1"]["config"]


@pytest.mark.parametrize("image", IMAGES)
def test_images_have_a_numeric_user_and_record_their_base_image(shop: Shop, image: str) -> None:
    found = configuration(image)
    assert found["User"] == "65532:65532"
    labels = found["Labels"]
    assert labels["org.opencontainers.image.base.name"] == "debian:trixie-slim"
    assert labels["org.opencontainers.image.base.digest"] == "unknown", "only a release resolves the digest"


@pytest.mark.parametrize("image", IMAGES)
def test_sbom_lists_the_packages_in_the_image(shop: Shop, tmp_path: Path, image: str) -> None:
    arguments = ("--target=sbom", f"--build-arg=IMAGE={image}", f"--output={tmp_path}")
    images.buildah_build(ROOT, ROOT / "Dockerfile", *arguments)
    document = json.loads((tmp_path / f"streamconsumer-{image}.cdx.json").read_text())
    packages = {component["name"].lower() for component in document["components"]}
    assert document["bomFormat"] == "CycloneDX"
    assert packages >= EXPECTED[image]
    assert ("kopf" in packages) == (image == "operator")
    assert all(component["version"] for component in document["components"])
