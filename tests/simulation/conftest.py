"""Servers on the virtual clock for the tests of the simulation. Without a C compiler, these tests are skipped."""

import gc
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from tests.simulation.real_server import RealServer
from tests.simulation.seeds import flavour_of


@pytest.fixture(scope="session")
def real_server() -> Iterator[Callable[[str], RealServer]]:
    """Return a function that returns the server of a flavour, which it starts once."""
    servers: dict[str, RealServer] = {}
    with ExitStack() as stack:

        def start(name: str) -> RealServer:
            if name not in servers:
                servers[name] = stack.enter_context(closing(RealServer(flavour_of(name))))
            return servers[name]

        yield start


@pytest.fixture
def quiet_engine() -> Iterator[None]:
    """Disable the engine's log, and exempt the objects of earlier tests from the collections of the simulation."""
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.freeze()
    yield
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    gc.collect()  # runs the `finally` blocks of coroutines that a violation's error kept; their errors mean nothing
    sys.unraisablehook = hook
    logging.disable(logging.NOTSET)
