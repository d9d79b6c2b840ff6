"""Reads of Secrets and the checks of the permission, with a fake API server that counts the requests."""

import asyncio
from collections.abc import Callable

import pytest

from streamconsumer.errors import PermissionDenied
from streamconsumer.operator.kube.api import ApiError
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.kube.secret_reader import CHECK_INTERVAL, UNUSED_AFTER, SecretReader
from streamconsumer.operator.manifests import Manifest

SECRET = {"metadata": {"uid": "1"}, "data": {"password": "aHVudGVyMg=="}}
ACCOUNT = "system:serviceaccount:ops:operator"
COMMAND_FOR_ROLE = (
    "kubectl create rolebinding streamconsumer-secret-reader-role -n shop "
    "--role=streamconsumer-secret-reader --serviceaccount=ops:operator"
)
COMMAND = (
    "kubectl create rolebinding streamconsumer-secret-reader -n shop "
    "--clusterrole=streamconsumer-secret-reader --serviceaccount=ops:operator"
)


class FakeKubeClient(KubeClient):
    """A client that records its requests. Each request waits once, as a real one."""

    def __init__(self, *granted: str) -> None:
        self.granted, self.refused = {*granted}, set[str]()
        self.requests: list[str] = []
        self.user = ACCOUNT
        self.failures: dict[str, Exception] = {}
        """The errors of the API server, by the request or its first word."""

    async def can_i(self, verb: str, resource: str, namespace: str | None, name: str = "") -> bool:
        await self._receive(f"check {namespace}")
        assert (verb, resource) == ("get", "secrets")
        return namespace in self.granted

    async def own_user(self) -> str:
        await self._receive("user")
        return self.user

    async def get_config_object(self, kind: str, namespace: str, name: str) -> Manifest | None:
        await self._receive(f"get {kind} {namespace}/{name}")
        if kind == "Secret" and (namespace not in self.granted or namespace in self.refused):
            raise PermissionDenied(name)
        return SECRET

    async def _receive(self, text: str) -> None:
        self.requests.append(text)
        await asyncio.sleep(0)
        if failure := self.failures.get(text) or self.failures.get(text.partition(" ")[0]):
            raise failure


class Fixture:
    """A reader with a fake client and a clock that tests move."""

    def __init__(self, *granted: str, is_cluster_wide: bool = True) -> None:
        self.kube, self.now, self.changed = FakeKubeClient(*granted), 0.0, list[str]()
        self.reader = SecretReader(
            self.kube, self.changed.append, is_cluster_wide=is_cluster_wide, clock=lambda: self.now
        )

    async def read(self, namespace: str = "shop", name: str = "redis") -> str:
        """Return the password, or the text of the error."""
        try:
            data = await self.reader.get_secret(namespace, name)
        except PermissionDenied as error:
            return str(error)
        return data["password"].decode() if data else ""

    async def next_interval(self) -> list[str]:
        """Run the checks of the next interval. Returns the requests."""
        self.kube.requests.clear()
        self.now += CHECK_INTERVAL.total_seconds()
        await self.reader.check_due()
        return [*self.kube.requests]


def run(test: Callable[[], object]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def test_a_secret_is_read_only_in_a_namespace_with_the_permission() -> None:
    async def test() -> None:
        fixture = Fixture("shop")
        assert await fixture.read() == "hunter2"
        assert "hunter2" not in await fixture.read("other")
        assert fixture.kube.requests == ["check shop", "get Secret shop/redis", "check other", "user"]

    run(test)


def test_a_config_map_needs_no_permission_for_secrets() -> None:
    async def test() -> None:
        fixture = Fixture()
        assert await fixture.reader.get_config_object("ConfigMap", "shop", "limits") == SECRET
        assert fixture.kube.requests == ["get ConfigMap shop/limits"]

    run(test)


def test_a_thousand_reads_without_permission_cause_one_check_per_interval_and_no_refused_read() -> None:
    async def test() -> None:
        fixture = Fixture()
        for requests in (["check shop", "user"], [], []):
            fixture.kube.requests.clear()
            texts = await asyncio.gather(*(fixture.read(name=f"redis-{number}") for number in range(1000)))
            assert all(text.endswith(COMMAND) for text in texts)
            assert fixture.kube.requests == requests
        for _ in range(3):
            assert await fixture.next_interval() == ["check shop"]
            await asyncio.gather(*(fixture.read(name=f"redis-{number}") for number in range(1000)))
            assert fixture.kube.requests == ["check shop"]

    run(test)


def test_reads_that_the_api_server_refuses_despite_a_successful_check_cause_one_request_per_interval() -> None:
    async def test() -> None:
        fixture = Fixture("shop")
        fixture.kube.refused = {"shop"}
        for _ in range(3):
            texts = await asyncio.gather(*(fixture.read(name=f"redis-{number}") for number in range(1000)))
            assert all(text.endswith(COMMAND) for text in texts)
            assert len([each for each in fixture.kube.requests if each.startswith("get")]) == 1
            assert await fixture.next_interval() == ["check shop"]

    run(test)


def test_granting_and_revoking_are_noticed_once_at_the_next_check() -> None:
    async def test() -> None:
        fixture = Fixture()
        await fixture.read()
        fixture.kube.granted = {"shop"}
        await fixture.next_interval()
        await fixture.next_interval()
        assert fixture.changed == ["shop"]
        assert await fixture.read() == "hunter2"
        fixture.kube.granted = set()
        await fixture.next_interval()
        await fixture.next_interval()
        assert fixture.changed == ["shop", "shop"]
        fixture.kube.requests.clear()
        assert (await fixture.read()).endswith(COMMAND)
        assert fixture.kube.requests == []

    run(test)


def test_a_refused_read_counts_as_a_revocation() -> None:
    async def test() -> None:
        fixture = Fixture("shop")
        await fixture.read()
        fixture.kube.granted = set()
        assert (await fixture.read()).endswith(COMMAND)
        assert fixture.changed == ["shop"]

    run(test)


def test_a_revocation_during_a_thousand_reads_causes_one_refused_read() -> None:
    async def test() -> None:
        fixture = Fixture("shop")
        await fixture.read()
        fixture.kube.requests.clear()
        reads = [asyncio.create_task(fixture.read(name=f"redis-{number}")) for number in range(1000)]
        for _ in range(100):  # iterations of the event loop, in which some reads succeed
            await asyncio.sleep(0)
        fixture.kube.granted = set()
        texts = await asyncio.gather(*reads)
        reads_sent = [each for each in fixture.kube.requests if each.startswith("get")]
        assert 1 <= texts.count("hunter2") == len(reads_sent) - 1
        assert texts[-1].endswith(COMMAND)

    run(test)


def test_a_failed_check_keeps_the_last_result() -> None:
    async def test() -> None:
        fixture = Fixture("shop")
        await fixture.read()
        fixture.kube.failures = {"check": OSError("the API server is down")}
        with pytest.raises(OSError, match="down"):
            await fixture.next_interval()
        assert await fixture.read() == "hunter2"
        assert fixture.changed == []

    run(test)


def test_a_failed_check_of_one_namespace_does_not_stop_the_checks_of_others() -> None:
    async def test() -> None:
        fixture = Fixture("shop", "other")
        for namespace in ("shop", "other"):
            await fixture.read(namespace)
        fixture.kube.failures = {"check shop": ApiError(status=500)}
        fixture.kube.granted.remove("other")
        with pytest.raises(ApiError):
            await fixture.next_interval()
        assert fixture.changed == ["other"]

    run(test)


def test_a_read_decides_if_the_operator_is_not_allowed_to_ask() -> None:
    async def test() -> None:
        fixture = Fixture("shop")
        fixture.kube.failures = {"check": ApiError(status=403)}
        assert await fixture.read() == "hunter2"
        assert (await fixture.read("other")).startswith(
            "The operator is not allowed to get Secrets in namespace other."
        )

    run(test)


def test_the_command_has_placeholders_if_the_operator_is_not_allowed_to_ask_for_its_name() -> None:
    async def test() -> None:
        fixture = Fixture()
        fixture.kube.failures = {"user": ApiError(status=403)}
        assert (await fixture.read()).endswith("--serviceaccount=OPERATOR_NAMESPACE:OPERATOR_SERVICE_ACCOUNT")

    run(test)


@pytest.mark.parametrize(
    ("user", "is_cluster_wide", "expected"),
    [
        (ACCOUNT, True, COMMAND),
        (ACCOUNT, False, COMMAND_FOR_ROLE),
        ("jane doe", True, COMMAND.replace("--serviceaccount=ops:operator", "--user='jane doe'")),
    ],
)
def test_the_message_ends_with_the_command_for_this_operator(user: str, is_cluster_wide: bool, expected: str) -> None:
    async def test() -> None:
        fixture = Fixture(is_cluster_wide=is_cluster_wide)
        fixture.kube.user = user
        assert (await fixture.read()).endswith(f" {expected}")

    run(test)


def test_a_namespace_that_is_no_longer_used_is_no_longer_checked() -> None:
    async def test() -> None:
        fixture = Fixture()
        await fixture.read()
        fixture.now += UNUSED_AFTER.total_seconds() + 1
        assert await fixture.next_interval() == []

    run(test)
