"""Lua where the user may EVAL, and the knowledge that it may not."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.exceptions import NoPermissionError

log = logging.getLogger(__name__)

Ask = Callable[..., Awaitable[Any]]

WIDEST = 7000
"""So many arguments `unpack` hands from Lua to a command; its limit is 8000 (LUAI_MAXCSTACK), on every server."""


def is_forbidden(error: Exception) -> bool:
    """Whether the user lacks a right. What a script may not do, servers spell in three ways."""
    words = str(error)
    return "can't run this command" in words or "permission" in words or "ACL failure" in words


class OneStep:
    """Runs scripts; `what` says what is done in two steps where they are forbidden."""

    def __init__(self, ask: Ask, what: str) -> None:
        self._ask, self._what = ask, what
        self._allowed = True

    def command(
        self, script: str, keys: Sequence[str], *arguments: Any, unpacked: Sequence[bytes] = ()
    ) -> tuple[Any, ...] | None:
        """What `run` asks for, to be sent together with others."""
        if not self._allowed or len(unpacked) > WIDEST:
            return None
        return ("EVAL", script, len(keys), *keys, *arguments, *unpacked)

    async def run(
        self, script: str, keys: Sequence[str], *arguments: Any, unpacked: Sequence[bytes] = ()
    ) -> Any | None:
        """The script's reply, which is never nil; `unpacked` comes last among its arguments. None: it must be done in
        several steps, for scripts are forbidden or this is too much for one."""
        command = self.command(script, keys, *arguments, unpacked=unpacked)
        if command is None:
            return None
        try:
            return await self._ask(*command)
        except NoPermissionError as error:
            if "'eval'" not in str(error):
                raise
            self._allowed = False
            log.warning("the user may not EVAL: %s in two steps, which is weaker; grant +eval", self._what)
            return None
