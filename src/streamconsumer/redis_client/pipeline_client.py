"""One connection for who looks from outside now and then: many questions in one round trip, each with its own answer.

Errors are answers: what the server refuses concerns one question, and that it cannot be reached concerns them all.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from streamconsumer.model.processor_settings import RedisAccess
from streamconsumer.redis_client.connection import KINDS, ONCE
from streamconsumer.redis_client.credentials import Dial
from streamconsumer.redis_client.errors_table import Fault, fault
from streamconsumer.redis_client.topology import topology

PATIENCE_SECONDS = 5.0
"""For connecting, and for each portion: a server that is frozen, or behind a network that swallows everything."""

PORTION = 500
"""Questions at once: the server answers them without looking at anybody else."""

Question = tuple[Any, ...]


class Line:
    """A connection that is made when something is asked and it is not there, and given up at the first doubt."""

    def __init__(
        self, settings: RedisAccess, stream: str, dial: Dial, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        """`stream` says which node of a Cluster. Raises InvalidSettings; nothing connects yet."""
        self._patience_seconds = patience_seconds
        self._topology = topology(settings, stream, dial)
        self._connection: AbstractConnection | None = None
        self._one_at_a_time = asyncio.Lock()

    async def ask(self, questions: Sequence[Question]) -> list[Any] | Fault:
        """The raw replies in order, a Fault where the server refuses; one Fault where nobody answers."""
        async with self._one_at_a_time:
            return await self._ask(questions)

    async def _ask(self, questions: Sequence[Question]) -> list[Any] | Fault:
        answers: list[Any] = []
        try:
            for begin in range(0, len(questions), PORTION):
                async with asyncio.timeout(self._patience_seconds):
                    answers += await self._portion(questions[begin : begin + PORTION])
        except TimeoutError as error:
            await self.hang_up()
            return Fault(type(error).__name__, f"{self._where}: no answer within {self._patience_seconds:.0f} s")
        except (RedisError, OSError) as error:
            await self.hang_up()
            return fault(error, self._where)
        except BaseException:
            await self.hang_up()  # a reply that was not waited for would be taken for the next one's
            raise
        if any(isinstance(each, Fault) and each.elsewhere for each in answers):
            await self.hang_up()
        return answers

    async def hang_up(self) -> None:
        """Close the connection; the next question connects anew, wherever the stream then is."""
        if (connection := self._connection) is not None:
            self._connection = None
            await connection.disconnect(nowait=True)

    @property
    def _where(self) -> str:
        host, port = self._topology.address
        return host if port is None else f"{host}:{port}"

    async def _portion(self, questions: Sequence[Question]) -> list[Any]:
        connection = await self._connected()
        await connection.send_packed_command(connection.pack_commands(questions))
        return [await self._answer(connection) for _ in questions]

    async def _answer(self, connection: AbstractConnection) -> Any:
        try:
            return await connection.read_response()
        except ResponseError as error:
            return fault(error, self._where)

    async def _connected(self) -> AbstractConnection:
        if self._connection is None:
            access = self._topology.access
            patience = {"socket_timeout": self._patience_seconds, "socket_connect_timeout": PATIENCE_SECONDS}
            arguments = {**access.options(), **patience, **ONCE, "destination": self._topology}
            self._connection = KINDS[access.scheme](**arguments)
            await self._connection.connect()  # type: ignore[no-untyped-call] # ships no types
        return self._connection
