"""What a pod sees of what it needs, by its own environment. Nothing is changed, in Redis or at the collector."""

import asyncio
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

from streamconsumer.cli.doctor.facts import Danger, PodFacts, Server, Target
from streamconsumer.cli.tcp_check import what_keeps
from streamconsumer.errors import InvalidSettings, ServerUnavailable
from streamconsumer.model.env_codec import from_env
from streamconsumer.model.processor_settings import PodHandler, ProcessorSettings

try:
    from streamconsumer.cli.redis_errors import told_as_ours
    from streamconsumer.processor.consumer import StreamManager, preflight, without_credentials
    from streamconsumer.processor.handler.loader import load, look_for_modules_here
    from streamconsumer.processor.telemetry import collector_probe
    from streamconsumer.redis_client.errors_table import fault
    from streamconsumer.redis_client.replies import pairs
except ImportError as error:
    raise InvalidSettings(f"{error}; install streamconsumer[processor]") from None

PATIENCE_SECONDS = 5.0
"""For a server that does not answer at all, and for a Service."""


async def look(environ: Mapping[str, str]) -> PodFacts:
    """Raises InvalidSettings where this is no pod's environment."""
    settings = from_env(ProcessorSettings, environ)
    seen, reached = await asyncio.gather(_server(settings), _collector(environ))
    return PodFacts(
        name=settings.consumer_name,
        stream=settings.stream,
        consumer_group=settings.consumer_group,
        server=seen,
        collector=reached,
        handler=await _handler(settings.handler),
    )


async def _server(settings: ProcessorSettings) -> Server:
    try:
        manager = StreamManager.from_settings(
            settings.redis, settings.stream, delivery=settings.delivery, retention=settings.retention
        )
    except InvalidSettings as error:
        return Server(address="", problem=str(error))
    address = ":".join(str(part) for part in manager.address if part is not None)
    try:
        with told_as_ours(address):
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await _asked(manager, settings, address)
    except TimeoutError:
        return Server(address=address, problem=f"no answer within {PATIENCE_SECONDS:.0f} s")
    except (InvalidSettings, ServerUnavailable) as error:
        return Server(address=address, problem=str(error))
    finally:
        await manager.aclose()


async def _asked(manager: StreamManager, settings: ProcessorSettings, address: str) -> Server:
    found = await preflight.examine(manager, (settings.stream, settings.consumer_group, settings.consumer_name))
    if found.problem:
        return Server(address=address, problem=found.problem)
    (groups,) = await manager.ask_together([("XINFO", "GROUPS", settings.stream)])
    return Server(
        address=address,
        version=found.version,
        lacking=found.lacking,
        settings=found.settings,
        dangers=[Danger(found=each.found, advice=each.advice) for each in preflight.dangers(found.settings)],
        **_group(groups, settings),
    )


def _group(answer: Any, settings: ProcessorSettings) -> dict[str, Any]:
    if isinstance(answer, Exception):
        found = fault(answer, f"stream {settings.stream!r}")
        if found.code == "NOPERM":
            return {"group": "unknown"}
        return {"group": "missing"} if "no such key" in str(answer) else {"group_problem": found.sentence}
    names = [pairs(each)[b"name"] for each in answer]
    return {"group": "exists" if settings.consumer_group.encode() in names else "missing"}


async def _collector(environ: Mapping[str, str]) -> Target | None:
    endpoint = collector_probe.endpoint(environ)
    if endpoint is None:
        return None
    return Target(name=without_credentials(endpoint), problem=await asyncio.to_thread(collector_probe.what_is_wrong))


async def _handler(said: PodHandler) -> Target:
    if said.http_url is not None:
        return Target(
            name=without_credentials(said.http_url), problem=await what_keeps(said.http_url, PATIENCE_SECONDS)
        )
    assert said.python
    look_for_modules_here()
    try:
        with redirect_stdout(sys.stderr):  # what a user's module prints is no part of the document
            load(said.python, batch=said.batch)
    except InvalidSettings as error:
        return Target(name=said.python, problem=str(error))
    return Target(name=said.python)
