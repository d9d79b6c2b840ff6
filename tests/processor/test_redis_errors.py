"""Classification of errors of real servers, whose texts differ, for direct commands and for commands in Lua."""

import pytest
from redis.exceptions import RedisError

from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.redis_client.connection import execute_once
from streamconsumer.redis_client.credentials import RedisCredentials
from streamconsumer.redis_client.errors_table import RedisErrorInfo, classify_error
from tests.processor.dead_letters.dead_letter_factory import restrict
from tests.processor.group import GROUP, STREAM, Group

IN_LUA = "return redis.call(unpack(ARGV))"


@pytest.fixture(params=["direct", "in Lua"])
def in_lua(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "in Lua")


async def error_of(group: Group, *command: str, in_lua: bool) -> RedisErrorInfo:
    """Run a command that fails, and return the classified error."""
    full_command = ("EVAL", IN_LUA, 1, STREAM, *command) if in_lua else command
    with pytest.raises(RedisError) as caught:
        await group.manager().execute(*full_command)
    return classify_error(caught.value, "here")


async def test_missing_group_is_classified_as_lost(any_group: Group, in_lua: bool) -> None:
    error_info = await error_of(any_group, "XPENDING", STREAM, GROUP, in_lua=in_lua)
    assert (error_info.code, error_info.is_group_lost) == ("NOGROUP", True)


async def test_key_of_another_type_is_reported(any_group: Group, in_lua: bool) -> None:
    await any_group.client.set(STREAM, "mine")
    error_info = await error_of(any_group, "XADD", STREAM, "*", "n", "1", in_lua=in_lua)
    assert error_info.code == "WRONGTYPE"
    assert error_info.message.startswith("here: the stream's key, or a key of the group")


async def test_server_out_of_memory_is_reported(any_group: Group, in_lua: bool) -> None:
    await any_group.client.config_set("maxmemory", "1")
    error_info = await error_of(any_group, "XADD", STREAM, "*", "n", "1", in_lua=in_lua)
    assert error_info.code == "OOM"
    assert error_info.message.startswith("here: the server is out of memory")


async def test_missing_permission_is_reported(any_group: Group, in_lua: bool) -> None:
    await restrict(any_group, "+eval")
    error_info = await error_of(any_group, "XADD", STREAM, "*", "n", "1", in_lua=in_lua)
    assert error_info.code == "NOPERM"
    assert error_info.message.startswith("here: the user lacks a permission")


async def test_missing_database_is_reported(any_group: Group) -> None:
    credentials = RedisCredentials(RedisSettings(url=f"redis://127.0.0.1:{any_group.server.port}/99"))
    with pytest.raises(RedisError) as caught:
        await execute_once(credentials, credentials.address(), "PING")
    error_info = classify_error(caught.value, "here")
    assert error_info.message == (
        "here: the server has no database with this number; correct the number at the end of the URL "
        "(DB index is out of range)"
    )
