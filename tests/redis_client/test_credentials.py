"""Credentials from files as the kubelet writes them: rotated files are used without a restart."""

import asyncio
from pathlib import Path

import pytest

from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.processor import StreamManager
from tests.processor.eventually import TIMEOUT_SECONDS, eventually
from tests.processor.group import STREAM, Group
from tests.processor.recorder import Recorder


async def acl(group: Group, *rules: str) -> None:
    await group.client.execute_command("ACL", "SETUSER", "shop", *rules)  # type: ignore[no-untyped-call] # ships no types


async def cut(group: Group) -> None:
    """End every connection of the processor's user."""
    await group.client.execute_command("CLIENT", "KILL", "USER", "shop")  # type: ignore[no-untyped-call] # ships no types


@pytest.fixture
async def shop(any_group: Group) -> Group:
    """Return the group on a server with a user `shop`."""
    await acl(any_group, "on", ">old", "~*", "+@all")
    return any_group


async def test_rotated_password_is_used_at_the_next_connect(shop: Group, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("old\n")
    access = RedisSettings(url=shop.server.url, username="shop", password_file=str(file))
    manager = StreamManager.from_settings(access, STREAM)
    handler = Recorder()
    processor = await shop.start(handler, manager=manager)
    await shop.wait_until_reading()
    await acl(shop, ">new", "<old")
    await shop.add(1)
    await handler.wait_until_finished(1)  # open connections stay valid
    await cut(shop)
    await eventually(lambda: processor.metrics.redis_errors >= 2)
    assert "the user name or the password is wrong" in processor.health.readiness()[1]
    file.write_text("new")
    await shop.add(1)
    await handler.wait_until_finished(2)
    await shop.wait_settled()
    assert processor.health.readiness() == (True, "ok")
    await asyncio.wait_for(processor.stop_listening(), TIMEOUT_SECONDS)
    await manager.aclose()


async def test_rotated_url_leads_to_the_new_server(shop: Group, tmp_path: Path) -> None:
    """In this test, another database of the same server."""
    file = tmp_path / "url"
    file.write_text(f"redis://shop:old@{shop.server.host}:{shop.server.port}/1")
    manager = StreamManager.from_settings(RedisSettings(url_file=str(file)), STREAM)
    handler = Recorder()
    processor = await shop.start(handler, manager=manager)
    await shop.wait_until_reading()
    assert not await shop.group_exists()
    file.write_text(f"redis://shop:old@{shop.server.host}:{shop.server.port}/0")
    await cut(shop)
    await shop.add(2)
    await handler.wait_until_finished(2)
    await asyncio.wait_for(processor.stop_listening(), TIMEOUT_SECONDS)
    await manager.aclose()


async def test_missing_file_is_an_error_that_the_processor_survives(shop: Group, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("old")
    access = RedisSettings(url=shop.server.url, username="shop", password_file=str(file))
    manager = StreamManager.from_settings(access, STREAM)
    handler = Recorder()
    processor = await shop.start(handler, manager=manager)
    await shop.wait_until_reading()
    file.unlink()
    await cut(shop)
    await eventually(lambda: "file not found" in processor.health.readiness()[1])
    file.write_text("old")
    await shop.add(1)
    await handler.wait_until_finished(1)
    await asyncio.wait_for(processor.stop_listening(), TIMEOUT_SECONDS)
    await manager.aclose()


async def test_manager_uses_the_credentials_of_a_given_client(any_group: Group) -> None:
    manager = StreamManager(any_group.client)
    connection = await manager.connect()
    assert connection.is_connected
    await connection.disconnect()
    assert await manager.execute("PING") == b"PONG"
    await manager.aclose()
