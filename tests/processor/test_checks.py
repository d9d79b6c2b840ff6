"""What a pod says once at start of the server and of its own rights there."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.settings import Delivery, PodHandler, ProcessorSettings, RedisAccess, Retention
from streamconsumer.processor import StreamManager
from streamconsumer.processor.stream import check
from streamconsumer.processor.stream.checks import dangers, lacking, outdated, server_settings, version
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.processor.eventually import PATIENCE_SECONDS
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.pod import NewPod
from tests.processor.test_acl import KEYS, SMALLEST


def settings(server: RedisServer, user: str = "default", **changed: Any) -> ProcessorSettings:
    return ProcessorSettings(
        stream=STREAM,
        consumer_group=GROUP,
        consumer_name="pod-a",
        handler=PodHandler(python="shop:handle"),
        redis=RedisAccess(url=server.url, username=user, password="pw"),
        **changed,
    )


@pytest.fixture
async def admin(any_redis: RedisServer) -> AsyncIterator[Redis]:
    async with Redis(port=any_redis.port, decode_responses=True) as client:
        await grant(client, "default", "on", ">pw", "~*", "+@all")
        yield client


async def grant(admin: Redis, user: str, *rules: str) -> None:
    await admin.execute_command("ACL", "SETUSER", user, *rules)  # type: ignore[no-untyped-call] # ships no types


async def lacks(given: ProcessorSettings) -> list[str]:
    manager = StreamManager.from_settings(given.redis, given.stream)
    try:
        return await lacking(manager, given)
    finally:
        await manager.aclose()


async def test_the_smallest_rights_are_enough_and_each_of_them_is_named(admin: Redis, any_redis: RedisServer) -> None:
    await grant(admin, "shop", "on", ">pw", *KEYS, "-@all", *SMALLEST)
    assert await lacks(settings(any_redis, "shop")) == []
    await grant(admin, "nobody", "on", ">pw", *KEYS, "-@all")
    assert sorted(await lacks(settings(any_redis, "nobody"))) == sorted(SMALLEST)


async def test_keys_that_are_out_of_reach_are_named(admin: Redis, any_redis: RedisServer) -> None:
    await grant(admin, "shop", "on", ">pw", KEYS[0], "-@all", *SMALLEST)
    assert await lacks(settings(any_redis, "shop")) == ["~{orders}:billing:*"]
    elsewhere = Delivery(dead_letter_stream="{orders}:dead")
    assert await lacks(settings(any_redis, "shop", delivery=elsewhere)) == ["~{orders}:dead", "~{orders}:billing:*"]
    await grant(admin, "other", "on", ">pw", "~other", "-@all", *SMALLEST)
    assert await lacks(settings(any_redis, "other")) == ["~orders", "~{orders}:billing:*"]


async def test_what_only_retention_needs_is_asked_only_then(admin: Redis, any_redis: RedisServer) -> None:
    await grant(admin, "shop", "on", ">pw", *KEYS, "-@all", *SMALLEST)
    assert await lacks(settings(any_redis, "shop", retention=Retention(acknowledged=True))) == ["+xtrim"]


@pytest.mark.parametrize("with_group", [True, False])
async def test_asking_changes_nothing(any_redis: RedisServer, with_group: bool) -> None:
    async with Redis(port=any_redis.port, decode_responses=True) as client:
        if with_group:
            await client.xgroup_create(STREAM, GROUP, mkstream=True)
            await client.xadd(STREAM, {"n": "1"})
        before = await everything(client)
        given = settings(any_redis)
        manager = StreamManager.from_url(any_redis.url)
        assert await lacking(manager, given) == []
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
    evicts, forgets = dangers(await server_settings(manager))
    assert evicts.found.startswith("the server's maxmemory-policy is allkeys-lru: short of memory it deletes")
    assert forgets.found.startswith("the server keeps nothing on disk")
    await manager.aclose()


@pytest.mark.parametrize("keeps", [{"appendonly": "yes"}, {"save": "3600 1"}], ids=str)
async def test_a_server_that_keeps_entries_is_not_told(start_redis: StartRedis, keeps: dict[str, str]) -> None:
    manager = StreamManager.from_url(start_redis(keeps).url)
    assert dangers(await server_settings(manager)) == []
    await manager.aclose()


async def test_who_may_not_ask_is_told_nothing(admin: Redis, any_redis: RedisServer) -> None:
    await admin.config_set("maxmemory-policy", "allkeys-lru")
    await grant(admin, "shop", "on", ">pw", *KEYS, "-@all", *SMALLEST)
    manager = StreamManager.from_settings(settings(any_redis, "shop").redis, STREAM)
    assert dangers(await server_settings(manager)) == []
    assert outdated(await version(manager)) == ""
    assert (await version(manager)) == any_redis.version
    await manager.aclose()


@pytest.mark.parametrize("found", ["6.2.0", "6.2.14", "7.0.15", "8.10.1", "9.1.0", "", "unknown"])
def test_a_server_that_is_new_enough_is_used(found: str) -> None:
    assert outdated(found) == ""


@pytest.mark.parametrize("found", ["6.0.16", "5.0.14", "2.8.0"])
def test_a_server_that_is_too_old_is_refused(found: str) -> None:
    """Such a server itself is not to be had for tests."""
    assert outdated(found) == f"the Redis server is version {found}; expected 6.2 or newer; upgrade it"


async def test_what_is_wrong_is_told_as_soon_as_a_server_answers(
    start_redis: StartRedis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamconsumer.processor.stream.checks.AGAIN_SECONDS", 0.05)
    server = start_redis()
    given = settings(server)
    manager = StreamManager.from_url(server.url)
    await asyncio.to_thread(server.stop)
    checking = asyncio.create_task(check(manager, given))
    await asyncio.sleep(0.1)
    assert not checking.done()
    await asyncio.to_thread(server.start)
    await asyncio.wait_for(checking, PATIENCE_SECONDS)
    assert [record.message for record in caplog.records] == [
        "the server keeps nothing on disk: a restart loses every entry; set appendonly yes"
    ]
    await manager.aclose()


async def test_a_pod_says_what_it_lacks_and_goes_on(group: Group, new_pod: NewPod) -> None:
    await grant(group.client, "shop", "on", ">pw", *KEYS, "-@all", *SMALLEST, "-time")
    pod = new_pod("pod_handlers:note", redis_username="shop", redis_password="pw").start()
    lacking = "the Redis user lacks rights; grant +time with ACL SETUSER; docs/redis.md says what each is for"
    await pod.says(lacking)
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
