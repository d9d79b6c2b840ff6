"""Status writes to a CRD that lacks fields, with the API server's error messages."""

import json
from typing import Any

import pytest

from streamconsumer.model.status import Effective, Status, StreamStats
from streamconsumer.operator.kube.api import ApiError
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.kube.status_writer import RECHECK_INTERVAL, StatusWriter, undeclared_fields
from streamconsumer.operator.manifests import Manifest

PREFIX = "failed to create typed patch object (shop/orders; streamconsumer.dev/v1alpha1, Kind=StreamConsumer): "
UNDECLARED = "field not declared in schema"
FIELDS = (".status.effective", '.status.conditions[type="Ready"].reason')
SEVERAL = f"{PREFIX}errors:\n" + "\n".join(f"  {field}: {UNDECLARED}" for field in FIELDS)
FULL = Status(effective=Effective(image="shop:1.4"), stream=StreamStats(length=3, dead_letters=1))


class OlderKubeClient(KubeClient):
    """A client whose API server reports one missing field for each request, as the API server may do."""

    def __init__(self, *missing: str) -> None:
        self.missing, self.written = list(missing), list[Manifest]()
        self.requests = 0

    async def apply_status(self, namespace: str, name: str, status: Manifest) -> Manifest | None:
        self.requests += 1
        for path in self.missing:
            parent, _, field = path.rpartition(".")
            if field in (status.get(parent, {}) if parent else status):
                raise api_error(500, f"{PREFIX}.status.{path}: {UNDECLARED}")
        self.written.append(status)
        return status


def api_error(code: int, message: str) -> ApiError:
    error = ApiError(status=code, reason="")
    error.body = json.dumps({"message": message})
    return error


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (f"{PREFIX}.status.stream.lagKnown: {UNDECLARED}", {"stream.lagKnown"}),
        (
            SEVERAL,
            {"effective", "conditions[].reason"},
        ),
        ("etcdserver: request timed out", set[str]()),
        (f"{PREFIX}.spec.stream: {UNDECLARED}", set[str]()),
    ],
)
def test_missing_fields_are_read_from_the_message(message: str, fields: set[str]) -> None:
    assert undeclared_fields(message) == fields


async def test_missing_fields_are_found_once_and_then_left_out() -> None:
    kube = OlderKubeClient("effective", "stream.deadLetters")
    writer = StatusWriter(kube, Clock())
    await writer.write("shop", "orders", FULL)
    assert kube.requests == 3
    await writer.write("shop", "orders", FULL)
    assert kube.requests == 4
    assert kube.written[0] == kube.written[1]
    assert "effective" not in kube.written[0]
    assert kube.written[0]["stream"] == {"length": 3, "lagKnown": False}
    assert "effective" not in writer.warning
    assert "streamconsumer crd" in writer.warning


async def test_upgraded_crd_gets_the_whole_status_again() -> None:
    kube, clock = OlderKubeClient("effective"), Clock()
    writer = StatusWriter(kube, clock)
    await writer.write("shop", "orders", FULL)
    kube.missing.clear()
    clock.seconds = RECHECK_INTERVAL.total_seconds()
    await writer.write("shop", "other", Status())  # has no such field, and therefore shows nothing
    assert writer.undeclared == {"effective"}
    clock.seconds *= 2
    await writer.write("shop", "orders", FULL)
    assert "effective" in kube.written[-1]
    assert writer.warning == ""


async def test_other_errors_are_raised() -> None:
    class FailingKubeClient(OlderKubeClient):
        async def apply_status(self, *arguments: Any) -> Manifest | None:
            raise api_error(500, "etcdserver: request timed out")

    with pytest.raises(ApiError, match="500"):
        await StatusWriter(FailingKubeClient()).write("shop", "orders", FULL)
