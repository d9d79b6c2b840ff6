"""Fixtures and settings for all tests."""

import functools
import gc
import importlib.metadata
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.cluster.fixtures"]

# Slow input generation on a machine with other load is not a failure of the test.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")

# redis-py parses the metadata of its distribution again for each connection of a client without DriverInfo.
importlib.metadata.version = functools.cache(importlib.metadata.version)

# Servers of the tests are on loopback. A proxy of the shell (HTTP_PROXY) cannot reach them.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(
    filter(None, [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "localhost", "127.0.0.1", "::1"])
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Exempt modules and tests from garbage collections, which would traverse them again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
