"""Settings and servers of a hostile tenant: an error of this tenant, no exception, and nothing else is opened."""

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.processor_settings import InlineRedisSettings
from streamconsumer.redis_client.credentials import RedisCredentials, no_host_lookup
from streamconsumer.redis_client.errors_table import RedisErrorInfo
from streamconsumer.redis_client.pipeline_client import PipelineClient
from tests.cluster.redis_servers import RedisServer

CANARY = "canary-7f3a"
TIMEOUT_SECONDS = 30

opened: list[str] | None = None
"""Files, addresses and programs that the code under test opens. None outside of a recording."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if opened is None:
        return
    match event, arguments:
        case ("open", (str() | bytes() as path, *_)):
            opened.append(f"open {os.fsdecode(path)}")
        case ("socket.connect", (_, address)):
            opened.append(f"connect {address}")
        case (("subprocess.Popen" | "os.exec" | "os.system" | "import"), (what, *_)):
            opened.append(f"{event} {what}")


sys.addaudithook(_audit)


@contextmanager
def recording(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Record what is opened. OpenSSL opens files without an audit event, so calls with a path are recorded too."""
    global opened  # noqa: PLW0603 - an audit hook cannot be removed
    load_ca, load_cert = ssl.SSLContext.load_verify_locations, ssl.SSLContext.load_cert_chain

    def record_ca(context: ssl.SSLContext, cafile: Any = None, capath: Any = None, cadata: Any = None) -> None:
        found.append(f"openssl {cafile} {capath or ''}")
        load_ca(context, cafile, capath, cadata)

    def record_cert(context: ssl.SSLContext, certfile: Any, keyfile: Any = None, password: Any = None) -> None:
        found.append(f"openssl {certfile} {keyfile}")
        load_cert(context, certfile, keyfile, password)

    with monkeypatch.context() as patch:
        patch.setattr(ssl.SSLContext, "load_verify_locations", record_ca)
        patch.setattr(ssl.SSLContext, "load_cert_chain", record_cert)
        found: list[str] = []
        opened = found
        try:
            yield found
        finally:
            opened = None


def is_harmless(event: str, ports: Sequence[int]) -> bool:
    is_server = any(event == f"connect ('127.0.0.1', {port})" for port in ports)
    return is_server or event.startswith("openssl /proc/self/fd/")


async def loopback(_host: str, port: int) -> Any:
    """Resolve every host to the server of the test."""
    return await no_host_lookup("127.0.0.1", port)


async def execute_with(fields: dict[str, Any]) -> list[Any] | RedisErrorInfo | str:
    try:
        credentials = RedisCredentials(InlineRedisSettings.model_validate(fields), loopback)
        client = PipelineClient(credentials, "orders", timeout_seconds=2)
    except (InvalidSettings, ValidationError) as error:
        return str(error)
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await client.execute([("PING",)])
    finally:
        await client.close()


OPTIONS = (
    *("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_ca_data", "connection_class"),
    *("encoding", "encoding_errors", "decode_responses", "retry", "retry_on_error", "parser_class", "client_name"),
    *("credential_provider", "redis_connect_func", "command_packer", "encoder_class", "host", "path", "port"),
    *("username", "password", "pass%77ord", "protocol", "lib_name", "max_connections", "timeout", "socket_type"),
    *("db", "socket_timeout", "socket_connect_timeout", "socket_keepalive", "health_check_interval", "ssl_cert_reqs"),
    *("ssl_check_hostname", "ssl_min_version", "ssl_ciphers", "ssl_include_verify_flags", "socket_read_size", ""),
)
VALUES = (
    *(
        "{fifo}",
        "/dev/stdout",
        "/proc/self/fd/3",
        "/etc/passwd",
        "rot13",
        "idna",
        "1",
        "0",
        "-1",
        "nan",
        "inf",
        "1e400",
    ),
    *("9" * 30, "9" * 400, "true", "none", "required", "", "a b", "%00", "%ff", "%0d%0aQUIT", "é", "٣", CANARY),
)
HOSTS = (
    *(
        "127.0.0.1",
        "localhost",
        "",
        "[::1]",
        "r",
        "a" * 63,
        "a" * 64,
        "a..b",
        ".",
        "-",
        "xn--a",
        "%2e",
        "é",
        "1",
        "0x7f.1",
    ),
    *("[::1%25lo]", "[::ffff:127.0.0.1]", "a\0b", "a\r\nb", "\u202e", "127.1", "r.", "_", "*"),
)
texts = st.sampled_from([*VALUES, "\udc80", "\0", "\r\n", "x" * 2000]) | st.text(max_size=20)


def hostile_fields(port: int, fifo: Path) -> st.SearchStrategy[dict[str, Any]]:
    ports = st.sampled_from([f":{port}"] * 3 + ["", ":0", ":99999", ":-1", ":x", ":" + "9" * 400, ":٣"])
    options = st.tuples(st.sampled_from(OPTIONS), st.sampled_from(VALUES)).map("=".join)
    urls = st.builds(
        "{}://{}{}{}{}{}".format,
        st.sampled_from(["redis", "redis", "rediss", "unix", "REDIS", "http", ""]),
        st.sampled_from(["", "", "u:p@", ":%ff@", ":p?a@", "a%00:b@", ":é@", ":@"]),
        st.sampled_from(["127.0.0.1"] * 6 + list(HOSTS)),
        ports,
        st.sampled_from(["", "/", "/0", "/1", "/x", "/-1", f"/{'9' * 400}", str(fifo)]),
        st.lists(options, max_size=3).map(lambda drawn: f"?{'&'.join(drawn)}" if drawn else ""),
    ).map(lambda url: url.replace("{fifo}", str(fifo)))
    nodes = st.sampled_from([f"127.0.0.1:{port}", "a:1", f"{'a' * 70}:1", "127.0.0.1:0", "127.0.0.1:99999", "[::1]:1"])
    return st.fixed_dictionaries(
        {"url": urls},
        optional={
            "username": texts,
            "password": texts,
            "tls_ca": texts,
            "tls_insecure_skip_verify": st.booleans(),
            "cluster": st.booleans(),
        },
    ) | st.fixed_dictionaries(
        {"url": urls, "sentinel_master": texts, "sentinel_nodes": st.lists(nodes, min_size=1, max_size=2)},
        optional={"sentinel_username": texts, "sentinel_password": texts},
    )


def test_no_settings_raise_another_error_or_open_anything_else(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO that is opened blocks the test."""
    fifo, port = tmp_path / CANARY, redis_server.port
    os.mkfifo(fifo)
    outcomes: list[str] = []

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @example({"url": f"redis://127.0.0.1:{port}/0"})
    @example({"url": f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={fifo}"})
    @example({"url": f"rediss://127.0.0.1:{port}/0?ssl_certfile={fifo}&ssl_keyfile={fifo}"})
    @example({"url": f"redis://127.0.0.1:{port}/0?encoding=rot13"})
    @example({"url": f"redis://{'a' * 64}:{port}/0"})
    @given(hostile_fields(port, fifo))
    def check(fields: dict[str, Any]) -> None:
        with recording(monkeypatch) as found:
            result = asyncio.run(execute_with(fields))
        ports = {port, 6379, 1}
        assert not [event for event in found if not is_harmless(event, sorted(ports))]
        outcomes.append("answered" if isinstance(result, list) else type(result).__name__)

    asyncio.run(execute_with({"url": redis_server.url}))  # imports modules
    check()
    assert {"answered", "str", "RedisErrorInfo"} <= set(outcomes)


REPLIES = (
    *(
        b"",
        b"\r\n",
        b"+OK\r\n",
        b"-ERR x\r\n",
        b":1\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"$1\r\n\xff\r\n",
        b"%1\r\n",
    ),
    *(
        b"*2\r\n$1\r\n\xff\r\n$1\r\n1\r\n",
        b"*2\r\n$1\r\na\r\n$1\r\nx\r\n",
        b"*2\r\n$1\r\na\r\n$-1\r\n",
        b"*1\r\n$1\r\na\r\n",
    ),
    *(
        b"*2\r\n:1\r\n:1\r\n",
        b"*2\r\n$3\r\na..\r\n$1\r\n1\r\n",
        b"*2\r\n$1\r\na\r\n$9\r\n999999999\r\n",
        b"*1\r\n*0\r\n",
    ),
    *(
        b"*2\r\n$0\r\n\r\n$2\r\n-1\r\n",
        b"*2\r\n$70\r\n" + b"a" * 70 + b"\r\n$1\r\n1\r\n",
        b"*1\r\n*3\r\n:0\r\n:16383\r\n:1\r\n",
    ),
    *(
        b"*1\r\n*3\r\n:0\r\n:16383\r\n*0\r\n",
        b"*1\r\n*3\r\n$1\r\na\r\n$1\r\nb\r\n*2\r\n$1\r\na\r\n:1\r\n",
        b"HTTP/1.1 400\r\n",
    ),
    *(
        b"*2\r\n$4\r\na\r\nb\r\n$1\r\n1\r\n",
        b":" + b"9" * 400 + b"\r\n",
        b"*1\r\n" * 2000,
        b"_\r\n",
        b"#t\r\n",
        b",nan\r\n",
    ),
)


TOPOLOGIES: dict[str, dict[str, Any]] = {
    "server": {},
    "sentinel": {"sentinel_master": "primary", "sentinel_nodes": []},
    "cluster": {"cluster": True},
    "password": {"password": "p"},
}


@asynccontextmanager
async def server_that_replies(reply: bytes) -> AsyncIterator[str]:
    """Run a server that sends the same reply to everything. Yields its address."""
    handlers: set[asyncio.Task[None] | None] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        with suppress(ConnectionError):
            while reply and await reader.read(65536):
                writer.write(reply)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await asyncio.gather(*filter(None, handlers))


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("reply", REPLIES, ids=range(len(REPLIES)))
async def test_no_reply_raises_an_exception(reply: bytes, topology: str) -> None:
    async with server_that_replies(reply) as address:
        fields = {"url": f"redis://{address}/0", **TOPOLOGIES[topology]}
        if "sentinel_nodes" in fields:
            fields["sentinel_nodes"] = [address]
        assert isinstance(await execute_with(fields), list | RedisErrorInfo)
