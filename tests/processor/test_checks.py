"""The look at the server and at the user's rights: what ends a processor, and what it only warns of."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import Redis

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.settings import Delivery, RedisAccess, Retention
from streamconsumer.processor import RedisStreamProcessor, StreamManager
from streamconsumer.processor.health import Health
from streamconsumer.processor.stream.checks import OPTIONAL, Examination, dangers, examine
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.cluster.redis_servers import FLAVOURS, Flavour, RedisServer, StartRedis
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.pod import NewPod
from tests.processor.proxy import Place, Proxy
from tests.processor.recorder import Recorder
from tests.processor.test_acl import KEYS, SMALLEST

WHO = (STREAM, GROUP, "pod-a")
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


async def examined(server: RedisServer, user: str = "default", **options: Any) -> Examination:
    manager = StreamManager.from_url(server.url, username=user, password="pw", **options)
    try:
        return await examine(manager, WHO)
    finally:
        await manager.aclose()


async def lacks(server: RedisServer, user: str, **options: Any) -> list[str]:
    return (await examined(server, user, **options)).lacking


async def test_the_smallest_rights_are_enough_and_each_missing_one_is_named(
    admin: Redis, any_redis: RedisServer
) -> None:
    await grant(admin, "shop", "on", ">pw", *KEYS, "-@all", *SMALLEST)
    found = await examined(any_redis, "shop")
    assert (found.problem, found.lacking) == ("", [])
    await grant(admin, "nobody", "on", ">pw", *KEYS, "-@all")
    found = await examined(any_redis, "nobody")
    assert sorted(found.lacking) == sorted(SMALLEST)
    required = [right for right in found.lacking if right not in OPTIONAL]
    assert found.problem == (
        f"Redis at 127.0.0.1:{any_redis.port} refuses the Redis user what is required: {' '.join(required)}; "
        "grant it with ACL SETUSER, docs/redis.md lists the rights"
    )


@pytest.mark.parametrize("right", [right for right in SMALLEST if right not in OPTIONAL])
async def test_a_user_without_a_required_right_is_refused(admin: Redis, any_redis: RedisServer, right: str) -> None:
    await grant(admin, "shop", "on", ">pw", *KEYS, "-@all", *[each for each in SMALLEST if each != right])
    assert f"what is required: {right}; " in (await examined(any_redis, "shop")).problem


async def test_without_optional_rights_there_is_a_warning_and_no_problem(admin: Redis, any_redis: RedisServer) -> None:
    await grant(admin, "shop", "on", ">pw", *KEYS, "-@all", *[each for each in SMALLEST if each not in OPTIONAL])
    found = await examined(any_redis, "shop")
    assert found.problem == ""
    assert found.warnings[0] == (
        "the Redis user lacks rights; grant +client|id +client|unblock with ACL SETUSER; docs/redis.md lists the rights"
    )


async def test_keys_that_are_out_of_reach_are_named(admin: Redis, any_redis: RedisServer) -> None:
    await grant(admin, "shop", "on", ">pw", KEYS[0], "-@all", *SMALLEST)
    assert await lacks(any_redis, "shop") == ["~{orders}:billing:*"]
    elsewhere = Delivery(dead_letter_stream="{orders}:dead")
    assert await lacks(any_redis, "shop", delivery=elsewhere) == ["~{orders}:dead", "~{orders}:billing:*"]
    await grant(admin, "other", "on", ">pw", "~other", "-@all", *SMALLEST)
    assert await lacks(any_redis, "other") == ["~orders", "~{orders}:billing:*"]
    assert "what is required: ~orders ~{orders}:billing:*; " in (await examined(any_redis, "other")).problem


async def test_what_only_retention_needs_is_asked_only_then(admin: Redis, any_redis: RedisServer) -> None:
    await grant(admin, "shop", "on", ">pw", *KEYS, "-@all", *SMALLEST)
    assert await lacks(any_redis, "shop", retention=Retention(acknowledged=True)) == ["+xtrim"]


@pytest.mark.parametrize("with_group", [True, False])
async def test_asking_changes_nothing(any_redis: RedisServer, with_group: bool) -> None:
    async with Redis(port=any_redis.port, decode_responses=True) as client:
        if with_group:
            await client.xgroup_create(STREAM, GROUP, mkstream=True)
            await client.xadd(STREAM, {"n": "1"})
        before = await everything(client)
        manager = StreamManager.from_url(any_redis.url)
        assert (await examine(manager, WHO)).lacking == []
        await manager.aclose()
        assert await everything(client) == before


async def everything(client: Redis) -> Any:
    if not await client.exists(STREAM):
        return await client.keys("*")
    info: Any = await client.xinfo_stream(STREAM, full=True)
    return await client.keys("*"), info["length"], info["groups"]


async def test_a_server_that_may_lose_entries_is_told(start_redis: StartRedis) -> None:
    server = start_redis({"maxmemory-policy": "allkeys-lru"})
    manager = StreamManager.from_url(server.url)
    evicts, forgets = dangers((await examine(manager, WHO)).settings)
    assert evicts.found.startswith("the server's maxmemory-policy is allkeys-lru: short of memory it deletes")
    assert forgets.found.startswith("the server keeps nothing on disk")
    await manager.aclose()


@pytest.mark.parametrize("keeps", [{"appendonly": "yes"}, {"save": "3600 1"}], ids=str)
async def test_a_server_that_keeps_entries_is_not_told(start_redis: StartRedis, keeps: dict[str, str]) -> None:
    manager = StreamManager.from_url(start_redis(keeps).url)
    assert (await examine(manager, WHO)).warnings == []
    await manager.aclose()


async def test_who_may_not_ask_is_told_nothing(admin: Redis, any_redis: RedisServer) -> None:
    await admin.config_set("maxmemory-policy", "allkeys-lru")
    await grant(admin, "shop", "on", ">pw", *KEYS, "-@all", *SMALLEST)
    found = await examined(any_redis, "shop")
    assert (found.warnings, found.problem, found.version) == ([], "", any_redis.version)


@pytest.mark.parametrize("found", ["6.2.0", "6.2.14", "7.0.15", "8.10.1", "9.1.0", "unknown"])
async def test_a_server_that_is_new_enough_is_used(group: Group, found: str) -> None:
    async with Disguise(group.server, version=found).running() as disguise:
        assert (await examine(group.manager(disguise.url), WHO)).problem == ""


@pytest.mark.parametrize("found", ["6.0.16", "5.0.14", "2.8.0"])
async def test_a_server_that_is_too_old_is_refused(group: Group, found: str) -> None:
    async with Disguise(group.server, version=found).running() as disguise:
        assert (await examine(group.manager(disguise.url), WHO)).problem == (
            f"the Redis server is version {found}; expected 6.2 or newer; upgrade it"
        )


# -- without scripts -------------------------------------------------------------------------------------------------


class Disguise(Proxy):
    """A proxy that names another version, or words the refusal of EVAL in its own way."""

    def __init__(self, server: Place, *, version: str = "", refusal: str = "") -> None:
        super().__init__(server)
        self.version, self.refusal = version, refusal

    async def _hand_back(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                target.write(self._disguised(data))
        target.close()

    def _disguised(self, data: bytes) -> bytes:
        if self.version:
            named = b"version\r\n$%d\r\n%s\r\n" % (len(self.version), self.version.encode())
            data = re.sub(rb"version\r\n\$\d+\r\n[^\r]*\r\n", named, data)
        if self.refusal:
            data = re.sub(rb"-ERR unknown command .EVAL.[^\r]*", b"-" + self.refusal.encode(), data)
        return data


def with_scripts(server: Place) -> str:
    return f"Redis at {server.host}:{server.port} refuses the Redis user what is required: +eval; "


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
async def test_start_listening_raises_on_a_server_whose_eval_is_renamed(
    start_redis: StartRedis, flavour: Flavour
) -> None:
    group = Group(start_redis(WITHOUT_EVAL, flavour))
    processor = group.processor(Recorder())
    with pytest.raises(InvalidSettings) as raised:
        await processor.start_listening()
    about = with_scripts(group.server) + "EVAL is renamed, disabled or refused by a proxy (unknown command "
    assert str(raised.value).startswith(about)
    assert str(raised.value).endswith("): enable it there")
    assert not processor.is_running
    assert not await group.client.keys()
    await group.close()


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_start_listening_raises_behind_a_proxy_that_refuses_eval(start_redis: StartRedis, refusal: str) -> None:
    group = Group(start_redis(WITHOUT_EVAL))
    async with Disguise(group.server, refusal=refusal).running() as proxy:
        processor = group.processor(Recorder(), manager=group.manager(proxy.url))
        with pytest.raises(InvalidSettings, match=r"what is required: \+eval; "):
            await processor.start_listening()
        assert not processor.is_running
    await group.close()


class WithoutUpstream(Proxy):
    """A proxy that answers each command in words of its own until its server is there."""

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
    proxy = WithoutUpstream(group.server)
    async with proxy.running():
        handler = Recorder()
        processor = group.processor(handler, manager=group.manager(proxy.url))
        await processor.start_listening()
        assert processor.is_running
        assert "upstream failure" in processor.health.readiness()[1]
        proxy.is_away = False
        await group.add()
        await handler.has_finished(1)
        await processor.stop_listening()


async def test_start_listening_raises_for_a_user_who_may_not_eval(admin: Redis, any_redis: RedisServer) -> None:
    await grant(admin, "shop", "on", ">secret", *KEYS, "-@all", *SMALLEST, "-eval")
    manager = StreamManager.from_url(f"redis://shop:secret@{any_redis.host}:{any_redis.port}/0")
    processor = RedisStreamProcessor(manager, STREAM, GROUP, "pod-a")
    processor.set_message_callback(Recorder())
    with pytest.raises(InvalidSettings) as raised:
        await processor.start_listening()
    assert str(raised.value) == (
        f"Redis at 127.0.0.1:{any_redis.port} refuses the Redis user what is required: +eval; "
        "grant it with ACL SETUSER, docs/redis.md lists the rights"
    )
    await manager.aclose()


async def test_a_server_whose_evalsha_is_renamed_is_used(start_redis: StartRedis) -> None:
    group = Group(start_redis({"rename-command": 'EVALSHA ""'}))
    handler = Recorder()
    await group.start(handler)
    await group.add(3)
    await handler.has_finished(3)
    await group.settled()
    await group.close()


async def test_a_processor_ends_when_an_unsuitable_server_answers_after_the_start(start_redis: StartRedis) -> None:
    group = Group(start_redis(WITHOUT_EVAL))
    await asyncio.to_thread(group.server.stop)
    processor = await group.start(Recorder())
    assert processor.is_running
    await asyncio.to_thread(group.server.start)
    with pytest.raises(InvalidSettings, match="EVAL is renamed, disabled or refused by a proxy"):
        await processor.wait_stopped()
    assert not processor.is_running
    await group.close()


async def test_a_processor_starts_again_after_its_user_was_granted_what_was_missing(group: Group) -> None:
    await grant(group.client, "shop", "on", ">pw", *KEYS, "-@all", *SMALLEST, "-eval")
    group.url = f"redis://shop:pw@{group.server.host}:{group.server.port}/0"
    handler = Recorder()
    processor = group.processor(handler)
    with pytest.raises(InvalidSettings):
        await processor.start_listening()
    await grant(group.client, "shop", "+eval")
    await processor.start_listening()
    await group.add(1)
    await handler.has_finished(1)


class Revocation:
    """A processor whose user loses a right and gets it back."""

    def __init__(self, group: Group, right: str, caplog: pytest.LogCaptureFixture) -> None:
        self.group, self.right, self.caplog = group, right, caplog
        self.health = Health()
        group.url = f"redis://shop:pw@{group.server.host}:{group.server.port}/0"

    async def start(self, handler: Recorder) -> None:
        await grant(self.group.client, "shop", "on", ">pw", "-@all", *SMALLEST, *KEYS)
        await self.group.start(handler, poll=0.2, settings={"health": self.health})
        await self.group.add(1)
        await handler.has_seen(1)

    async def revoke(self) -> None:
        rights = [each for each in (*SMALLEST, *KEYS) if each != self.right]
        await grant(self.group.client, "shop", "resetkeys", "-@all", *rights)

    async def is_reported(self) -> None:
        expected = f"refuses the Redis user what is required: {self.right}; grant it with ACL SETUSER"
        await eventually(lambda: [each for each in self.caplog.records if expected in each.getMessage()])
        assert {each.levelname for each in self.caplog.records if expected in each.getMessage()} == {"ERROR"}
        assert not self.health.readiness()[0]
        assert self.group.processors[0].is_running

    async def undo(self) -> None:
        await grant(self.group.client, "shop", self.right)
        await eventually(lambda: self.health.readiness()[0])


@ON_ONE_SERVER
@pytest.mark.parametrize("right", ["+eval", "+xreadgroup", "~{orders}:billing:*"])
async def test_a_right_that_is_revoked_from_a_reader_is_an_error_and_not_ready_until_it_is_granted(
    any_group: Group, right: str, caplog: pytest.LogCaptureFixture
) -> None:
    revocation, handler = Revocation(any_group, right, caplog), Recorder()
    await revocation.start(handler)
    await revocation.revoke()
    await any_group.add(1)
    await revocation.is_reported()
    await revocation.undo()
    await handler.has_finished(2)
    await any_group.settled()


# -- in a pod --------------------------------------------------------------------------------------------------------


async def test_a_pod_without_eval_ends_with_one_line_in_its_termination_log(
    start_redis: StartRedis, new_pod: NewPod
) -> None:
    server = start_redis(WITHOUT_EVAL)
    pod = new_pod("pod_handlers:note").start(environment={"STREAMCONSUMER_REDIS_URL": server.url})
    assert await pod.ended() == 78
    about = with_scripts(server) + "EVAL is renamed, disabled or refused by a proxy (unknown command "
    assert pod.termination_log.read_text().startswith(f"InvalidSettings: {about}")
    assert len(pod.termination_log.read_text().splitlines()) == 1


async def test_a_pod_without_eval_ends_when_the_server_answers_after_the_start(
    start_redis: StartRedis, new_pod: NewPod
) -> None:
    server = start_redis(WITHOUT_EVAL)
    await asyncio.to_thread(server.stop)
    pod = new_pod("pod_handlers:note").start(environment={"STREAMCONSUMER_REDIS_URL": server.url})
    await pod.says("processor started")
    await asyncio.to_thread(server.start)
    assert await pod.ended() == 78
    assert pod.termination_log.read_text().startswith(f"InvalidSettings: {with_scripts(server)}")


async def test_a_pod_warns_of_optional_rights_and_goes_on(group: Group, new_pod: NewPod) -> None:
    await grant(group.client, "shop", "on", ">pw", *KEYS, "-@all", *SMALLEST, "-client|id")
    pod = new_pod("pod_handlers:note", redis_username="shop", redis_password="pw").start()
    await pod.says("the Redis user lacks rights; grant +client|id with ACL SETUSER; docs/redis.md lists the rights")
    await group.add(1)
    await pod.says("handled")


async def test_a_pod_without_its_secret_says_which_file_is_missing(new_pod: NewPod) -> None:
    pod = new_pod("pod_handlers:note", redis_password_file="/nowhere/password").start()
    assert await pod.ended() == 78
    assert pod.termination_log.read_text() == (
        "InvalidSettings: STREAMCONSUMER_REDIS_PASSWORD_FILE is /nowhere/password, and there is no such file; "
        "does the Secret exist, and has it the key?"
    )


def test_a_setting_that_is_refused_is_an_invalid_setting() -> None:
    with pytest.raises(InvalidSettings):
        StreamManager.from_settings(RedisAccess(url="unix:///run/redis", tls_ca_file="/ca.crt"), STREAM)
