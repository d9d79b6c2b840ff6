"""Registrations: which connections belong to which consumer name, so that other consumers can detect an ended process.

Each process stores its consumer name, a random token, the server's run id and the ids of its connections in a companion
hash. The process also sets the token as the name of these connections (CLIENT SETNAME). Another consumer that lists the
connections therefore finds out whether the process still exists, see `liveness`. The field with the empty name counts
the changes, so that other consumers read the hash only after a change.

A consumer that releases entries ends the blocking read of another consumer with CLIENT UNBLOCK. If a read returns empty
before its timeout, its consumer claims due entries immediately. A consumer that is reading always has a free slot for a
claimed entry.

Two processes must not use one consumer name at the same time, because Redis cannot distinguish their entries. A process
that finds its name registered therefore waits until the other process has ended.
"""

import asyncio
import logging
import os
import re
import secrets
import socket
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any, Self

from redis.exceptions import RedisError, ResponseError

from streamconsumer.errors import ConsumerNameInUse
from streamconsumer.processor.consumer.raw_connection import RawConnection
from streamconsumer.processor.message import ConsumerId
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.errors_table import classify_error
from streamconsumer.redis_client.keys import group_key
from streamconsumer.redis_client.replies import Execute, ExecuteAll
from streamconsumer.redis_client.scripts import execute_by_hash, load_script

log = logging.getLogger(__name__)

FORMAT = "1"
"""First word of a registration. A process that finds another format cannot read the registration."""

UNKNOWN_RUN_ID = "-"
"""Run id for a server that reports no run id. The connections to such a server cannot be listed."""

NO_POD = "-"
"""Pod UID of a process that is not the main process of a Kubernetes pod."""

LOOK_INTERVAL = timedelta(seconds=1)
"""Time between two checks of a registration. Before a process takes over a consumer name that is already registered,
the process checks the registration twice."""

MAX_SCANNED = 2000
"""Approximate maximum number of registrations among which a consumer to wake is chosen."""

MAX_WAKE_ATTEMPTS = 20
"""Maximum number of attempts to wake a consumer. An attempt fails if the chosen consumer is not reading."""

REGISTER, WAIT = load_script("register_consumer"), load_script("wait_for_name")
FIND_CONSUMER = load_script("find_consumer")

_SUBJECT = "the script that finds a consumer"


def unique_consumer_name() -> str:
    """Return a consumer name that no other process uses."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def registered_pod_uid(value: str) -> str:
    """Return the UID of the pod in the form that a registration contains. Returns NO_POD for a value that is not a
    UID."""
    return value if re.fullmatch("[0-9A-Za-z-]{2,64}", value) else NO_POD


@dataclass(frozen=True, slots=True)
class Registration:
    """Registration of a consumer name."""

    run_id: str
    """Run id of the server on which the connections exist. Changes when the server restarts."""
    token: str
    client_ids: tuple[int, ...]
    """Ids of the connections, first the id of the connection that reads."""
    pod_uid: str = NO_POD
    waiting_token: str = ""
    """Token of a process that waits for the name. Empty if no process waits."""

    @property
    def is_listed(self) -> bool:
        """True if the connections can be listed."""
        return bool(self.client_ids) and self.run_id != UNKNOWN_RUN_ID

    def __str__(self) -> str:
        ids = ",".join(map(str, self.client_ids)) or "-"
        return " ".join(filter(None, (FORMAT, self.run_id, self.token, ids, self.pod_uid, self.waiting_token)))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse a registration. Returns None if another program or a newer version wrote it."""
        words = text.split(" ")
        if words[0] != FORMAT or len(words) not in (5, 6):
            return None
        numbers = [int(word) for word in words[3].split(",") if word.isascii() and word.isdecimal() and len(word) < 20]
        ids = tuple(number for number in numbers if 0 < number <= replies.MAX_COUNT)
        return cls(words[1], words[2], ids, words[4], words[5] if len(words) > 5 else "")


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity of a connection on its server."""

    client_id: int
    run_id: str
    """Run id of the server. Empty if the run id is not available; other consumers then cannot find the connection."""


async def identify(connection: RawConnection, token: str) -> Identity | None:
    """Name a new connection, and return its identity. Returns None if CLIENT ID is not available.

    A managed service or a proxy may reject any of the commands, or reply to a command in its own way.
    """
    commands = (("CLIENT", "ID"), ("CLIENT", "SETNAME", token), ("INFO", "server"))
    requests = (connection.execute(*command) for command in commands)
    found = await asyncio.gather(*requests, return_exceptions=True)
    for reply in found:
        if isinstance(reply, BaseException) and (not isinstance(reply, ResponseError) or is_temporary(reply)):
            raise reply
    client_id, named, info = found
    try:
        number = replies.count(client_id, "CLIENT ID")
    except replies.UnexpectedReply:
        return None
    try:
        run_id = "" if isinstance(named, ResponseError) else replies.run_id(info)
    except replies.UnexpectedReply:
        run_id = ""
    return Identity(number, run_id)


def is_temporary(error: ResponseError) -> bool:
    """Return True if the server rejects the command only at present, for example because it is busy with a script."""
    error_info = classify_error(error, "")
    return error_info.is_known and not error_info.is_command_unavailable


async def list_clients(execute: Execute, ids: Iterable[int]) -> dict[int, str]:
    """Return the names of the connections that still exist. The keys of the dict are the ids of the connections."""
    return replies.client_names(await execute("CLIENT", "LIST", "ID", *ids))


@dataclass
class OwnRegistration:
    """Registration of this process. The event loop and the heartbeat thread share it."""

    consumer_id: ConsumerId
    token: str
    pod_uid: str = NO_POD
    identities: dict[str, Identity | None] = field(default_factory=dict)
    """Identities of the connections by purpose, the newest last."""
    registered: str = ""
    """Registration that the companion hash contains. Empty if it is unknown what the hash contains."""
    has_name: bool = False
    """True if this process has taken over its consumer name, and has not detected that another process has taken over
    the name since then."""
    is_taken: bool = False
    """True from the takeover of the name until the heartbeat has reported that another process has the name."""
    judged: str = ""
    """Registration of an ended process that this process replaces, until its own registration is stored. Empty if there
    is none."""
    is_closed: bool = False
    """True after this process has deleted its registration."""
    _reported_token: str = ""

    def set_identity(self, purpose: str, identity: Identity | None) -> None:
        """Record the identity of a new connection. `identity` is None if the connection cannot be listed."""
        self.identities.pop(purpose, None)
        self.identities[purpose] = identity

    @property
    def key(self) -> str:
        """Companion hash that contains the registrations."""
        return group_key(self.consumer_id.stream, self.consumer_id.group, "registrations")

    @property
    def current(self) -> Registration:
        """Registration of the connections to the server that this process has connected to last."""
        known = {purpose: identity for purpose, identity in list(self.identities.items()) if identity}
        run_id = next((each.run_id for each in reversed(known.values()) if each.run_id), "")
        ids = sorted((purpose != "reader", each.client_id) for purpose, each in known.items() if each.run_id == run_id)
        return Registration(run_id or UNKNOWN_RUN_ID, self.token, tuple(each for _, each in ids), self.pod_uid)

    @property
    def is_stored(self) -> bool:
        """True if the companion hash contains the present registration."""
        return self.is_closed or self.registered == str(self.current)

    def on_found(self, found: str) -> None:
        """Process the stored registration of this consumer name. `found` is empty if there is no registration."""
        registration = Registration.parse(found)
        if registration is not None and registration.token != self.token:
            self.has_name = self.has_name and found == self.judged
        elif self.has_name:
            self.registered = found
            if registration is not None and registration.waiting_token:
                self._report_waiting(registration.waiting_token)

    def _report_waiting(self, token: str) -> None:
        if token != self._reported_token:
            self._reported_token = token
            log.warning(
                "another process waits for the consumer name of this process; use a different name for each process",
                extra={"consumer": self.consumer_id.consumer},
            )

    async def store(self, execute: Execute) -> None:
        """Store the registration. If another process has the name, clears `has_name`.

        A server that is out of memory rejects the registration. Without a registration, other consumers claim this
        consumer's entries only after `min_idle`.
        """
        value = str(self.current)
        arguments = (self.consumer_id.group, self.consumer_id.consumer, self.token, value, self.judged)
        with ignoring_out_of_memory():
            found = await execute("EVAL", REGISTER, 2, self.consumer_id.stream, self.key, *arguments)
            self.on_found(replies.name(found, "the script that registers a consumer"))
            if self.has_name:
                self.registered, self.judged = value, ""

    async def unblock(self, execute_all: ExecuteAll, client_id: int) -> bool:
        """End the blocking read of a client. Returns True if the client was blocked. `execute_all` executes commands in
        one round trip.

        While a server delays writes (CLIENT PAUSE, a failover), CLIENT UNBLOCK for a delayed read crashes Redis 6.2 and
        7.0. An XACK that changes nothing is therefore sent first. The server delays this XACK too, and executes CLIENT
        UNBLOCK only after the XACK.
        """
        stream, group, _ = self.consumer_id
        _, reply = await execute_all([("XACK", stream, group, "0-0"), ("CLIENT", "UNBLOCK", client_id)])
        if isinstance(reply, Exception):
            raise reply
        return bool(reply == 1)

    async def wake_peer(self, execute_all: ExecuteAll, random: Random, absent: Collection[str] = ()) -> None:
        """End the blocking read of one other consumer that is not in `absent`. Does nothing if no other consumer is
        reading.

        Without permission for CLIENT UNBLOCK, released entries wait for the next liveness check. If the run id is
        unknown, an outdated client id may belong to another client. The harm is small, because the blocking command of
        the other client ends as if it had timed out.
        """
        with suppress(RedisError, OSError):  # the entries are released even if no consumer is woken
            [reply] = await execute_all([("HSCAN", self.key, 0, "COUNT", MAX_SCANNED)])
            _, flat = replies.array(reply, "HSCAN", 2)
            found, own = replies.to_dict(flat, "HSCAN"), self.current
            texts = [text for name, text in found.items() if replies.name(name, "HSCAN") not in absent]
            others = filter(None, (Registration.parse(replies.name(text, "HSCAN")) for text in texts))
            peers = [each for each in others if each.token != own.token and each.run_id == own.run_id]
            readers = [peer.client_ids[0] for peer in peers if peer.client_ids]
            for client_id in random.sample(readers, min(len(readers), MAX_WAKE_ATTEMPTS)):
                if await self.unblock(execute_all, client_id):
                    return

    async def acquire(self, connection: RawConnection, min_idle: timedelta) -> None:
        """Take over the consumer name. Raises ConsumerNameInUse if another process may be using the name.

        `connection` is the connection on which this process reads.
        """

        async def execute(*command: Any) -> Any:
            return await execute_by_hash(connection.execute, command)

        found = await self._find(execute)
        if not self._is_free(found):
            is_abandoned = await self._is_abandoned(execute, found, min_idle)
            await asyncio.sleep(LOOK_INTERVAL.total_seconds())
            again = await self._find(execute)
            is_abandoned = is_abandoned and await self._is_abandoned(execute, again, min_idle)
            if not is_abandoned or again.registration != found.registration:
                await self._wait(execute, again.registration)
                raise ConsumerNameInUse(
                    f"consumer {self.consumer_id.consumer!r}: found another process with this name, expected a "
                    "different name for each process; waiting until the other process has ended"
                )
        may_be_in_use = not self.has_name and self._may_be_in_use(found, min_idle)
        self.has_name, self.judged, self.registered = True, found.registration, ""
        await self.store(execute)
        if self.has_name and not self.registered and may_be_in_use:
            self.has_name = False
            raise ConsumerNameInUse(
                f"consumer {self.consumer_id.consumer!r}: the server is out of memory and rejects the registration, "
                "and another process may be using this name; waiting until the messages of this name are idle"
            )
        self.is_taken = self.has_name
        if not self.has_name:
            raise ConsumerNameInUse(f"consumer {self.consumer_id.consumer!r}: another process has taken over this name")

    async def _find(self, execute: Execute) -> "_Found":
        names = (self.consumer_id.group, self.consumer_id.consumer)
        reply = await execute("EVAL", FIND_CONSUMER, 2, self.consumer_id.stream, self.key, *names)
        registration, pending, idle = replies.array(reply, _SUBJECT, 3)
        return _Found(
            replies.name(registration, _SUBJECT), replies.count(pending, _SUBJECT), replies.count(idle, _SUBJECT)
        )

    def _is_free(self, found: "_Found") -> bool:
        """Return True if no other registered process can be using the name."""
        return not found.registration or self._is_own(found)

    def _is_own(self, found: "_Found") -> bool:
        """Return True if this process, or the previous container of its pod, has registered the name.

        The kubelet starts a container of a pod only after the previous container has ended."""
        other = Registration.parse(found.registration)
        return other is not None and (
            other.token == self.token or (other.pod_uid == self.pod_uid and self.pod_uid != NO_POD)
        )

    def _may_be_in_use(self, found: "_Found", min_idle: timedelta) -> bool:
        """Return True if a process whose registration was rejected may be handling entries under the name."""
        is_active = found.pending and found.idle < replies.to_milliseconds(min_idle)
        return bool(is_active and not self._is_own(found))

    async def _is_abandoned(self, execute: Execute, found: "_Found", min_idle: timedelta) -> bool:
        """Return True if the process that has registered the name seems to have ended."""
        identity, other = self.identities.get("reader"), Registration.parse(found.registration)
        if found.idle >= replies.to_milliseconds(min_idle) and (found.pending or other is None):
            return True
        if other is None:  # a newer version has registered the name
            return False
        if identity is None or not identity.run_id or not other.client_ids or other.run_id != identity.run_id:
            return not found.pending
        try:
            clients = await list_clients(execute, [identity.client_id, *other.client_ids])
        except (ResponseError, replies.UnexpectedReply):
            return not found.pending
        is_listed = clients.get(identity.client_id) == self.token
        return is_listed and all(clients.get(each) != other.token for each in other.client_ids)

    async def _wait(self, execute: Execute, registration: str) -> None:
        """Add a mark to the registration of the process that has the name. That process then reports the conflict."""
        if len(registration.split(" ")) == 5:
            arguments = (self.consumer_id.group, self.consumer_id.consumer, registration, self.token)
            with ignoring_out_of_memory():
                await execute("EVAL", WAIT, 2, self.consumer_id.stream, self.key, *arguments)


@dataclass(frozen=True, slots=True)
class _Found:
    """Registration and activity of a consumer name."""

    registration: str
    pending: int
    idle: int
    """Milliseconds since the last activity of the consumer."""


@contextmanager
def ignoring_out_of_memory() -> Iterator[None]:
    """Ignore the error of a command that the server rejects because it is out of memory."""
    try:
        yield
    except ResponseError as error:
        if classify_error(error, "").code != "OOM":
            raise
