"""One way to reach a server, one connection, and everybody who reads by it: looked at together, in one round trip."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import StreamReason
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.kube.api import api_error_message
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.redis_monitor import group_admin
from streamconsumer.operator.redis_monitor.dns import NamespaceResolver
from streamconsumer.operator.redis_monitor.monitored_stream import MonitoredStream, Observation, PollTarget
from streamconsumer.operator.redis_monitor.probe import (
    COMMANDS_PER_PROBE,
    ProbeResult,
    from_error,
    parse_probe,
    probe_commands,
)
from streamconsumer.operator.redis_monitor.secret_resolver import ResolvedRedis, resolve_redis_spec
from streamconsumer.operator.redis_monitor.stream_health import StreamHealth
from streamconsumer.operator.redis_monitor.wakeup import TIMEOUT_SECONDS, ScaleFromZeroWatcher
from streamconsumer.redis_client.errors_table import RedisErrorInfo
from streamconsumer.redis_client.pipeline_client import DEFAULT_TIMEOUT_SECONDS as LINE_SECONDS
from streamconsumer.redis_client.pipeline_client import Command, PipelineClient

BATCH_WINDOW_SECONDS = 0.05
"""Many that come at the same time are looked at together."""

MAX_SECRETS_AGE_SECONDS = 600.0
"""What was read of Secrets is read again after so long, and at once where the server or TLS refuses it."""

CLEANUP_INTERVAL_SECONDS = 60.0

log = logging.getLogger(__name__)


class EndpointPoller:
    """Looks at once at who is new or changed, and at everybody every `interval`, until cancelled."""

    def __init__(
        self,
        kube: KubeClient,
        first: StreamConsumer,
        interval: timedelta,
        on_observation: Callable[[MonitoredStream, Observation], bool],
    ) -> None:
        """By what the first one says of Redis: the others who come say the same, and mean the same server by it."""
        self._redis, self._namespace, self._stream = first.spec.redis, first.namespace, first.spec.stream
        self.streams: dict[Key, MonitoredStream] = {}
        self._kube, self._interval, self._on_observation = kube, interval, on_observation
        self._due: set[Key] = set()
        self._wakeup = asyncio.Event()
        self._resolved: ResolvedRedis | None = None
        self._client: PipelineClient | None = None
        self._secrets_read_seconds = float("-inf")
        self._scale_from_zero = ScaleFromZeroWatcher(self._poll_soon, self._new_blocking_client)

    def watch(self, stream: MonitoredStream, target: PollTarget) -> None:
        """Poll the stream from now on, immediately if it is new or was edited."""
        is_new, previous = stream.key not in self.streams, stream.target
        self.streams[stream.key], stream.target = stream, target
        if previous.group_ref != target.group_ref:
            stream.health = StreamHealth()  # the previous counts are from another dead-letter stream
        if is_new or previous.generation_id != target.generation_id:
            self._poll_soon(stream.key)

    def _poll_soon(self, key: Key) -> None:
        if key in self.streams:
            self._due.add(key)
            self._wakeup.set()

    def unwatch(self, stream: MonitoredStream) -> None:
        """Stop polling the stream."""
        self.streams.pop(stream.key, None)
        self._due.discard(stream.key)
        self._scale_from_zero.unwatch(stream.key)

    async def run(self) -> None:
        """Until cancelled. Whatever goes wrong is this endpoint's, and is tried again."""
        waiting = asyncio.create_task(self._scale_from_zero.run())
        try:
            await self._loop()
        finally:
            waiting.cancel()
            if self._client is not None:
                await self._client.close()
            if self._resolved is not None:
                self._resolved.close()
            await asyncio.gather(waiting, return_exceptions=True)

    async def _loop(self) -> None:
        loop = asyncio.get_running_loop()
        next_seconds = loop.time() + self._with_jitter()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_seconds):
                    await self._wakeup.wait()
                await asyncio.sleep(BATCH_WINDOW_SECONDS)
            keys: Iterable[Key] = self._due
            if loop.time() >= next_seconds:
                keys, next_seconds = self.streams, loop.time() + self._with_jitter()
            await self._poll({key: self.streams[key].target for key in keys if key in self.streams})

    async def _poll(self, targets: Mapping[Key, PollTarget]) -> None:
        self._due = set()
        self._wakeup.clear()
        if not targets:
            return
        try:
            for key, seen in (await self._probe_groups(targets)).items():
                if stream := self._current(key, targets[key]):
                    asleep = self._on_observation(stream, self._observe(stream, seen))
                    self._update_scale_from_zero(key, targets[key], seen, scaled_to_zero=asleep)
        except Exception as error:  # noqa: BLE001 - the API server may be away: the next look may do better
            log.warning("cannot look at Redis; will be tried again", extra={"error": api_error_message(error)})

    def _current(self, key: Key, target: PollTarget) -> MonitoredStream | None:
        """The stream that is polled under this key, or None if the poll of this target is outdated. The StreamConsumer
        may have been deleted during the poll, and a new one of the same name may read another stream."""
        stream = self.streams.get(key)
        if stream is None:
            return None
        current = stream.target.generation_id[0], stream.target.group_ref
        return stream if current == (target.generation_id[0], target.group_ref) else None

    def _observe(self, stream: MonitoredStream, result: ProbeResult) -> Observation:
        now = asyncio.get_running_loop().time()
        facts = result.redis_reachable, result.group_ready, stream.health.degraded_condition(result, now)
        return Observation(facts, result.stats, result.pending_by_consumer, result.entries_read)

    def _update_scale_from_zero(
        self, key: Key, target: PollTarget, result: ProbeResult, *, scaled_to_zero: bool
    ) -> None:
        """Who has no pods is to have one as soon as an entry comes."""
        after = result.stats.last_delivered_id if result.stats else None
        if scaled_to_zero and after is not None:
            self._scale_from_zero.watch(key, target.group_ref.stream, after)
        else:
            self._scale_from_zero.unwatch(key)

    def _new_blocking_client(self) -> PipelineClient | None:
        if self._resolved is None or not self.streams:
            return None
        return self._build_client(self._resolved, TIMEOUT_SECONDS)

    async def _probe_groups(self, targets: Mapping[Key, PollTarget]) -> dict[Key, ProbeResult]:
        """A look at each of these."""
        found = await self._probe(targets)
        missing = {key for key, seen in found.items() if seen.is_group_missing and self._may_create(key, targets[key])}
        for key in missing:
            member = targets[key]
            stream = self.streams.get(key)
            last_delivered = (stream and stream.last_delivered_id) or member.last_delivered_id
            await group_admin.create_group(self._execute, member.group_ref, member.start_from, last_delivered)
        if missing:
            found |= await self._probe({key: targets[key] for key in missing})
        found = {key: self._with_last_delivered_id(key, targets[key], seen) for key, seen in found.items()}
        for key, seen in found.items():
            await self._delete_stale_consumers(key, targets[key], seen)
        return await self._with_counted_lag(targets, found)

    def _may_create(self, key: Key, target: PollTarget) -> bool:
        """Asked as late as can be: it may have got pods that run since this look began."""
        stream = self._current(key, target)
        return stream is not None and not stream.target.pod_has_run

    def _with_last_delivered_id(self, key: Key, target: PollTarget, result: ProbeResult) -> ProbeResult:
        """A group that was lost is remembered where it was: whoever creates it again begins there."""
        figures = result.stats
        stream = self._current(key, target)
        if figures is None or stream is None:
            return result
        if figures.last_delivered_id is not None:
            stream.last_delivered_id = figures.last_delivered_id
            return result
        position = stream.last_delivered_id or target.last_delivered_id
        return replace(result, stats=figures.model_copy(update={"last_delivered_id": position}))

    async def _probe(self, targets: Mapping[Key, PollTarget]) -> dict[Key, ProbeResult]:
        if (problem := await self._ensure_client()) is not None:
            return dict.fromkeys(targets, problem)
        places = [member.group_ref for member in targets.values()]
        asked = [question for place in places for question in probe_commands(place)]
        answers = await self._execute(asked)
        if isinstance(answers, RedisErrorInfo):  # the connection may have been old; the next is new
            answers = await self._execute(asked)
        if isinstance(answers, RedisErrorInfo):
            return dict.fromkeys(targets, self._failed_probe(answers))
        portions = [answers[begin : begin + COMMANDS_PER_PROBE] for begin in range(0, len(answers), COMMANDS_PER_PROBE)]
        return {key: parse_probe(*each) for key, each in zip(targets, zip(places, portions, strict=True), strict=True)}

    async def _with_counted_lag(
        self, targets: Mapping[Key, PollTarget], results: dict[Key, ProbeResult]
    ) -> dict[Key, ProbeResult]:
        """With the entries counted where the server does not know the lag."""
        asked = {
            key: group_admin.count_lag_command(targets[key].group_ref, seen.stats.last_delivered_id)
            for key, seen in results.items()
            if seen.stats and seen.stats.last_delivered_id and seen.stats.pending is not None
            if not seen.stats.lag_known
        }
        answers = await self._execute([*asked.values()])
        if isinstance(answers, RedisErrorInfo):
            return results
        counts = {key: each for key, each in zip(asked, answers, strict=True) if not isinstance(each, RedisErrorInfo)}
        return results | {key: _with_lag(results[key], int(count)) for key, count in counts.items()}

    async def _delete_stale_consumers(self, key: Key, target: PollTarget, result: ProbeResult) -> None:
        """Now and then, when there are more consumers than pods."""
        now = asyncio.get_running_loop().time()
        consumers = result.stats.consumers if result.stats else None
        stream = self.streams.get(key)
        if (
            stream is None
            or consumers is None
            or consumers <= len(target.pods)
            or now - stream.cleaned_up_seconds < CLEANUP_INTERVAL_SECONDS
        ):
            return
        stream.cleaned_up_seconds = now
        if names := await group_admin.delete_stale_consumers(
            self._execute, target.group_ref, target.deployment, target.pods
        ):
            extra = {"namespace": key[0], "consumer": key[1], "names": names}
            log.info("consumers of pods that are gone and held nothing are removed", extra=extra)

    async def _ensure_client(self) -> ProbeResult | None:
        """Have a line, by what the Secrets say. Why there is none, where there is none."""
        now = asyncio.get_running_loop().time()
        if self._client is not None and now - self._secrets_read_seconds < MAX_SECRETS_AGE_SECONDS:
            return None
        found = await resolve_redis_spec(self._redis, self._namespace, self._kube)
        if isinstance(found, ProbeResult):
            return found
        self._secrets_read_seconds = now
        if self._client is not None and self._resolved is not None and found.values == self._resolved.values:
            found.close()
            return None
        await self._connect(found)
        return None

    async def _connect(self, resolved: ResolvedRedis) -> None:
        if self._client is not None:
            await self._client.close()
        if self._resolved is not None:
            self._resolved.close()
        self._client, self._resolved = None, resolved
        self._client = self._build_client(resolved, LINE_SECONDS)
        self._scale_from_zero.reconnect()  # its own line takes certificates from the files that were closed

    def _build_client(self, resolved: ResolvedRedis, timeout_seconds: float) -> PipelineClient:
        return PipelineClient(
            resolved.settings, self._stream, NamespaceResolver(self._namespace).resolve, timeout_seconds
        )

    def _failed_probe(self, error_info: RedisErrorInfo) -> ProbeResult:
        """Why nobody answers. A Secret may have changed meanwhile: it is read again before the next look."""
        seen = from_error(error_info)
        if seen.redis_reachable.reason in (StreamReason.CREDENTIALS_REFUSED, StreamReason.TLS_FAILED):
            self._secrets_read_seconds = float("-inf")
        return seen

    async def _execute(self, commands: Sequence[Command]) -> list[Any] | RedisErrorInfo:
        if self._client is None or self._resolved is None or not commands:
            return []
        answers = await self._client.execute(commands)
        hide = self._resolved.redact
        if isinstance(answers, RedisErrorInfo):
            return replace(answers, message=hide(answers.message))
        return [
            replace(each, message=hide(each.message)) if isinstance(each, RedisErrorInfo) else each for each in answers
        ]

    def _with_jitter(self) -> float:
        return self._interval.total_seconds() * random.uniform(0.75, 1.25)  # noqa: S311 - spreads endpoints, guards nothing


def _with_lag(result: ProbeResult, count: int) -> ProbeResult:
    if result.stats is None:
        return result
    update = {"lag": count, "lag_known": count < group_admin.MAX_COUNTED}
    return replace(result, stats=result.stats.model_copy(update=update))
