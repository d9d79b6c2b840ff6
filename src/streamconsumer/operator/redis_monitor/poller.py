"""Poller of one Redis endpoint: one round trip on one connection probes the groups of all StreamConsumers."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

from streamconsumer.errors import InvalidSettings, PermissionDenied
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import StreamReason
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.kube.api import api_error_message
from streamconsumer.operator.kube.secret_reader import SecretReader
from streamconsumer.operator.manifests.redis_secrets import secret_files
from streamconsumer.operator.redis_monitor.monitored_stream import MonitoredStream, Observation, PollTarget
from streamconsumer.operator.redis_monitor.namespace_network import MAX_KEPT_SECRET_BYTES, NamespaceNetwork
from streamconsumer.operator.redis_monitor.probe import (
    COMMANDS_PER_PROBE,
    ProbeResult,
    count_lag_command,
    from_error,
    parse_probe,
    probe_commands,
    unreachable,
    with_lag,
    with_position,
)
from streamconsumer.operator.redis_monitor.secret_resolver import ResolvedRedis, read_secret_values, resolve_values
from streamconsumer.operator.redis_monitor.stream_health import StreamHealth
from streamconsumer.operator.redis_monitor.wakeup import TIMEOUT_SECONDS as WAKEUP_TIMEOUT_SECONDS
from streamconsumer.operator.redis_monitor.wakeup import ScaleFromZeroWatcher
from streamconsumer.redis_client.errors_table import RedisErrorInfo
from streamconsumer.redis_client.pipeline_client import DEFAULT_TIMEOUT_SECONDS as COMMAND_TIMEOUT_SECONDS
from streamconsumer.redis_client.pipeline_client import Command, PipelineClient

BATCH_WINDOW_SECONDS = 0.05
"""Time during which new and changed StreamConsumers are collected for one common poll."""

MAX_SECRETS_AGE_SECONDS = 600.0
"""Age after which Secrets are read again. If authentication or the TLS handshake has failed, the next poll reads the
Secrets again."""

log = logging.getLogger(__name__)


class EndpointPoller:
    """Polls all StreamConsumers of one Redis endpoint every `interval`. New and changed StreamConsumers are polled
    immediately."""

    def __init__(
        self,
        secrets: SecretReader,
        network: NamespaceNetwork,
        first: StreamConsumer,
        interval: timedelta,
        on_observation: Callable[[MonitoredStream, Observation], bool],
    ) -> None:
        """`first` is a StreamConsumer that uses this endpoint. Its Redis settings are the same as those of all other
        StreamConsumers that use this endpoint."""
        self._redis, self._namespace, self._stream = first.spec.redis, first.namespace, first.spec.stream
        self.streams: dict[Key, MonitoredStream] = {}
        self._reads_secrets = any(secret_files(self._redis))
        self._secrets, self._interval, self._on_observation = secrets, interval, on_observation
        self._network, self._may_keep = network, False
        self._has_large_secrets = False
        self._locks = AsyncExitStack()
        """Locks that the current poll has acquired."""
        self._due: set[Key] = set()
        self._wakeup = asyncio.Event()
        self._checked: tuple[dict[str, str], ResolvedRedis | ProbeResult] | None = None
        """Last values from Secrets, and the result of checking these values. Unchanged values are not checked again."""
        self._resolved: ResolvedRedis | None = None
        self._client: PipelineClient | None = None
        self._secrets_read_seconds = float("-inf")
        self._scale_from_zero = ScaleFromZeroWatcher(self._poll_soon, self._new_blocking_client)

    def watch(self, stream: MonitoredStream, target: PollTarget) -> None:
        """Start or continue to poll the stream. If the StreamConsumer is new or was edited, poll the stream
        immediately."""
        is_new, previous = stream.key not in self.streams, stream.target
        self.streams[stream.key], stream.target = stream, target
        if previous.group_ref != target.group_ref:
            stream.health = StreamHealth()  # the recorded state describes another group
        if is_new or previous.generation_id != target.generation_id:
            self._poll_soon(stream.key)

    def poll_all_soon(self) -> None:
        """Poll all streams immediately."""
        for key in self.streams:
            self._poll_soon(key)

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
        """Poll until cancelled. An error affects only this endpoint, and the next poll retries."""
        waiting = asyncio.create_task(self._scale_from_zero.run())
        try:
            await self._loop()
        finally:
            waiting.cancel()
            await self._disconnect()
            if self._may_keep:
                self._network.release()
            await asyncio.gather(waiting, return_exceptions=True)

    async def _loop(self) -> None:
        loop = asyncio.get_running_loop()
        next_seconds = loop.time() + self._with_jitter()
        # A poll that times out while the task is cancelled can swallow the cancellation.
        while (task := asyncio.current_task()) is not None and not task.cancelling():
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
        async with self._network.poll(is_kept=self._may_keep), AsyncExitStack() as self._locks:
            await self._poll_now(targets)
            self._update_may_keep()
            if not self._may_keep:
                self._checked = None
                await self._disconnect()

    def _update_may_keep(self) -> None:
        """Decide whether the endpoint keeps its connections and the values of its Secrets until the next poll."""
        may_keep = not self._has_large_secrets and (self._may_keep or self._network.try_keep())
        if self._may_keep and not may_keep:
            self._network.release()
        self._may_keep = may_keep

    async def _poll_now(self, targets: Mapping[Key, PollTarget]) -> None:
        results: dict[Key, ProbeResult] = {}
        with _logged_errors({}):  # for example, the API server is down
            results = await self._probe_groups(targets)
        for key, result in results.items():
            with _logged_errors({"namespace": key[0], "consumer": key[1]}):
                self._publish(key, targets[key], result)
            await asyncio.sleep(0)  # an endpoint may have thousands of streams

    def _publish(self, key: Key, target: PollTarget, result: ProbeResult) -> None:
        if stream := self._current(key, target):
            scaled_to_zero = self._on_observation(stream, self._observe(stream, result))
            self._update_scale_from_zero(key, target, result, scaled_to_zero=scaled_to_zero)

    def _current(self, key: Key, target: PollTarget) -> MonitoredStream | None:
        """Return the stream with this key, or None if the poller no longer polls `target`.

        During the poll, the StreamConsumer may have been deleted, and a new StreamConsumer of the same name may read
        another stream."""
        stream = self.streams.get(key)
        if stream is None:
            return None
        current = stream.target.generation_id[0], stream.target.group_ref
        return stream if current == (target.generation_id[0], target.group_ref) else None

    def _observe(self, stream: MonitoredStream, result: ProbeResult) -> Observation:
        now = asyncio.get_running_loop().time()
        conditions = result.redis_reachable, result.group_ready, stream.health.degraded_condition(result, now)
        _log_unexpected_reply(stream, result)
        pending = {name: count for name, count in result.pending_by_consumer.items() if name in stream.target.pods}
        return Observation(conditions, result.stats, pending, result.entries_read)

    def _update_scale_from_zero(
        self, key: Key, target: PollTarget, result: ProbeResult, *, scaled_to_zero: bool
    ) -> None:
        """Start to wait for the next entry if the StreamConsumer is scaled to zero, otherwise stop waiting."""
        if scaled_to_zero and result.stats is not None:
            after_id = result.stats.last_delivered_id or "0-0"  # scaled to zero without a group: the stream is empty
            self._scale_from_zero.watch(key, target.group_ref.stream, after_id)
        else:
            self._scale_from_zero.unwatch(key)

    def _new_blocking_client(self) -> PipelineClient | None:
        if self._resolved is None or not self.streams or not self._may_keep:
            return None
        return self._build_client(self._resolved, WAKEUP_TIMEOUT_SECONDS)

    async def _probe_groups(self, targets: Mapping[Key, PollTarget]) -> dict[Key, ProbeResult]:
        """Probe the targets. Returns the result of each target."""
        results = await self._probe(targets)
        results = {key: self._with_position(key, targets[key], result) for key, result in results.items()}
        return await self._with_counted_lag(targets, results)

    def _with_position(self, key: Key, target: PollTarget, result: ProbeResult) -> ProbeResult:
        """Store the group's last delivered id. If the group is missing, return the result with the last known id."""
        stats = result.stats
        stream = self._current(key, target)
        if stats is None or stream is None:
            return result
        if stats.last_delivered_id is not None:
            stream.last_delivered_id = stats.last_delivered_id
            return result
        return with_position(result, stream.last_delivered_id or target.last_delivered_id, target.start_from)

    async def _probe(self, targets: Mapping[Key, PollTarget]) -> dict[Key, ProbeResult]:
        if (problem := await self._ensure_client()) is not None:
            return dict.fromkeys(targets, problem)
        group_refs = [target.group_ref for target in targets.values()]
        commands = [command for group_ref in group_refs for command in probe_commands(group_ref, len(targets))]
        raw_replies = await self._execute(commands)
        if isinstance(raw_replies, RedisErrorInfo):  # the idle connection may be broken, so retry on a new connection
            raw_replies = await self._execute(commands)
        if isinstance(raw_replies, RedisErrorInfo):
            return dict.fromkeys(targets, self._failed_probe(raw_replies))
        results = {}
        for number, key in enumerate(targets):
            start = number * COMMANDS_PER_PROBE
            results[key] = parse_probe(group_refs[number], raw_replies[start : start + COMMANDS_PER_PROBE])
            await asyncio.sleep(0)  # parsing the names of a group can take 10 ms
        return results

    async def _with_counted_lag(
        self, targets: Mapping[Key, PollTarget], results: dict[Key, ProbeResult]
    ) -> dict[Key, ProbeResult]:
        """Count the unread entries of groups whose lag Redis does not report. Returns the results of all targets, with
        the counted numbers as lag."""
        commands = {
            key: count_lag_command(targets[key].group_ref, result.stats.last_delivered_id)
            for key, result in results.items()
            if result.stats and result.stats.last_delivered_id and result.stats.pending is not None
            if not result.stats.lag_known
        }
        raw_replies = await self._execute([*commands.values()])
        if isinstance(raw_replies, RedisErrorInfo):
            return results
        counts = {
            key: reply
            for key, reply in zip(commands, raw_replies, strict=True)
            if not isinstance(reply, RedisErrorInfo)
        }
        counted = {key: with_lag(targets[key].group_ref, results[key], reply) for key, reply in counts.items()}
        return results | counted

    async def _ensure_client(self) -> ProbeResult | None:
        """Build a client if the poller has no client or if a Secret has changed. Returns a failed ProbeResult if a
        Secret or a setting is unusable, otherwise None. If the permission to read Secrets was revoked, the client and
        the values of the Secrets are dropped."""
        now = asyncio.get_running_loop().time()
        try:
            if self._reads_secrets:
                await self._secrets.check(self._namespace)
            if self._client is not None and now - self._secrets_read_seconds < MAX_SECRETS_AGE_SECONDS:
                return None
            resolved = await self._resolve()
        except PermissionDenied as error:
            self._checked = None
            await self._disconnect()
            return unreachable(StreamReason.SECRETS_NOT_READABLE, str(error), status="Unknown")
        if isinstance(resolved, ProbeResult):
            return resolved
        self._secrets_read_seconds = now
        if self._client is not None and self._resolved is resolved:
            return None
        try:
            await self._connect(resolved)
        except InvalidSettings as error:
            message = resolved.redact(str(error))
            await self._disconnect()
            return unreachable(StreamReason.INVALID_SETTINGS, message)
        return None

    async def _resolve(self) -> ResolvedRedis | ProbeResult:
        """Read the Secrets, and check the settings if a value has changed."""
        values = await read_secret_values(self._redis, self._namespace, self._secrets)
        if isinstance(values, ProbeResult):
            return values
        self._has_large_secrets = sum(map(len, values.values())) > MAX_KEPT_SECRET_BYTES
        if self._has_large_secrets:
            await self._locks.enter_async_context(self._network.large_secrets)
        if self._checked is None or self._checked[0] != values:
            async with self._network.tls_setup:
                self._checked = values, await resolve_values(self._redis, values, self._network.resolve)
        return self._checked[1]

    async def _connect(self, resolved: ResolvedRedis) -> None:
        await self._disconnect()
        self._resolved = resolved
        self._client = self._build_client(resolved, COMMAND_TIMEOUT_SECONDS)

    async def _disconnect(self) -> None:
        """Close the connections, and drop the values of the Secrets. The next poll reads the Secrets again."""
        client, self._client, self._resolved = self._client, None, None
        if client is not None:
            await client.close()
        self._scale_from_zero.reconnect()  # the blocking read uses values of the Secrets

    def _build_client(self, resolved: ResolvedRedis, timeout_seconds: float) -> PipelineClient:
        return PipelineClient(resolved.credentials, self._stream, timeout_seconds)

    def _failed_probe(self, error_info: RedisErrorInfo) -> ProbeResult:
        """Return the ProbeResult for an error. If authentication or the TLS handshake has failed, make the next poll
        read the Secrets again."""
        result = from_error(error_info)
        if result.redis_reachable.reason in (StreamReason.CREDENTIALS_REFUSED, StreamReason.TLS_FAILED):
            self._secrets_read_seconds = float("-inf")
        return result

    async def _execute(self, commands: Sequence[Command]) -> list[Any] | RedisErrorInfo:
        if self._client is None or self._resolved is None or not commands:
            return []
        raw_replies = await self._client.execute(commands)
        redact = self._resolved.redact
        if isinstance(raw_replies, RedisErrorInfo):
            return replace(raw_replies, unquoted=redact(raw_replies.unquoted), context=redact(raw_replies.context))
        return [
            [_redacted(each, redact) for each in reply] if isinstance(reply, list) else _redacted(reply, redact)
            for reply in raw_replies
        ]

    def _with_jitter(self) -> float:
        return self._interval.total_seconds() * random.uniform(0.75, 1.25)  # noqa: S311 - spreads the polls, not security


def _log_unexpected_reply(stream: MonitoredStream, result: ProbeResult) -> None:
    """Log a warning if the replies of the server cannot be used, unless the previous poll had the same result."""
    is_unexpected = result.group_ready.reason is StreamReason.UNEXPECTED_REPLY
    if is_unexpected and (stream.latest is None or result.group_ready not in stream.latest.conditions):
        failed = result.group_ready if result.redis_reachable.status == "True" else result.redis_reachable
        extra = {"namespace": stream.key[0], "consumer": stream.key[1], "error": failed.message}
        log.warning("Redis sent an unexpected reply; retrying at the next poll", extra=extra)


def _redacted(reply: Any, redact: Callable[[str], str]) -> Any:
    """Return the reply. If the reply is an error, `redact` removes values from Secrets from the attribute `unquoted` of
    the error."""
    return replace(reply, unquoted=redact(reply.unquoted)) if isinstance(reply, RedisErrorInfo) else reply


@contextmanager
def _logged_errors(extra: Mapping[str, str]) -> Iterator[None]:
    """Log an error instead of raising the error, because other polls must not be affected. The next poll retries."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - every error is logged
        log.warning("failed to poll Redis; retrying", extra={**extra, "error": api_error_message(error)})
