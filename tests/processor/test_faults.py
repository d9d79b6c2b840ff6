"""What errors of real servers mean, of a command by itself and of one in Lua: each server words them in its own way."""

import pytest
from redis.exceptions import RedisError

from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.redis_client.connection import execute_once
from streamconsumer.redis_client.credentials import RedisCredentials
from streamconsumer.redis_client.errors_table import RedisErrorInfo, classify_error
from tests.processor.dead_letters.dead_letter_factory import restrict
from tests.processor.group import GROUP, STREAM, Group

IN_LUA = "return redis.call(unpack(ARGV))"


@pytest.fixture(params=["by itself", "in Lua"])
def in_lua(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "in Lua")


async def of(group: Group, *command: str, in_lua: bool) -> RedisErrorInfo:
    """The fault that the command ends in."""
    words = ("EVAL", IN_LUA, 1, STREAM, *command) if in_lua else command
    with pytest.raises(RedisError) as caught:
        await group.manager().execute(*words)
    return classify_error(caught.value, "here")


async def test_a_group_that_is_gone_is_lost(any_group: Group, in_lua: bool) -> None:
    found = await of(any_group, "XPENDING", STREAM, GROUP, in_lua=in_lua)
    assert (found.code, found.is_group_lost) == ("NOGROUP", True)


async def test_a_key_of_another_type_is_told(any_group: Group, in_lua: bool) -> None:
    await any_group.client.set(STREAM, "mine")
    found = await of(any_group, "XADD", STREAM, "*", "n", "1", in_lua=in_lua)
    assert found.code == "WRONGTYPE"
    assert found.message.startswith("here: the key is not a stream")


async def test_a_server_without_memory_is_told(any_group: Group, in_lua: bool) -> None:
    await any_group.client.config_set("maxmemory", "1")
    found = await of(any_group, "XADD", STREAM, "*", "n", "1", in_lua=in_lua)
    assert found.code == "OOM"
    assert found.message.startswith("here: the server is out of memory")


async def test_a_right_that_lacks_is_told(any_group: Group, in_lua: bool) -> None:
    await restrict(any_group, "+eval")
    found = await of(any_group, "XADD", STREAM, "*", "n", "1", in_lua=in_lua)
    assert found.code == "NOPERM"
    assert found.message.startswith("here: the user lacks a permission")


async def test_a_database_that_is_not_there_is_told(any_group: Group) -> None:
    access = RedisCredentials(RedisSettings(url=f"redis://127.0.0.1:{any_group.server.port}/99"))
    with pytest.raises(RedisError) as caught:
        await execute_once(access, access.address(), "PING")
    found = classify_error(caught.value, "here")
    assert found.message == (
        "here: the server has no database of this number; correct the number at the end of the URL "
        "(DB index is out of range)"
    )
