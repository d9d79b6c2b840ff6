"""Options of a StreamManager: where they come from, and what they are without a value."""

from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.model.processor_settings import Delivery, RedisSettings, Retention
from streamconsumer.processor import StreamManager
from streamconsumer.processor.consumer import redact_url

URL = "redis://localhost:6379/0"
OPTIONS: dict[str, Any] = {
    "start_from": "$",
    "encoding": "bytes",
    "delivery": Delivery(max_deliveries=3, min_idle=timedelta(seconds=5)),
    "retention": Retention(acknowledged=True),
}


def options_of(manager: StreamManager) -> dict[str, Any]:
    return {name: getattr(manager, name) for name in OPTIONS}


def connection_options(manager: StreamManager) -> dict[str, Any]:
    return {**manager.control.connection_pool.connection_kwargs}


async def test_from_url_passes_each_option_on() -> None:
    manager = StreamManager.from_url(URL, **OPTIONS)
    assert options_of(manager) == OPTIONS
    assert manager.min_idle == timedelta(seconds=5)


async def test_from_url_has_the_documented_defaults() -> None:
    manager = StreamManager.from_url(URL)
    assert options_of(manager) == {
        "start_from": "0",
        "encoding": "utf-8",
        "delivery": Delivery(),
        "retention": Retention(),
    }
    assert manager.min_idle == timedelta(seconds=30)


async def test_min_idle_overrides_that_of_delivery() -> None:
    assert StreamManager.from_url(URL, min_idle=timedelta(seconds=7), **OPTIONS).min_idle == timedelta(seconds=7)


async def test_from_url_rejects_unknown_options() -> None:
    unknown: Any = {"socket_timeout": 3}
    with pytest.raises(TypeError, match="socket_timeout"):
        StreamManager.from_url(URL, **unknown)


async def test_from_url_takes_connection_options_from_the_url() -> None:
    assert connection_options(StreamManager.from_url(f"{URL}?socket_timeout=3"))["socket_timeout"] == 3


async def test_credentials_of_the_url_override_the_arguments() -> None:
    separate = connection_options(StreamManager.from_url(URL, username="shop", password="pw"))
    assert (separate["username"], separate["password"]) == ("shop", "pw")
    in_url = StreamManager.from_url("redis://shop:secret@localhost/0", username="other", password="pw")
    assert connection_options(in_url)["username"] == "shop"
    assert connection_options(in_url)["password"] == "secret"


async def test_from_settings_passes_each_option_on() -> None:
    assert options_of(StreamManager.from_settings(RedisSettings(url=URL), "orders", **OPTIONS)) == OPTIONS


def test_redacted_url_has_neither_credentials_nor_options() -> None:
    assert redact_url("rediss://shop:secret@redis:6379/0?ssl_password=x") == "rediss://redis:6379/0"
