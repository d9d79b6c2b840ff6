"""Lua where the user may EVAL, and the knowledge that it may not."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.exceptions import NoPermissionError

log = logging.getLogger(__name__)

Ask = Callable[..., Awaitable[Any]]

WIDEST = 7000
"""So many arguments `unpack` hands from Lua to a command; its limit is 8000 (LUAI_MAXCSTACK), on every server."""


class OneStep:
    """Scripts over the same keys."""

    def __init__(self, ask: Ask, *keys: str) -> None:
        self._ask, self._keys = ask, keys
        self._allowed = True

    async def run(self, script: str, *arguments: Any, unpacked: Sequence[bytes]) -> Any | None:
        """The script's reply, which is never nil; `unpacked` comes last among its arguments. None: it must be done in
        several steps, for scripts are forbidden or this is too much for one."""
        if not self._allowed or len(unpacked) > WIDEST:
            return None
        try:
            return await self._ask("EVAL", script, len(self._keys), *self._keys, *arguments, *unpacked)
        except NoPermissionError as error:
            if "'eval'" not in str(error):
                raise
            self._allowed = False
            log.warning("the user may not EVAL: dead letters are moved in two steps, which is weaker; grant +eval")
            return None
