"""Files with credentials and certificates: only small regular files are read, and never in the event loop's thread."""

import asyncio
import os
import re
import ssl
import subprocess
import threading
import time
from base64 import b64decode, encodebytes
from pathlib import Path
from typing import Any

import pytest

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.processor_settings import InlineRedisSettings, RedisSettings
from streamconsumer.redis_client import setting_files
from streamconsumer.redis_client.credentials import RedisCredentials
from streamconsumer.redis_client.setting_files import run_in_thread
from streamconsumer.redis_client.tls import MAX_CA_BYTES, InvalidPem, TlsMaterial
from tests.cluster.certificates import Authority

MAX_LOOP_SECONDS = 0.1
"""Maximum CPU time of the event loop's thread in one callback."""

SETTINGS: dict[str, dict[str, Any]] = {
    "url_file": {},
    "username_file": {"url": "redis://r"},
    "password_file": {"url": "redis://r"},
    "sentinel_username_file": {"url": "redis://r"},
    "sentinel_password_file": {"url": "redis://r"},
    "tls_ca_file": {"url": "rediss://r"},
    "tls_cert_file": {"url": "rediss://r", "tls_key_file": __file__},
    "tls_key_file": {"url": "rediss://r", "tls_cert_file": __file__},
}
"""Every setting that names a file, and the settings that it requires."""


def test_every_setting_that_names_a_file_is_tested() -> None:
    assert set(SETTINGS) == {name for name in RedisSettings.model_fields if name.endswith("_file")}


def make(kind: str, folder: Path) -> Path:
    path = folder / "hostile"
    match kind:
        case "FIFO":
            os.mkfifo(path)
        case "link to a FIFO":
            os.mkfifo(folder / "fifo")
            path.symlink_to(folder / "fifo")
        case "directory":
            path.mkdir()
        case "large file":
            with path.open("wb") as file:
                file.truncate(100_000_000)
        case "binary file":
            path.write_bytes(b"\xff\xfe")
        case "NUL":
            return folder / "a\0b"
        case _:
            return Path(kind)
    return path


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("FIFO", "not a regular file"),
        ("link to a FIFO", "not a regular file"),
        ("directory", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("large file", "more than [0-9]+ bytes"),
        ("binary file", "codec can't decode"),
        ("NUL", "null (byte|character)"),
    ],
)
def test_only_small_regular_files_with_text_are_read(setting: str, kind: str, problem: str, tmp_path: Path) -> None:
    settings = RedisSettings(**{**SETTINGS[setting], setting: str(make(kind, tmp_path))})
    with pytest.raises(InvalidSettings, match=problem) as caught:
        RedisCredentials(settings).check_certificates()
    assert f"STREAMCONSUMER_REDIS_{setting.upper()}" in str(caught.value)


async def test_event_loop_runs_while_a_file_is_read() -> None:
    may_end = threading.Event()
    reading = asyncio.create_task(run_in_thread(lambda: may_end.wait(30)))
    await asyncio.sleep(0)
    may_end.set()  # runs only if the event loop is not blocked
    assert await reading


async def test_file_that_is_never_read_becomes_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setting_files, "TIMEOUT_SECONDS", 0.05)
    may_end = threading.Event()
    try:
        with pytest.raises(OSError, match="were not read"):
            await run_in_thread(lambda: may_end.wait(30))
    finally:
        may_end.set()


async def test_changed_scheme_is_an_error(tmp_path: Path) -> None:
    """A plain connection would otherwise send the password to a server with TLS."""
    file = tmp_path / "url"
    file.write_text("redis://r")
    credentials = RedisCredentials(RedisSettings(url_file=str(file)))
    file.write_text("rediss://r")
    with pytest.raises(InvalidSettings, match="found rediss://, expected redis:// as at startup"):
        await credentials.refresh()
    assert credentials.scheme == "redis"


# -- certificates ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def as_pem(der: bytes, label: str) -> str:
    return f"-----BEGIN {label}-----\n{encodebytes(der).decode()}-----END {label}-----\n"


def as_der(pem: str) -> bytes:
    return b64decode("".join(line for line in pem.splitlines() if not line.startswith("-----")))


def many_certificates(authority: Authority, max_bytes: int) -> str:
    """Return different certificates with the same subject, which take OpenSSL the longest to add."""
    der, size = bytearray(as_der(authority.file.read_text())), 0
    pems: list[str] = []
    serial = der.index(b"\x02\x14") + 4
    while size < max_bytes:
        der[serial : serial + 4] = len(pems).to_bytes(4, "big")
        pems.append(as_pem(bytes(der), "CERTIFICATE"))
        size += len(pems[-1])
    return "".join(pems[:-1])


async def loop_cpu_seconds(settings: RedisSettings) -> float:
    """Return the longest CPU time of a callback in the loop's thread while a TLS context is created."""
    credentials = RedisCredentials(settings)
    longest, last = 0.0, time.thread_time()
    creating = asyncio.create_task(credentials.tls_context())
    while not creating.done():
        await asyncio.sleep(0.001)
        longest, last = max(longest, time.thread_time() - last), time.thread_time()
    assert isinstance(await creating, ssl.SSLContext)
    return longest


async def test_large_secret_of_certificates_does_not_block_the_event_loop(authority: Authority) -> None:
    pem = many_certificates(authority, MAX_CA_BYTES)
    assert await loop_cpu_seconds(InlineRedisSettings(url="rediss://r", tls_ca=pem)) < MAX_LOOP_SECONDS


async def test_certificates_of_the_system_do_not_block_the_event_loop() -> None:
    assert await loop_cpu_seconds(InlineRedisSettings(url="rediss://r")) < MAX_LOOP_SECONDS


async def test_context_is_created_once_while_the_certificates_are_unchanged(authority: Authority) -> None:
    credentials = RedisCredentials(InlineRedisSettings(url="rediss://r", tls_ca=authority.file.read_text()))
    assert await credentials.tls_context() is await credentials.tls_context()


def test_too_many_certificates_are_an_error(authority: Authority) -> None:
    with pytest.raises(InvalidPem, match=f"at most {MAX_CA_BYTES} bytes"):
        TlsMaterial(ca=many_certificates(authority, 1_048_576)).context()


def test_encrypted_key_is_rejected_without_a_derivation(authority: Authority, tmp_path: Path) -> None:
    """The number of rounds is in the key. OpenSSL would need about 10 seconds for this key, and hours for others."""
    client, file = authority.sign("encrypted"), tmp_path / "encrypted.key"
    options = ["-topk8", "-iter", "65537", "-passout", "pass:x", "-in", str(client.key), "-out", str(file)]
    subprocess.run(["openssl", "pkcs8", *options], check=True, capture_output=True)
    der = as_der(file.read_text()).replace(b"\x02\x03\x01\x00\x01", b"\x02\x03\x7f\xff\xff")
    for label in ("ENCRYPTED PRIVATE KEY", "PRIVATE KEY"):
        begin = time.process_time()
        with pytest.raises(InvalidPem, match="a certificate that matches its private key"):
            TlsMaterial(cert=client.certificate.read_text(), key=as_pem(der, label)).context()
        assert time.process_time() - begin < 2


def test_client_key_whose_signature_takes_long_is_rejected(authority: Authority) -> None:
    key = as_pem(bytes(9000), "RSA PRIVATE KEY")
    with pytest.raises(InvalidPem, match="expected at most 7168 bytes of PEM text"):
        TlsMaterial(cert=authority.file.read_text(), key=key).context()


def test_server_cannot_select_the_size_of_the_numbers_in_a_key_exchange() -> None:
    names = [cipher["name"] for cipher in TlsMaterial().context().get_ciphers()]
    assert names
    assert not [name for name in names if re.match("DHE|ADH|EDH|AES|PSK|SRP", name)]


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN CERTIFICATE-----\n", as_pem(b"x", "CERTIFICATE"), "\0"])
def test_garbage_is_an_error_that_names_the_setting(text: str) -> None:
    fields: list[dict[str, Any]] = [{"tls_ca": text}, {"tls_cert": text, "tls_key": text}]
    for field in fields:
        settings = InlineRedisSettings(url="rediss://r", **field)
        with pytest.raises(InvalidSettings, match=f"^STREAMCONSUMER_REDIS_{next(iter(field)).upper()}: expected "):
            RedisCredentials(settings).check_certificates()
