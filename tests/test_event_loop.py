"""Event loop of the operator and the processor: ownership of file descriptors."""

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import Iterator

import pytest

from streamconsumer.event_loop import new_event_loop


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


async def _connect(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Return a socket and its peer's."""
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, listener.getsockname())
    return sock, listener.accept()[0]


def _reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def test_socket_is_closed_once_when_its_peer_resets_the_handshake(listener: socket.socket) -> None:
    """Otherwise the garbage collector would close the same number again, when it may be another connection's."""

    async def connect_and_reset() -> int:
        sock, peer = await _connect(listener)
        number = sock.fileno()
        _reset(peer)
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().create_connection(
                asyncio.Protocol, sock=sock, ssl=ssl.create_default_context(), server_hostname="redis"
            )
        assert sock.fileno() == -1
        return number

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        number = runner.run(connect_and_reset())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_connection_over_a_given_socket_lives_until_it_is_closed(listener: socket.socket) -> None:
    async def exchange_greetings() -> bytes:
        sock, peer = await _connect(listener)
        with peer:
            reader, writer = await asyncio.open_connection(sock=sock)
            del sock
            writer.write(b"ping\n")
            assert peer.recv(5) == b"ping\n"
            peer.send(b"pong\n")
            answer = await reader.readline()
            writer.close()
            await writer.wait_closed()
            assert peer.recv(5) == b""
            return answer

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert runner.run(exchange_greetings()) == b"pong\n"
