"""TLS to a real server: verified by chain and name unless told otherwise, and with a certificate of our own."""

import asyncio
import shutil
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
from tests.cluster.certificates import Authority
from tests.cluster.processes import free_port
from tests.cluster.redis_servers import StartRedis
from tests.processor.eventually import TIMEOUT_SECONDS, eventually
from tests.processor.group import STREAM, Group
from tests.processor.recorder import Recorder


class Secured:
    """A server with a TLS port beside its plain one, and the authority behind it."""

    def __init__(self, folder: Path, start_redis: StartRedis, *, strict: bool = True, asks: bool = False) -> None:
        self.authority = Authority(folder, strict=strict)
        own = self.authority.sign("server")
        self.client = self.authority.sign("client")
        self.port = free_port()
        files = {"tls-cert-file": own.certificate, "tls-key-file": own.key, "tls-ca-cert-file": self.authority.file}
        given = {name: str(path) for name, path in files.items()}
        ours = {"bind": "127.0.0.1 127.0.0.2", "tls-port": str(self.port), "tls-auth-clients": "yes" if asks else "no"}
        self.group = Group(start_redis({**ours, **given}))

    def access(self, host: str = "localhost", **settings: Any) -> RedisSettings:
        return RedisSettings(url=f"rediss://{host}:{self.port}/0", **settings)

    @property
    def trusting(self) -> dict[str, str]:
        return {"tls_ca_file": str(self.authority.file)}

    @property
    def known(self) -> dict[str, str]:
        return {"tls_cert_file": str(self.client.certificate), "tls_key_file": str(self.client.key)}


@pytest.fixture
async def secured(tmp_path: Path, start_redis: StartRedis) -> AsyncIterator[Secured]:
    made = Secured(tmp_path, start_redis)
    yield made
    await made.group.close()


@pytest.fixture
async def mutual(tmp_path: Path, start_redis: StartRedis) -> AsyncIterator[Secured]:
    """It talks only to clients with a certificate."""
    made = Secured(tmp_path, start_redis, asks=True)
    yield made
    await made.group.close()


async def says(access: RedisSettings) -> RedisErrorInfo | None:
    """What becomes of a question."""
    manager = StreamManager.from_settings(access, STREAM)
    try:
        await manager.execute("PING")
    except (RedisError, OSError) as error:
        return classify_error(error, "here")
    finally:
        await manager.aclose()
    return None


async def reads(secured: Secured, access: RedisSettings) -> None:
    handler = Recorder()
    manager = StreamManager.from_settings(access, STREAM)
    await secured.group.start(handler, manager=manager)
    await secured.group.add(3)
    await handler.wait_until_finished(3)
    await secured.group.wait_settled()
    assert manager.address == ("localhost", secured.port)
    for processor in secured.group.processors:
        await processor.stop_listening()
    await manager.aclose()


async def test_messages_travel_over_tls(secured: Secured) -> None:
    await reads(secured, secured.access(**secured.trusting))


async def test_a_server_may_ask_who_we_are(mutual: Secured) -> None:
    await reads(mutual, mutual.access(**mutual.trusting, **mutual.known))


async def test_an_authority_of_the_older_kind_is_trusted(tmp_path: Path, start_redis: StartRedis) -> None:
    secured = Secured(tmp_path, start_redis, strict=False)
    assert await says(secured.access(**secured.trusting)) is None
    await secured.group.close()


async def test_a_server_that_asks_who_we_are_is_told_apart(mutual: Secured) -> None:
    found = await says(mutual.access(**mutual.trusting))
    assert found is not None
    assert "redis.tls.certSecretRef" in found.message


async def test_a_server_that_does_not_trust_us_is_told_apart(mutual: Secured, tmp_path: Path) -> None:
    foreign = Authority(tmp_path, "foreign").sign("foreigner")
    files = {"tls_cert_file": str(foreign.certificate), "tls_key_file": str(foreign.key)}
    found = await says(mutual.access(**mutual.trusting, **files))
    assert found is not None
    assert "redis.tls.certSecretRef" in found.message


@pytest.mark.parametrize("other", [True, False], ids=["another authority", "those of the system"])
async def test_a_certificate_from_somebody_else_is_refused(secured: Secured, tmp_path: Path, other: bool) -> None:
    files = {"tls_ca_file": str(Authority(tmp_path, "other").file)} if other else {}
    found = await says(secured.access(**files))
    assert found is not None
    assert found.code == "TLS"
    assert "comes from an unknown authority; set redis.tls.caSecretRef" in found.message


async def test_a_certificate_for_another_name_is_refused(secured: Secured) -> None:
    found = await says(secured.access("127.0.0.2", **secured.trusting))
    assert found is not None
    assert "is not issued for this address" in found.message


async def test_any_certificate_is_taken_where_that_is_asked_for(secured: Secured) -> None:
    assert await says(secured.access(tls_insecure_skip_verify=True)) is None


async def test_a_server_without_tls_is_told_apart(secured: Secured) -> None:
    url = f"rediss://localhost:{secured.group.server.port}/0?socket_connect_timeout=0.3"
    found = await says(RedisSettings(url=url, **secured.trusting))
    assert found is not None
    assert "check that the server uses TLS at this port" in found.message


async def test_what_the_url_says_of_tls_by_itself_still_counts(secured: Secured) -> None:
    url = f"rediss://localhost:{secured.port}/0?ssl_ca_certs={secured.authority.file}"
    assert await says(RedisSettings(url=url)) is None


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
def test_who_trusts_anybody_knows_it(settings: dict[str, Any], anybody: bool) -> None:
    assert RedisCredentials(RedisSettings(**settings)).skips_tls_verification is anybody


async def test_a_url_that_gives_up_on_certificates_is_believed(secured: Secured) -> None:
    for option in ("ssl_cert_reqs=none", f"ssl_check_hostname=false&ssl_ca_certs={secured.authority.file}"):
        assert await says(RedisSettings(url=f"rediss://127.0.0.2:{secured.port}/0?{option}")) is None


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
            f"STREAMCONSUMER_REDIS_TLS_CERT_FILE is {__file__}: expected a certificate that its key belongs to",
        ),
        ({"url": "redis://r", "tls_ca_file": __file__}, "needs a URL that begins with rediss://"),
        ({"url": "redis://r", "password_file": "/nowhere/p"}, "PASSWORD_FILE is /nowhere/p: file not found"),
        ({"url_file": "/nowhere/url"}, "STREAMCONSUMER_REDIS_URL_FILE is /nowhere/url: file not found"),
        ({"url": "redis://u:hunter2@h:port/0"}, "STREAMCONSUMER_REDIS_URL is not a URL of the form redis://"),
        ({"url": "redis://u:hunter2@h/orders"}, "STREAMCONSUMER_REDIS_URL is not a URL of the form redis://"),
    ],
)
def test_files_that_cannot_be_used_are_named_at_start(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        StreamManager.from_settings(RedisSettings(**settings), STREAM)
    assert sentence in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://r/0?hunter2=1", "redis://r/0?ssl_cert_reqs=none", "rediss://r?ssl_cert_reqs=x"]
)
def test_an_option_that_no_connection_takes_is_refused_at_start(url: str) -> None:
    with pytest.raises(InvalidSettings, match=r"STREAMCONSUMER_REDIS_URL has an option after \?") as caught:
        StreamManager.from_settings(RedisSettings(url=url), STREAM)
    assert "hunter2" not in str(caught.value), "it may be part of a password"


async def test_certificates_that_rotate_are_taken_at_the_next_connect(mutual: Secured, tmp_path: Path) -> None:
    """The files are the kubelet's; first the server does not trust the certificate, then it is renewed."""
    foreign = Authority(tmp_path, "foreign").sign("foreigner")
    here = tmp_path / "here.crt", tmp_path / "here.key"

    def bring(certificate: Path, key: Path) -> None:
        for source, target in zip((certificate, key), here, strict=True):
            shutil.copy(source, target)

    bring(mutual.client.certificate, mutual.client.key)
    files = {"tls_cert_file": str(here[0]), "tls_key_file": str(here[1])}
    handler = Recorder()
    manager = StreamManager.from_settings(mutual.access(**mutual.trusting, **files), STREAM)
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
