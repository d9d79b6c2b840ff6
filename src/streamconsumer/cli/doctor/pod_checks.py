"""Checks the dependencies of a pod, using the pod's environment variables. The checks change no data in Redis or at the
collector."""

import asyncio
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

from streamconsumer.cli.doctor.facts import Dependency, PodFacts, ServerFacts
from streamconsumer.cli.tcp_check import connect_error
from streamconsumer.errors import BackendUnavailable, InvalidSettings
from streamconsumer.model.env_codec import from_env
from streamconsumer.model.processor_settings import HandlerSettings, ProcessorSettings

try:
    from streamconsumer.cli.redis_errors import as_backend_unavailable
    from streamconsumer.processor.consumer import StreamManager, preflight, redact_url
    from streamconsumer.processor.handler.loader import add_handler_paths, load_handler
    from streamconsumer.processor.message import ConsumerId
    from streamconsumer.processor.telemetry import collector_probe
    from streamconsumer.redis_client import replies
    from streamconsumer.redis_client.errors_table import classify_error
    from streamconsumer.redis_client.keys import POSTPONED_CONSUMER
    from streamconsumer.redis_client.scripts import PROBE_GROUP
    from streamconsumer.redis_client.server_settings import risky_settings
except ImportError as error:
    raise InvalidSettings(f"{error}; install streamconsumer[processor]") from None

TIMEOUT_SECONDS = 5.0
"""Time limit for the Redis checks, and for the connection to the Service of an HTTP handler."""


async def check_pod(environ: Mapping[str, str]) -> PodFacts:
    """Check Redis, the handler and the collector. Raises InvalidSettings if variables of a pod are missing or
    invalid."""
    settings = from_env(ProcessorSettings, environ)
    server, collector = await asyncio.gather(_check_server(settings), _check_collector(environ))
    return PodFacts(
        name=settings.consumer_name,
        stream=settings.stream,
        consumer_group=settings.consumer_group,
        server=server,
        collector=collector,
        handler=await _check_handler(settings.handler),
    )


async def _check_server(settings: ProcessorSettings) -> ServerFacts:
    try:
        manager = StreamManager.from_settings(
            settings.redis, settings.stream, delivery=settings.delivery, retention=settings.retention
        )
    except InvalidSettings as error:
        return ServerFacts(address="", problem=str(error))
    address = ":".join(str(part) for part in manager.address if part is not None)
    try:
        with as_backend_unavailable(address):
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await _query_server(manager, settings, address)
    except TimeoutError:
        return ServerFacts(address=address, problem=f"no answer within {TIMEOUT_SECONDS:.0f} s")
    except (InvalidSettings, BackendUnavailable) as error:
        return ServerFacts(address=address, problem=str(error))
    finally:
        await manager.aclose()


async def _query_server(manager: StreamManager, settings: ProcessorSettings, address: str) -> ServerFacts:
    consumer_id = ConsumerId(settings.stream, settings.consumer_group, settings.consumer_name)
    report = await preflight.run_preflight_checks(manager, consumer_id)
    if report.problem:
        return ServerFacts(address=address, problem=report.problem)
    read_group = ("EVAL", PROBE_GROUP, 1, settings.stream, settings.consumer_group, POSTPONED_CONSUMER, 0)
    (reply,) = await manager.execute_pipeline([read_group])
    group = reply if isinstance(reply, Exception) else replies.array(reply, "EVAL", 3)[0]
    return ServerFacts(
        address=address,
        version=report.version,
        missing_permissions=report.missing_permissions,
        settings=report.settings,
        risky_settings=risky_settings(report.settings),
        version_risk=report.version_risk,
        **_group_state(group, settings),
    )


def _group_state(group: Any, settings: ProcessorSettings) -> dict[str, Any]:
    if isinstance(group, Exception):
        info = classify_error(group, f"stream {settings.stream!r}")
        if info.code == "NOPERM":
            return {"group": "unknown"}
        return {"group": "missing"} if "no such key" in str(group) else {"group_problem": info.message}
    return {"group": "missing" if group is None else "exists"}


async def _check_collector(environ: Mapping[str, str]) -> Dependency | None:
    endpoint = collector_probe.traces_endpoint(environ)
    if endpoint is None:
        return None
    return Dependency(name=redact_url(endpoint), problem=await asyncio.to_thread(collector_probe.probe_collector))


async def _check_handler(handler: HandlerSettings) -> Dependency:
    if handler.http_url is not None:
        return Dependency(
            name=redact_url(handler.http_url), problem=await connect_error(handler.http_url, TIMEOUT_SECONDS)
        )
    assert handler.python
    add_handler_paths()
    try:
        with redirect_stdout(sys.stderr):  # output of the user's module must not mix with the document
            load_handler(handler.python, batch=handler.batch)
    except InvalidSettings as error:
        return Dependency(name=handler.python, problem=str(error))
    return Dependency(name=handler.python)
