"""Samples, which users copy: each is a valid StreamConsumer."""

from pathlib import Path

import pytest

from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer
from tests.charts.rendering import ROOT, Manifest, of_kind, parse_documents

SAMPLES = sorted((ROOT / "k8s" / "samples").glob("*.yaml"))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.stem)
def test_sample_is_a_valid_stream_consumer(sample: Path) -> None:
    (manifest,) = of_kind(names.KIND, parse_documents(sample.read_text()))
    StreamConsumer.parse(manifest)


def test_sample_secret_has_the_key_that_its_consumer_names() -> None:
    objects = parse_documents((ROOT / "k8s" / "samples" / "secret.yaml").read_text())
    (secret,), (consumer,) = of_kind("Secret", objects), of_kind(names.KIND, objects)
    reference: Manifest = consumer["spec"]["redis"]["urlSecretRef"]
    assert reference["name"] == secret["metadata"]["name"]
    assert reference["key"] in secret["stringData"]
