"""Preflight checks of the server and of the permissions: problems that end a processor, and warnings."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import Redis

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.processor_settings import Delivery, RedisSettings, Retention
from streamconsumer.processor import RedisStreamProcessor, StreamManager
from streamconsumer.processor.consumer.preflight import (
    OPTIONAL_PERMISSIONS,
    PreflightReport,
    run_preflight_checks,
)
from streamconsumer.processor.health import Health
from streamconsumer.processor.message import ConsumerId
from streamconsumer.redis_client.server_settings import risky_settings
from tests.cluster.fixtures import ANY_FLAVOUR, ON_ONE_SERVER
from tests.cluster.redis_servers import Flavour, RedisServer, StartRedis
from tests.processor.consumer.test_permissions import KEYS, SMALLEST
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.pod import NewPod
from tests.processor.proxy import Proxy, ServerAddress
from tests.processor.recorder import Recorder

CONSUMER_ID = ConsumerId(STREAM, GROUP, "pod-a")
WITHOUT_EVAL = {"rename-command": 'EVAL ""'}
REFUSALS = [
    "ERR unknown command",
    "ERR This Redis command is not allowed",
    "ERR command not supported",
    "NOPERM EVAL is forbidden",
]


@pytest.fixture
async def admin(any_redis: RedisServer) -> AsyncIterator[Redis]:
    async with Redis(port=any_redis.port, decode_responses=True) as client:
        await grant(client, "default", "on", ">pw", "~*", "+@all")
        yield client


async def grant(admin: Redis, user: str, *rules: str) -> None:
    await admin.execute_command("ACL", "SETUSER", user, *rules)  # type: ignore[no-untyped-call] # ships no types


async def run_checks(server: RedisServer, user: str = "default", **options: Any) -> PreflightReport:
    manager = StreamManager.from_url(server.url, username=user, password="pw", **options)
    try:
        return await run_preflight_checks(manager, CONSUMER_ID)
    finally:
        await manager.aclose()


async def missing_permissions(server: RedisServer, user: str, **options: Any) -> list[str]:
    return (await run_checks(server, user, **options)).missing_permissions


async def test_smallest_permissions_are_enough_and_each_missing_one_is_named(
    admin: Redis, any_redis: RedisServer
) -> None:
    await grant(admin, "shop", "on", ">pw", *KEYS, "-@all", *SMALLEST)
    report = await run_checks(any_redis, "shop")
    assert (report.problem, report.missing_permissions) == ("", [])
    await grant(admin, "unprivileged", "on", ">pw", *KEYS, "-@all")
    report = await run_checks(any_redis, "unprivileged")
    assert sorted(report.missing_permissions) == sorted(SMALLEST)
    required = [right for right in report.missing_permissions if right not in OPTIONAL_PERMISSIONS]
    assert report.problem == (
        f"Redis at 127.0.0.1:{any_redis.port} does not grant required permissions: {' '.join(required)}; "
        "grant them with ACL SETUSER; docs/redis.md lists the permissions"
    )


@pytest.mark.parametrize("right", [right for right in SMALLEST if right not in OPTIONAL_PERMISSIONS])
async def test_missing_required_permission_is_a_problem(admin: Redis, any_redis: RedisServer, right: str) -> None:
    await grant(admin, "shop", "on", ">pw", *KEYS, "-@all", *[each for each in SMALLEST if each != right])
    assert f"required permissions: {right}; " in (await run_checks(any_redis, "shop")).problem


async def test_missing_optional_permissions_are_a_warning(admin: Redis, any_redis: RedisServer) -> None:
    await grant(
        admin, "shop", "on", ">pw", *KEYS, "-@all", *[each for each in SMALLEST if each not in OPTIONAL_PERMISSIONS]
    )
    report = await run_checks(any_redis, "shop")
    assert report.problem == ""
    assert report.warnings[0] == (
        "the Redis user is missing permissions; grant +evalsha +client|id +client|unblock +client|list +client|setname "
        "+info with ACL SETUSER; "
        "docs/redis.md lists the permissions"
    )


async def test_inaccessible_keys_are_named(admin: Redis, any_redis: RedisServer) -> None:
    await grant(admin, "shop", "on", ">pw", KEYS[0], "-@all", *SMALLEST)
    assert await missing_permissions(any_redis, "shop") == ["~{orders}:billing:*"]
    elsewhere = Delivery(dead_letter_stream="{orders}:dead")
    assert await missing_permissions(any_redis, "shop", delivery=elsewhere) == ["~{orders}:dead", "~{orders}:billing:*"]
    await grant(admin, "other", "on", ">pw", "~other", "-@all", *SMALLEST)
    assert await missing_permissions(any_redis, "other") == ["~orders", "~{orders}:billing:*"]
    assert "required permissions: ~orders ~{orders}:billing:*; " in (await run_checks(any_redis, "other")).problem


async def test_xtrim_is_only_required_with_retention(admin: Redis, any_redis: RedisServer) -> None:
    await grant(admin, "shop", "on", ">pw", *KEYS, "-@all", *SMALLEST)
    assert await missing_permissions(any_redis, "shop", retention=Retention(acknowledged=True)) == ["+xtrim"]


@pytest.mark.parametrize("with_group", [True, False])
async def test_checks_change_nothing(any_redis: RedisServer, with_group: bool) -> None:
    async with Redis(port=any_redis.port, decode_responses=True) as client:
        if with_group:
            await client.xgroup_create(STREAM, GROUP, mkstream=True)
            await client.xadd(STREAM, {"n": "1"})
        before = await everything(client)
        manager = StreamManager.from_url(any_redis.url)
        assert (await run_preflight_checks(manager, CONSUMER_ID)).missing_permissions == []
        await manager.aclose()
        assert await everything(client) == before


async def everything(client: Redis) -> Any:
    if not await client.exists(STREAM):
        return await client.keys("*")
    info: Any = await client.xinfo_stream(STREAM, full=True)
    return await client.keys("*"), info["length"], info["groups"]


async def test_settings_that_can_cost_entries_are_risky(start_redis: StartRedis) -> None:
    server = start_redis({"maxmemory-policy": "allkeys-lru"})
    manager = StreamManager.from_url(server.url)
    evicts, forgets = risky_settings((await run_preflight_checks(manager, CONSUMER_ID)).settings)
    assert evicts.problem.startswith("the server's maxmemory-policy is allkeys-lru: when memory runs out, the server")
    assert forgets.problem.startswith("the server saves nothing to disk")
    await manager.aclose()


@pytest.mark.parametrize("keeps", [{"appendonly": "yes"}, {"save": "3600 1"}], ids=str)
async def test_settings_that_keep_entries_are_not_risky(start_redis: StartRedis, keeps: dict[str, str]) -> None:
    manager = StreamManager.from_url(start_redis(keeps).url)
    assert (await run_preflight_checks(manager, CONSUMER_ID)).warnings == []
    await manager.aclose()


async def test_unreadable_settings_cause_no_warning(admin: Redis, any_redis: RedisServer) -> None:
    await admin.config_set("maxmemory-policy", "allkeys-lru")
    await grant(admin, "shop", "on", ">pw", *KEYS, "-@all", *SMALLEST)
    report = await run_checks(any_redis, "shop")
    known_faults = [report.version_risk.message] if report.version_risk else []
    assert (report.warnings, report.problem, report.version) == (known_faults, "", any_redis.version)


@pytest.mark.parametrize("version", ["6.2.0", "6.2.14", "7.0.15", "8.10.1", "9.1.0", "unknown"])
async def test_supported_server_version_is_no_problem(group: Group, version: str) -> None:
    async with DisguisingProxy(group.server, version=version).running() as disguise:
        assert (await run_preflight_checks(group.manager(disguise.url), CONSUMER_ID)).problem == ""


@pytest.mark.parametrize("version", ["6.0.16", "5.0.14", "2.8.0"])
async def test_old_server_version_is_a_problem(group: Group, version: str) -> None:
    async with DisguisingProxy(group.server, version=version).running() as disguise:
        assert (await run_preflight_checks(group.manager(disguise.url), CONSUMER_ID)).problem == (
            f"the Redis server is version {version}; expected 6.2 or newer; upgrade it"
        )


async def test_known_faults_of_the_server_version_are_a_warning(group: Group) -> None:
    async with DisguisingProxy(group.server, version="8.2.1").running() as disguise:
        manager = group.manager(disguise.url)
        assert (await run_preflight_checks(manager, CONSUMER_ID)).warnings[-1] == (
            "Redis 8.2.1 has known faults: a Lua script can execute code in the server (CVE-2025-49844); "
            "upgrade to 8.2.2 or newer"
        )
        await group.client.config_set("maxmemory-clients", "10mb")
        assert (
            "(CVE-2026-23479); upgrade to 8.2.6 or newer"
            in ((await run_preflight_checks(manager, CONSUMER_ID)).warnings[-1])
        )


# -- without scripts -------------------------------------------------------------------------------------------------


class DisguisingProxy(Proxy):
    """Proxy that reports another version, or replaces the error text for EVAL."""

    def __init__(self, server: ServerAddress, *, version: str = "", refusal: str = "") -> None:
        super().__init__(server)
        self.version, self.refusal = version, refusal

    async def _forward_replies(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                target.write(self._disguise(data))
        target.close()

    def _disguise(self, data: bytes) -> bytes:
        if self.version:
            named = b"version\r\n$%d\r\n%s\r\n" % (len(self.version), self.version.encode())
            data = re.sub(rb"version\r\n\$\d+\r\n[^\r]*\r\n", named, data)
        if self.refusal:
            data = re.sub(rb"-ERR unknown command .EVAL.[^\r]*", b"-" + self.refusal.encode(), data)
        return data


def eval_problem(server: ServerAddress) -> str:
    return f"Redis at {server.host}:{server.port} does not grant required permissions: +eval; "


@pytest.mark.parametrize("flavour", ANY_FLAVOUR)
async def test_start_listening_raises_on_a_server_whose_eval_is_renamed(
    start_redis: StartRedis, flavour: Flavour
) -> None:
    group = Group(start_redis(WITHOUT_EVAL, flavour))
    processor = group.processor(Recorder())
    with pytest.raises(InvalidSettings) as raised:
        await processor.start_listening()
    problem = eval_problem(group.server) + "EVAL is renamed, disabled or refused by a proxy (unknown command "
    assert str(raised.value).startswith(problem)
    assert str(raised.value).endswith("); enable EVAL")
    assert not processor.is_running
    assert not await group.client.keys()
    await group.close()


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_start_listening_raises_behind_a_proxy_that_refuses_eval(start_redis: StartRedis, refusal: str) -> None:
    group = Group(start_redis(WITHOUT_EVAL))
    async with DisguisingProxy(group.server, refusal=refusal).running() as proxy:
        processor = group.processor(Recorder(), manager=group.manager(proxy.url))
        with pytest.raises(InvalidSettings, match=r"required permissions: \+eval; "):
            await processor.start_listening()
        assert not processor.is_running
    await group.close()


class ProxyWithoutServer(Proxy):
    """Proxy that replies to each command with its own error text until its server is available."""

    is_away = True

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_away:
            await self._refuse(reader, writer)
        else:
            await super()._connected(reader, writer)

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while self.is_away and (header := await reader.readline()):
            for _ in range(int(header[1:])):
                await reader.readexactly(int((await reader.readline())[1:]) + 2)
            writer.write(b"-upstream failure\r\n")
        writer.close()


async def test_a_processor_waits_for_the_server_behind_a_proxy(group: Group) -> None:
    proxy = ProxyWithoutServer(group.server)
    async with proxy.running():
        handler = Recorder()
        processor = group.processor(handler, manager=group.manager(proxy.url))
        await processor.start_listening()
        assert processor.is_running
        assert "upstream failure" in processor.health.readiness()[1]
        proxy.is_away = False
        await group.add()
        await handler.wait_until_finished(1)
        await processor.stop_listening()


async def test_start_listening_raises_when_the_user_is_missing_permission_for_eval(
    admin: Redis, any_redis: RedisServer
) -> None:
    await grant(admin, "shop", "on", ">secret", *KEYS, "-@all", *SMALLEST, "-eval")
    manager = StreamManager.from_url(f"redis://shop:secret@{any_redis.host}:{any_redis.port}/0")
    processor = RedisStreamProcessor(manager, STREAM, GROUP, "pod-a")
    processor.set_message_callback(Recorder())
    with pytest.raises(InvalidSettings) as raised:
        await processor.start_listening()
    assert str(raised.value) == (
        f"Redis at 127.0.0.1:{any_redis.port} does not grant required permissions: +eval; "
        "grant them with ACL SETUSER; docs/redis.md lists the permissions"
    )
    await manager.aclose()


async def test_a_server_whose_evalsha_is_renamed_is_used(start_redis: StartRedis) -> None:
    group = Group(start_redis({"rename-command": 'EVALSHA ""'}))
    handler = Recorder()
    await group.start(handler)
    await group.add(3)
    await handler.wait_until_finished(3)
    await group.wait_settled()
    await group.close()


async def test_processor_ends_when_an_unsuitable_server_becomes_reachable_after_the_start(
    start_redis: StartRedis,
) -> None:
    group = Group(start_redis(WITHOUT_EVAL))
    await asyncio.to_thread(group.server.stop)
    processor = await group.start(Recorder())
    assert processor.is_running
    await asyncio.to_thread(group.server.start)
    with pytest.raises(InvalidSettings, match="EVAL is renamed, disabled or refused by a proxy"):
        await processor.wait_stopped()
    assert not processor.is_running
    await group.close()


async def test_processor_starts_again_after_the_missing_permission_is_granted(group: Group) -> None:
    await grant(group.client, "shop", "on", ">pw", *KEYS, "-@all", *SMALLEST, "-eval")
    group.url = f"redis://shop:pw@{group.server.host}:{group.server.port}/0"
    handler = Recorder()
    processor = group.processor(handler)
    with pytest.raises(InvalidSettings):
        await processor.start_listening()
    await grant(group.client, "shop", "+eval")
    await processor.start_listening()
    await group.add(1)
    await handler.wait_until_finished(1)


class Revocation:
    """Processor whose user loses a permission and gets it back."""

    def __init__(self, group: Group, right: str, caplog: pytest.LogCaptureFixture) -> None:
        self.group, self.right, self.caplog = group, right, caplog
        self.health = Health()
        group.url = f"redis://shop:pw@{group.server.host}:{group.server.port}/0"

    async def start(self, handler: Recorder) -> None:
        await grant(self.group.client, "shop", "on", ">pw", "-@all", *SMALLEST, *KEYS)
        await self.group.start(handler, poll=0.2, settings={"health": self.health})
        await self.group.add(1)
        await handler.wait_until_received(1)

    async def revoke(self) -> None:
        revoked = {self.right, "+evalsha"}  # a script that the server has loaded needs only EVALSHA
        rights = [each for each in (*SMALLEST, *KEYS) if each not in revoked]
        await grant(self.group.client, "shop", "resetkeys", "-@all", *rights)

    async def is_reported(self) -> None:
        expected = f"does not grant required permissions: {self.right}; grant them with ACL SETUSER"
        await eventually(lambda: [each for each in self.caplog.records if expected in each.getMessage()])
        assert {each.levelname for each in self.caplog.records if expected in each.getMessage()} == {"ERROR"}
        assert not self.health.readiness()[0]
        assert self.group.processors[0].is_running

    async def undo(self) -> None:
        await grant(self.group.client, "shop", self.right)
        await eventually(lambda: self.health.readiness()[0])


@ON_ONE_SERVER
@pytest.mark.parametrize("right", ["+eval", "+xreadgroup", "~{orders}:billing:*"])
async def test_revoked_permission_is_logged_and_not_ready_until_it_is_granted(
    any_group: Group, right: str, caplog: pytest.LogCaptureFixture
) -> None:
    revocation, handler = Revocation(any_group, right, caplog), Recorder()
    await revocation.start(handler)
    await revocation.revoke()
    await any_group.add(1)
    await revocation.is_reported()
    await revocation.undo()
    await handler.wait_until_finished(2)
    await any_group.wait_settled()


# -- in a pod --------------------------------------------------------------------------------------------------------


async def test_a_pod_without_eval_ends_with_one_line_in_its_termination_log(
    start_redis: StartRedis, new_pod: NewPod
) -> None:
    server = start_redis(WITHOUT_EVAL)
    pod = new_pod("pod_handlers:log_handled").start(environment={"STREAMCONSUMER_REDIS_URL": server.url})
    assert await pod.wait_for_exit() == 78
    problem = eval_problem(server) + "EVAL is renamed, disabled or refused by a proxy (unknown command "
    assert pod.termination_log.read_text().startswith(f"InvalidSettings: {problem}")
    assert len(pod.termination_log.read_text().splitlines()) == 1


async def test_pod_without_eval_ends_when_the_server_becomes_reachable_after_the_start(
    start_redis: StartRedis, new_pod: NewPod
) -> None:
    server = start_redis(WITHOUT_EVAL)
    await asyncio.to_thread(server.stop)
    pod = new_pod("pod_handlers:log_handled").start(environment={"STREAMCONSUMER_REDIS_URL": server.url})
    await pod.wait_for_log("processor started")
    await asyncio.to_thread(server.start)
    assert await pod.wait_for_exit() == 78
    assert pod.termination_log.read_text().startswith(f"InvalidSettings: {eval_problem(server)}")


async def test_pod_warns_of_missing_optional_permissions_and_continues(group: Group, new_pod: NewPod) -> None:
    await grant(group.client, "shop", "on", ">pw", *KEYS, "-@all", *SMALLEST, "-client|id")
    pod = new_pod("pod_handlers:log_handled", redis_username="shop", redis_password="pw").start()
    await pod.wait_for_log(
        "the Redis user is missing permissions; grant +client|id with ACL SETUSER; docs/redis.md lists the permissions"
    )
    await group.add(1)
    await pod.wait_for_log("handled")


async def test_pod_without_its_secret_names_the_missing_file(new_pod: NewPod) -> None:
    pod = new_pod("pod_handlers:log_handled", redis_password_file="/nowhere/password").start()
    assert await pod.wait_for_exit() == 78
    assert pod.termination_log.read_text() == (
        "InvalidSettings: STREAMCONSUMER_REDIS_PASSWORD_FILE is /nowhere/password: file not found; "
        "check that the Secret exists and contains the key"
    )


def test_conflicting_tls_setting_raises_invalid_settings() -> None:
    with pytest.raises(InvalidSettings):
        StreamManager.from_settings(RedisSettings(url="unix:///run/redis", tls_ca_file="/ca.crt"), STREAM)
