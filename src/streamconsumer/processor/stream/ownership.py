"""Whose an entry is, and what is done about it: in one step by Lua, or in two where the ACL forbids EVAL.

Two steps are weaker: an entry that changes hands between the question and the act is taken back from its new owner,
and then runs in two places. It needs a peer's claim within that round trip, of an entry that was just renewed.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from redis.exceptions import NoPermissionError

from streamconsumer.processor.stream import replies, scripts

log = logging.getLogger(__name__)

Ask = Callable[..., Awaitable[Any]]


class Ownership:
    """What one consumer may do with entries only while they are its own."""

    def __init__(self, ask: Ask, stream: str, group: str, consumer: str) -> None:
        self._ask, self._stream, self._group, self._consumer = ask, stream, group, consumer
        self._in_one_step = True

    async def renew(self, message_ids: Sequence[str]) -> list[str]:
        """A sign of life for those that are not another consumer's. Returns those that are."""
        if (lost := await self._evaluate(scripts.RENEW, *message_ids)) is not None:
            return [each.decode() for each in lost]
        held = await self._held(message_ids)
        others = [each for each in message_ids if each not in held and await self._is_pending(each)]
        await self._own([each for each in message_ids if each not in others])
        return others

    async def restore(self, message_ids: Sequence[str]) -> None:
        """Put back those that are nobody's: the group was lost and a peer created it again."""
        if await self._evaluate(scripts.RESTORE, *message_ids) is None:
            await self._own([each for each in message_ids if not await self._is_pending(each)])

    async def release(self, message_ids: Sequence[str], idle: timedelta) -> None:
        """Make entries look idle for so long, and take back the delivery that came to nothing."""
        milliseconds = replies.milliseconds(idle)
        if await self._evaluate(scripts.RELEASE, milliseconds, *message_ids) is not None:
            return
        for message_id, deliveries in (await self._held(message_ids)).items():
            looks = ("IDLE", milliseconds, "RETRYCOUNT", max(deliveries - 1, 0), "JUSTID")
            await self._ask("XCLAIM", self._stream, self._group, self._consumer, 0, message_id, *looks)

    async def leave(self) -> None:
        """Delete the consumer if nothing is pending with it. In two steps that could delete what comes in between,
        so then its name stays behind."""
        await self._evaluate(scripts.LEAVE)

    async def _evaluate(self, script: str, *arguments: Any) -> Any | None:
        """The script's reply; None where scripts are forbidden."""
        if not self._in_one_step:
            return None
        try:
            return await self._ask("EVAL", script, 1, self._stream, self._group, self._consumer, *arguments)
        except NoPermissionError as error:
            if "'eval'" not in str(error):
                raise
            self._in_one_step = False
            log.warning("the user may not EVAL: owners are checked in two steps, which is weaker; grant +eval")
            return None

    async def _held(self, message_ids: Sequence[str]) -> dict[str, int]:
        """Those of these that are this consumer's, and how often each was delivered."""
        held: dict[str, int] = {}
        for message_id in message_ids:
            question = ("XPENDING", self._stream, self._group, message_id, message_id, 1, self._consumer)
            held.update({each[0].decode(): int(each[3]) for each in await self._ask(*question)})
        return held

    async def _is_pending(self, message_id: str) -> bool:
        return bool(await self._ask("XPENDING", self._stream, self._group, message_id, message_id, 1))

    async def _own(self, message_ids: Sequence[str]) -> None:
        if message_ids:
            claim = ("XCLAIM", self._stream, self._group, self._consumer, 0, *message_ids, "FORCE", "JUSTID")
            await self._ask(*claim)
