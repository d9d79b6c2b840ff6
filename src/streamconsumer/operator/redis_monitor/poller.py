"""One way to reach a server, one connection, and everybody who reads by it: looked at together, in one round trip."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import Fact, StreamFigures, StreamReason
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.kube.api import what_was_said
from streamconsumer.operator.kube.client import Cluster
from streamconsumer.operator.manifests.metadata import child_name
from streamconsumer.operator.redis_monitor import group_admin
from streamconsumer.operator.redis_monitor.dns import Names
from streamconsumer.operator.redis_monitor.probe import QUESTIONS, Place, Sight, of_fault, questions, sight
from streamconsumer.operator.redis_monitor.secret_resolver import Resolved, resolve
from streamconsumer.operator.redis_monitor.stream_health import Judgement
from streamconsumer.operator.redis_monitor.wakeup import PATIENCE_SECONDS, Alarm
from streamconsumer.redis_client.errors_table import Fault
from streamconsumer.redis_client.pipeline_client import PATIENCE_SECONDS as LINE_SECONDS
from streamconsumer.redis_client.pipeline_client import Line, Question

GATHERING_SECONDS = 0.05
"""Many that come at the same time are looked at together."""

SECRETS_AGE_SECONDS = 600.0
"""What was read of Secrets is read again after so long, and at once where the server or TLS refuses it."""

TIDY_EVERY_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """One StreamConsumer, as the reconciler last knew it: as much of it as is needed for the next looks."""

    edition: tuple[str, int]
    """Its uid and generation."""
    place: Place
    start_from: str
    deployment: str
    pods: frozenset[str]
    one_ran: bool
    """Whether there is a pod that may know of a group that was there. One that waits for a node or its image knows
    nothing."""
    last_delivered: str | None
    """What its status says: a group was there, and this was its place."""

    @classmethod
    def of(
        cls, consumer: StreamConsumer, pods: frozenset[str], last_delivered: str | None, *, one_ran: bool
    ) -> "Member":
        edition, place = (consumer.uid, consumer.generation), Place.of(consumer)
        return cls(edition, place, consumer.spec.start_from, child_name(consumer), pods, one_ran, last_delivered)


@dataclass(frozen=True)
class Observation:
    """What a look found: three conditions and the figures."""

    facts: tuple[Fact, ...]
    figures: StreamFigures | None
    holding: Mapping[str, int]
    """How many entries each consumer holds."""
    read: int | None
    """How many entries the group was ever given, where the server counts them."""

    @property
    def gist(self) -> list[tuple[str, str, str]]:
        """What is worth a write at once. Words may differ from look to look."""
        return [(each.type, each.status, each.reason) for each in self.facts]


class Endpoint:
    """Looks at once at who is new or changed, and at everybody every `interval`, until cancelled."""

    def __init__(
        self,
        cluster: Cluster,
        first: StreamConsumer,
        interval: timedelta,
        told: Callable[[Key, Observation], bool],
    ) -> None:
        """By what the first one says of Redis: the others who come say the same, and mean the same server by it."""
        self._redis, self._namespace, self._stream = first.spec.redis, first.namespace, first.spec.stream
        self.members: dict[Key, Member] = {}
        self._cluster, self._interval, self._told = cluster, interval, told
        self._judgements: dict[Key, Judgement] = {}
        self._tidied: dict[Key, float] = {}
        self._positions: dict[Key, str] = {}
        self._fresh: set[Key] = set()
        self._something = asyncio.Event()
        self._resolved: Resolved | None = None
        self._line: Line | None = None
        self._read_at_seconds = float("-inf")
        self._alarm = Alarm(self._look_soon, self._another_line)

    def attend(self, key: Key, member: Member) -> None:
        """Look at this one from now on; at once if it is new or was edited."""
        before = self.members.get(key)
        self.members[key] = member
        if before is not None and before.place != member.place:
            self._judgements.pop(key, None)  # of another stream of dead letters
        if before is None or before.edition != member.edition:
            self._look_soon(key)

    def _look_soon(self, key: Key) -> None:
        if key in self.members:
            self._fresh.add(key)
            self._something.set()

    def forget(self, key: Key) -> None:
        for known in (self.members, self._judgements, self._tidied, self._positions):
            known.pop(key, None)
        self._fresh.discard(key)
        self._alarm.clear(key)

    async def run(self) -> None:
        """Until cancelled. Whatever goes wrong is this endpoint's, and is tried again."""
        waiting = asyncio.create_task(self._alarm.run())
        try:
            await self._loop()
        finally:
            waiting.cancel()
            if self._line is not None:
                await self._line.hang_up()
            if self._resolved is not None:
                self._resolved.close()
            await asyncio.gather(waiting, return_exceptions=True)

    async def _loop(self) -> None:
        loop = asyncio.get_running_loop()
        next_seconds = loop.time() + self._jittered()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_seconds):
                    await self._something.wait()
                await asyncio.sleep(GATHERING_SECONDS)
            keys: Iterable[Key] = self._fresh
            if loop.time() >= next_seconds:
                keys, next_seconds = self.members, loop.time() + self._jittered()
            await self._look({key: self.members[key] for key in keys if key in self.members})

    async def _look(self, members: Mapping[Key, Member]) -> None:
        self._fresh = set()
        self._something.clear()
        if not members:
            return
        try:
            for key, seen in (await self._seen(members)).items():
                if self._is_still(key, members[key]):
                    asleep = self._told(key, self._judged(key, seen))
                    self._watch_over(key, seen, asleep=asleep)
        except Exception as error:  # noqa: BLE001 - the API server may be away: the next look may do better
            log.warning("cannot look at Redis; will be tried again", extra={"error": what_was_said(error)})

    def _is_still(self, key: Key, member: Member) -> bool:
        """Whether this one is looked at as it was when the look began: it may have been deleted meanwhile, and another
        of its name may read another stream."""
        now = self.members.get(key)
        return now is not None and (now.edition[0], now.place) == (member.edition[0], member.place)

    def _judged(self, key: Key, seen: Sight) -> Observation:
        now = asyncio.get_running_loop().time()
        judgement = self._judgements.setdefault(key, Judgement())
        facts = seen.reachable, seen.group, judgement.degraded(seen, now)
        return Observation(facts, seen.figures, seen.holding, seen.read)

    def _watch_over(self, key: Key, seen: Sight, *, asleep: bool) -> None:
        """Who has no pods is to have one as soon as an entry comes."""
        after = seen.figures.last_delivered_id if seen.figures else None
        if asleep and after is not None:
            self._alarm.set(key, self.members[key].place.stream, after)
        else:
            self._alarm.clear(key)

    def _another_line(self) -> Line | None:
        if self._resolved is None or not self.members:
            return None
        return self._line_by(self._resolved, PATIENCE_SECONDS)

    async def _seen(self, members: Mapping[Key, Member]) -> dict[Key, Sight]:
        """A look at each of these."""
        found = await self._sights(members)
        missing = {key for key, seen in found.items() if seen.group_is_missing and self._may_create(key, members[key])}
        for key in missing:
            member = members[key]
            last_delivered = self._positions.get(key, member.last_delivered)
            await group_admin.create(self._ask, member.place, member.start_from, last_delivered)
        if missing:
            found |= await self._sights({key: members[key] for key in missing})
        found = {key: self._with_position(key, members[key], seen) for key, seen in found.items()}
        for key, seen in found.items():
            await self._tidy(key, members[key], seen)
        return await self._counted(members, found)

    def _may_create(self, key: Key, member: Member) -> bool:
        """Asked as late as can be: it may have got pods that run since this look began."""
        return self._is_still(key, member) and not self.members[key].one_ran

    def _with_position(self, key: Key, member: Member, seen: Sight) -> Sight:
        """A group that was lost is remembered where it was: whoever creates it again begins there."""
        figures = seen.figures
        if figures is None or not self._is_still(key, member):
            return seen
        if figures.last_delivered_id is not None:
            self._positions[key] = figures.last_delivered_id
            return seen
        position = self._positions.get(key, member.last_delivered)
        return replace(seen, figures=figures.model_copy(update={"last_delivered_id": position}))

    async def _sights(self, members: Mapping[Key, Member]) -> dict[Key, Sight]:
        if (problem := await self._prepare()) is not None:
            return dict.fromkeys(members, problem)
        places = [member.place for member in members.values()]
        asked = [question for place in places for question in questions(place)]
        answers = await self._ask(asked)
        if isinstance(answers, Fault):  # the connection may have been old; the next is new
            answers = await self._ask(asked)
        if isinstance(answers, Fault):
            return dict.fromkeys(members, self._refused(answers))
        portions = [answers[begin : begin + QUESTIONS] for begin in range(0, len(answers), QUESTIONS)]
        return {key: sight(*each) for key, each in zip(members, zip(places, portions, strict=True), strict=True)}

    async def _counted(self, members: Mapping[Key, Member], found: dict[Key, Sight]) -> dict[Key, Sight]:
        """With the entries counted where the server does not know the lag."""
        asked = {
            key: group_admin.behind(members[key].place, seen.figures.last_delivered_id)
            for key, seen in found.items()
            if seen.figures and seen.figures.last_delivered_id and seen.figures.pending is not None
            if not seen.figures.lag_known
        }
        answers = await self._ask([*asked.values()])
        if isinstance(answers, Fault):
            return found
        counts = {key: each for key, each in zip(asked, answers, strict=True) if not isinstance(each, Fault)}
        return found | {key: _with_lag(found[key], int(count)) for key, count in counts.items()}

    async def _tidy(self, key: Key, member: Member, seen: Sight) -> None:
        """Now and then, when there are more consumers than pods."""
        now = asyncio.get_running_loop().time()
        consumers = seen.figures.consumers if seen.figures else None
        if (
            consumers is None
            or consumers <= len(member.pods)
            or now - self._tidied.get(key, float("-inf")) < TIDY_EVERY_SECONDS
        ):
            return
        self._tidied[key] = now
        if names := await group_admin.forget_gone(self._ask, member.place, member.deployment, member.pods):
            extra = {"namespace": key[0], "consumer": key[1], "names": names}
            log.info("consumers of pods that are gone and held nothing are removed", extra=extra)

    async def _prepare(self) -> Sight | None:
        """Have a line, by what the Secrets say. Why there is none, where there is none."""
        now = asyncio.get_running_loop().time()
        if self._line is not None and now - self._read_at_seconds < SECRETS_AGE_SECONDS:
            return None
        found = await resolve(self._redis, self._namespace, self._cluster)
        if isinstance(found, Sight):
            return found
        self._read_at_seconds = now
        if self._line is not None and self._resolved is not None and found.values == self._resolved.values:
            found.close()
            return None
        await self._connect_by(found)
        return None

    async def _connect_by(self, found: Resolved) -> None:
        if self._line is not None:
            await self._line.hang_up()
        if self._resolved is not None:
            self._resolved.close()
        self._line, self._resolved = None, found
        self._line = self._line_by(found, LINE_SECONDS)
        self._alarm.connect_anew()  # its own line takes certificates from the files that were closed

    def _line_by(self, found: Resolved, patience_seconds: float) -> Line:
        return Line(found.settings, self._stream, Names(self._namespace).dial, patience_seconds)

    def _refused(self, fault: Fault) -> Sight:
        """Why nobody answers. A Secret may have changed meanwhile: it is read again before the next look."""
        seen = of_fault(fault)
        if seen.reachable.reason in (StreamReason.CREDENTIALS_REFUSED, StreamReason.TLS_FAILED):
            self._read_at_seconds = float("-inf")
        return seen

    async def _ask(self, asked: Sequence[Question]) -> list[Any] | Fault:
        if self._line is None or self._resolved is None or not asked:
            return []
        answers = await self._line.ask(asked)
        hide = self._resolved.without_secrets
        if isinstance(answers, Fault):
            return replace(answers, sentence=hide(answers.sentence))
        return [replace(each, sentence=hide(each.sentence)) if isinstance(each, Fault) else each for each in answers]

    def _jittered(self) -> float:
        return self._interval.total_seconds() * random.uniform(0.75, 1.25)  # noqa: S311 - spreads endpoints, guards nothing


def _with_lag(seen: Sight, counted: int) -> Sight:
    if seen.figures is None:
        return seen
    update = {"lag": counted, "lag_known": counted < group_admin.MOST_COUNTED}
    return replace(seen, figures=seen.figures.model_copy(update=update))
