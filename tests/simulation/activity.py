"""Activity of the simulated processes: what the server has heard of them, and when a fault stopped them.

The ledger needs these facts to decide whether one pod may claim the entries of another.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from streamconsumer.processor.consumer.registration import Registration
from tests.simulation.loop import Process, SimulationLoop
from tests.simulation.network import Network
from tests.simulation.server import SimulatedServer


@dataclass
class Hold:
    """Period in which a fault stops threads of a process."""

    kind: str
    begin: float
    end: float | None = None


class Activity:
    """Activity of all processes of one simulation."""

    def __init__(self, loop: SimulationLoop, network: Network, server: SimulatedServer) -> None:
        self._loop, self._network, self._server = loop, network, server
        network.on_received = self.on_received
        self._heard: defaultdict[Process, list[float]] = defaultdict(list)
        """Times of the commands of each process that the server has executed."""
        self._received: defaultdict[Process, list[float]] = defaultdict(list)
        """Times at which bytes of the server reached each process."""
        self._clients: dict[int, Process] = {}
        self._registered: dict[Process, Registration] = {}
        """Last registration of each process."""
        self._holds: defaultdict[Process, list[Hold]] = defaultdict(list)

    def on_executed(self, client_id: int) -> Process | None:
        """Record that the server has executed a command. Returns the process that sent it, if a process did."""
        if client_id not in self._clients and (connection := self._network.connections.get(client_id)):
            self._clients[client_id] = connection.thread.process
        process = self._clients.get(client_id)
        if process is not None:
            self._heard[process].append(self._loop.time())
        return process

    def heard_at(self, process: Process) -> float:
        """Return the time of the last command of the process that the server executed."""
        return self._heard[process][-1] if self._heard[process] else 0.0

    def on_received(self, process: Process) -> None:
        """Record that bytes of the server have reached a process."""
        self._received[process].append(self._loop.time())

    def first_received_after(self, process: Process, time: float) -> float | None:
        """Return the first time after `time` at which bytes of the server reached the process. None if none did."""
        received = self._received[process]
        index = bisect_right(received, time)
        return received[index] if index < len(received) else None

    def command_count(self, process: Process, since: float) -> int:
        """Return the number of commands of the process since a time."""
        return len(self._heard[process]) - bisect_right(self._heard[process], since)

    def on_registered(self, process: Process, value: str, reply: str) -> None:
        """Record that a process has sent its registration `value`, and that the server replied with the registration
        that it has stored."""
        sent, stored = Registration.parse(value), Registration.parse(reply)
        if sent and stored and sent.token == stored.token:
            self._registered[process] = sent

    def is_connected(self, process: Process) -> bool:
        """Return True if the server has an open connection that proves that the process lives.

        Other pods know only the connections in the registration of the process. Before the process has registered, and
        after a restart of the server, they cannot judge its connections, so that each connection counts."""
        client_ids: Iterable[int] = (client_id for client_id, each in self._clients.items() if each is process)
        registration = self._registered.get(process)
        if registration and registration.run_id.encode() == self._server.run_id:
            client_ids = registration.client_ids
        return any(map(self._server.is_open, client_ids))

    def hold(self, process: Process, kind: str) -> Callable[[], object]:
        """Record that a fault stops threads of a process. Returns the function that records the end."""
        hold = Hold(kind, self._loop.time())
        self._holds[process].append(hold)

        def end() -> None:
            hold.end = self._loop.time()

        return end

    def was_held(self, process: Process, since: float, *kinds: str) -> bool:
        """Return True if a fault of these kinds has stopped the process since then. Without kinds, any fault."""
        return any(
            (hold.end is None or hold.end >= since) and (not kinds or hold.kind in kinds)
            for hold in self._holds[process]
        )
