"""The event loop of both processes: whose a file descriptor is."""

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import Iterator

import pytest

from streamconsumer.event_loop import new_event_loop


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


async def _connected(listening: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A socket, and its peer's."""
    ours = socket.socket()
    ours.setblocking(False)
    await asyncio.get_running_loop().sock_connect(ours, listening.getsockname())
    return ours, listening.accept()[0]


def _reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def test_a_socket_whose_peer_resets_the_handshake_is_closed_once(listening: socket.socket) -> None:
    """Its number may be another connection's by the time that its object is collected."""

    async def refused() -> int:
        ours, peer = await _connected(listening)
        number = ours.fileno()
        _reset(peer)
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().create_connection(
                asyncio.Protocol, sock=ours, ssl=ssl.create_default_context(), server_hostname="redis"
            )
        assert ours.fileno() == -1
        return number

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        number = runner.run(refused())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_connection_over_a_socket_lives_until_it_is_closed(listening: socket.socket) -> None:
    async def greeted() -> bytes:
        ours, peer = await _connected(listening)
        with peer:
            reader, writer = await asyncio.open_connection(sock=ours)
            del ours
            writer.write(b"ping\n")
            assert peer.recv(5) == b"ping\n"
            peer.send(b"pong\n")
            answer = await reader.readline()
            writer.close()
            await writer.wait_closed()
            assert peer.recv(5) == b""
            return answer

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert runner.run(greeted()) == b"pong\n"
