"""TLS to a real server: chain and name are verified unless disabled, and a client certificate is presented."""

import asyncio
import shutil
import ssl
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.processor import StreamManager
from streamconsumer.redis_client.credentials import RedisCredentials
from streamconsumer.redis_client.errors_table import RedisErrorInfo, classify_error
from streamconsumer.redis_client.tls import TlsMaterial
from tests.cluster.certificates import Authority
from tests.cluster.processes import free_port
from tests.cluster.redis_servers import StartRedis
from tests.processor.eventually import TIMEOUT_SECONDS, eventually
from tests.processor.group import STREAM, Group
from tests.processor.recorder import Recorder


class TlsServer:
    """Server with a TLS port in addition to its plain one, and its certificate authority."""

    def __init__(
        self, folder: Path, start_redis: StartRedis, *, strict: bool = True, asks: bool = False, **extra: Any
    ) -> None:
        self.authority = Authority(folder, strict=strict)
        own = self.authority.sign("server")
        self.client = self.authority.sign("client")
        self.port = free_port()
        files = {"tls-cert-file": own.certificate, "tls-key-file": own.key, "tls-ca-cert-file": self.authority.file}
        options = {
            "bind": "127.0.0.1 127.0.0.2",
            "tls-port": str(self.port),
            "tls-auth-clients": "yes" if asks else "no",
        }
        self.group = Group(start_redis({**options, **files, **extra}))

    def access(self, host: str = "localhost", **settings: Any) -> RedisSettings:
        return RedisSettings(url=f"rediss://{host}:{self.port}/0", **settings)

    @property
    def trusted(self) -> dict[str, str]:
        return {"tls_ca_file": str(self.authority.file)}

    @property
    def client_certificate(self) -> dict[str, str]:
        return {"tls_cert_file": str(self.client.certificate), "tls_key_file": str(self.client.key)}


@pytest.fixture
async def tls_server(tmp_path: Path, start_redis: StartRedis) -> AsyncIterator[TlsServer]:
    made = TlsServer(tmp_path, start_redis)
    yield made
    await made.group.close()


@pytest.fixture
async def mutual(tmp_path: Path, start_redis: StartRedis) -> AsyncIterator[TlsServer]:
    """Return a server that requires a client certificate."""
    made = TlsServer(tmp_path, start_redis, asks=True)
    yield made
    await made.group.close()


async def execute_on(access: RedisSettings) -> RedisErrorInfo | None:
    """Return the classified error of a command. None if it succeeds."""
    manager = StreamManager.from_settings(access, STREAM)
    try:
        await manager.execute("PING")
    except (RedisError, OSError) as error:
        return classify_error(error, "here")
    finally:
        await manager.aclose()
    return None


async def handles_messages(tls_server: TlsServer, access: RedisSettings) -> None:
    handler = Recorder()
    manager = StreamManager.from_settings(access, STREAM)
    await tls_server.group.start(handler, manager=manager)
    await tls_server.group.add(3)
    await handler.wait_until_finished(3)
    await tls_server.group.wait_settled()
    assert manager.address == ("localhost", tls_server.port)
    for processor in tls_server.group.processors:
        await processor.stop_listening()
    await manager.aclose()


async def test_messages_are_handled_over_tls(tls_server: TlsServer) -> None:
    await handles_messages(tls_server, tls_server.access(**tls_server.trusted))


async def test_client_certificate_is_presented_to_the_server(mutual: TlsServer) -> None:
    await handles_messages(mutual, mutual.access(**mutual.trusted, **mutual.client_certificate))


async def test_ca_without_strict_x509_extensions_is_trusted(tmp_path: Path, start_redis: StartRedis) -> None:
    tls_server = TlsServer(tmp_path, start_redis, strict=False)
    assert await execute_on(tls_server.access(**tls_server.trusted)) is None
    await tls_server.group.close()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_long_certificate_chain_is_rejected_before_its_signatures_are_verified(
    tmp_path: Path, start_redis: StartRedis, loop: str
) -> None:
    authority, port = Authority(tmp_path), free_port()
    own = authority.sign("server")
    short = own.certificate.read_text()
    own.certificate.write_text(short + authority.file.read_text() * 60)
    files = {"tls-cert-file": own.certificate, "tls-key-file": own.key, "tls-ca-cert-file": authority.file}
    start_redis({"tls-port": str(port), "tls-auth-clients": "no", **files})
    access = RedisSettings(url=f"rediss://localhost:{port}/0", tls_ca_file=str(authority.file))
    new_loop = pytest.importorskip("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=new_loop) as runner:
        error = runner.run(execute_on(access))
    assert error is not None
    assert "more than 16384 bytes in the TLS handshake" in error.message


async def test_error_names_a_missing_client_certificate(mutual: TlsServer) -> None:
    error = await execute_on(mutual.access(**mutual.trusted))
    assert error is not None
    assert "redis.tls.certSecretRef" in error.message


async def test_error_names_an_untrusted_client_certificate(mutual: TlsServer, tmp_path: Path) -> None:
    foreign = Authority(tmp_path, "foreign").sign("foreigner")
    files = {"tls_cert_file": str(foreign.certificate), "tls_key_file": str(foreign.key)}
    error = await execute_on(mutual.access(**mutual.trusted, **files))
    assert error is not None
    assert "redis.tls.certSecretRef" in error.message


@pytest.mark.parametrize("other", [True, False], ids=["another authority", "those of the system"])
async def test_certificate_of_an_unknown_authority_is_rejected(
    tls_server: TlsServer, tmp_path: Path, other: bool
) -> None:
    files = {"tls_ca_file": str(Authority(tmp_path, "other").file)} if other else {}
    error = await execute_on(tls_server.access(**files))
    assert error is not None
    assert error.code == "TLS"
    assert "is from an unknown certificate authority; set redis.tls.caSecretRef" in error.message


async def test_certificate_for_another_name_is_rejected(tls_server: TlsServer) -> None:
    error = await execute_on(tls_server.access("127.0.0.2", **tls_server.trusted))
    assert error is not None
    assert "is not issued for this address" in error.message


async def test_any_certificate_is_accepted_when_verification_is_disabled(tls_server: TlsServer) -> None:
    assert await execute_on(tls_server.access(tls_insecure_skip_verify=True)) is None


async def test_error_names_a_server_without_tls(tls_server: TlsServer) -> None:
    url = f"rediss://localhost:{tls_server.group.server.port}/0?socket_connect_timeout=0.3"
    error = await execute_on(RedisSettings(url=url, **tls_server.trusted))
    assert error is not None
    assert "check that the server uses TLS at this port" in error.message


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"tls-protocols": '"TLSv1.2"', "tls-ciphers": "AES128-GCM-SHA256"},
            "or cipher suites with ECDHE on the server",
        ),
        ({"tls-protocols": '"TLSv1.1"', "tls-ciphers": "ALL:@SECLEVEL=0"}, "enable TLS 1.2 or 1.3 on the server"),
    ],
    ids=["RSA key exchange", "TLS 1.1"],
)
async def test_error_names_an_outdated_configuration_of_the_server(
    tmp_path: Path, start_redis: StartRedis, options: dict[str, Any], sentence: str
) -> None:
    outdated = TlsServer(tmp_path, start_redis, **options)
    error = await execute_on(outdated.access(**outdated.trusted))
    await outdated.group.close()
    assert error is not None
    assert sentence in error.message


async def test_error_for_an_announced_address_names_the_remedy(tls_server: TlsServer) -> None:
    """Some cloud services announce the nodes of a cluster as addresses that the certificate does not contain."""
    error = await execute_on(tls_server.access("127.0.0.2", **tls_server.trusted))
    assert error is not None
    assert "add ?ssl_check_hostname=false to the URL" in error.message


async def test_library_sets_up_tls_outside_the_event_loop(
    tls_server: TlsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    create = TlsMaterial.context

    def recording(material: TlsMaterial) -> ssl.SSLContext:
        threads.append(threading.current_thread())
        return create(material)

    monkeypatch.setattr(TlsMaterial, "context", recording)
    manager = StreamManager.from_url(f"rediss://127.0.0.2:{tls_server.port}/0?ssl_cert_reqs=none")
    assert await manager.execute("PING") == b"PONG"
    await manager.aclose()
    assert threads
    assert threading.main_thread() not in threads


async def test_library_verifies_certificates(tls_server: TlsServer) -> None:
    manager = StreamManager.from_url(f"rediss://localhost:{tls_server.port}/0")
    with pytest.raises(RedisError, match="CERTIFICATE_VERIFY_FAILED"):
        await manager.execute("PING")
    await manager.aclose()


@pytest.mark.parametrize(
    ("settings", "anybody"),
    [
        ({"url": "rediss://r"}, False),
        ({"url": "rediss://r", "tls_insecure_skip_verify": True}, True),
        ({"url": "rediss://r?ssl_cert_reqs=none"}, True),
        ({"url": "rediss://r?ssl_check_hostname=false"}, True),
        ({"url": "rediss://r?ssl_cert_reqs=required"}, False),
        ({"url": "rediss://r?socket_timeout=3"}, False),
        ({"url": "redis://r"}, False),
    ],
)
def test_disabled_tls_verification_is_reported(settings: dict[str, Any], anybody: bool) -> None:
    assert RedisCredentials(RedisSettings(**settings)).skips_tls_verification is anybody


async def test_verification_disabled_by_the_url_is_reported(tls_server: TlsServer) -> None:
    url = f"rediss://127.0.0.2:{tls_server.port}/0"
    assert await execute_on(RedisSettings(url=f"{url}?ssl_cert_reqs=none")) is None
    assert await execute_on(RedisSettings(url=f"{url}?ssl_check_hostname=false", **tls_server.trusted)) is None


async def test_chain_is_verified_although_the_url_disables_the_check_of_the_name(tls_server: TlsServer) -> None:
    error = await execute_on(RedisSettings(url=f"rediss://localhost:{tls_server.port}/0?ssl_check_hostname=false"))
    assert error is not None
    assert "is from an unknown certificate authority" in error.message


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"url": "rediss://r", "tls_ca_file": "/nowhere/ca.crt"},
            "STREAMCONSUMER_REDIS_TLS_CA_FILE is /nowhere/ca.crt: file not found; check that the Secret exists",
        ),
        (
            {"url": "rediss://r", "tls_ca_file": __file__},
            f"STREAMCONSUMER_REDIS_TLS_CA_FILE is {__file__}: expected certificates, found NO_CERTIFICATE_OR_CRL_FOUND",
        ),
        (
            {"url": "rediss://r", "tls_cert_file": __file__, "tls_key_file": __file__},
            f"STREAMCONSUMER_REDIS_TLS_CERT_FILE is {__file__}: expected a certificate that matches its private key",
        ),
        ({"url": "redis://r", "tls_ca_file": __file__}, "require a URL that begins with rediss://"),
        ({"url": "redis://r", "password_file": "/nowhere/p"}, "PASSWORD_FILE is /nowhere/p: file not found"),
        ({"url_file": "/nowhere/url"}, "STREAMCONSUMER_REDIS_URL_FILE is /nowhere/url: file not found"),
        ({"url": "redis://u:hunter2@h:port/0"}, "STREAMCONSUMER_REDIS_URL is not a URL of the form redis://"),
        ({"url": "redis://u:hunter2@h/orders"}, "STREAMCONSUMER_REDIS_URL is not a URL of the form redis://"),
    ],
)
def test_unusable_files_are_named_at_start(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        StreamManager.from_settings(RedisSettings(**settings), STREAM)
    assert sentence in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://r/0?hunter2=1", "redis://r/0?ssl_cert_reqs=none", "rediss://r?ssl_cert_reqs=x"]
)
def test_unknown_url_option_is_rejected_at_start(url: str) -> None:
    with pytest.raises(InvalidSettings, match=r"STREAMCONSUMER_REDIS_URL has an option that cannot be used") as caught:
        StreamManager.from_settings(RedisSettings(url=url), STREAM)
    assert "hunter2" not in str(caught.value), "it may be part of a password"


async def test_rotated_certificates_are_used_at_the_next_connect(mutual: TlsServer, tmp_path: Path) -> None:
    """The kubelet writes the files.

    First the server does not trust the certificate, then the certificate is renewed.
    """
    foreign = Authority(tmp_path, "foreign").sign("foreigner")
    here = tmp_path / "here.crt", tmp_path / "here.key"

    def bring(certificate: Path, key: Path) -> None:
        for source, target in zip((certificate, key), here, strict=True):
            shutil.copy(source, target)

    bring(mutual.client.certificate, mutual.client.key)
    files = {"tls_cert_file": str(here[0]), "tls_key_file": str(here[1])}
    handler = Recorder()
    manager = StreamManager.from_settings(mutual.access(**mutual.trusted, **files), STREAM)
    processor = await mutual.group.start(handler, manager=manager)
    await mutual.group.wait_until_reading()
    bring(foreign.certificate, foreign.key)
    await mutual.group.client.client_kill_filter(_type="normal", skipme=True)
    await eventually(lambda: processor.metrics.redis_errors >= 2)
    bring(mutual.client.certificate, mutual.client.key)
    await mutual.group.add(1)
    await handler.wait_until_finished(1)
    await asyncio.wait_for(processor.stop_listening(), TIMEOUT_SECONDS)
    await manager.aclose()
