"""Removal of Secret values in every encoding, PEM blocks, and credentials and queries of URLs."""

import base64
import json
import re
import time
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamconsumer.cli.report.redact import PEM_BLOCK, URL_CREDENTIALS, Redactor, keep_reason

ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "percent": lambda text: quote(text, safe=""),
    "percent with slashes": quote,
    "percent in lower case": lambda text: re.sub("%..", lambda match: match[0].lower(), quote(text, safe="")),
    "percent with plus": quote_plus,
    "every byte as percent": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON without ASCII": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON with escaped slashes": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "repr": lambda text: repr(text)[1:-1],
    "ascii": lambda text: ascii(text)[1:-1],
    "repr of bytes": lambda text: repr(text.encode())[2:-1],
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 without padding": lambda text: base64.b64encode(text.encode()).decode().rstrip("="),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "base64 at alignment 1": lambda text: base64.b64encode(f"u{text}".encode()).decode(),
    "base64 at alignment 2": lambda text: base64.b64encode(f"u:{text}".encode()).decode(),
    "base64 within more": lambda text: base64.urlsafe_b64encode(f"user:{text}\nmore".encode()).decode().rstrip("="),
    "base64 in lines": lambda text: base64.encodebytes(f"{'a' * 70}{text}{'b' * 70}".encode()).decode(),
}
NO_SURROGATES = st.characters(exclude_categories=["Cs"])
SECRETS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30).filter(
    lambda text: text == text.strip() and not keep_reason(text.encode())
)
BASE64 = [each for each in ENCODINGS if each.startswith("base64")]
WITHIN_BASE64 = ("plain", "percent", "JSON", "JSON without ASCII")
ESCAPED = [each for each in ENCODINGS if each not in (*BASE64, "every byte as percent")]
PAIRS = st.one_of(
    st.tuples(st.sampled_from([*ESCAPED, *BASE64[:-1], "every byte as percent"]), st.sampled_from(ESCAPED)),
    st.tuples(st.sampled_from(WITHIN_BASE64), st.sampled_from(BASE64)),
)


def redactor(value: str = "") -> Redactor:
    return Redactor({"Secret shop/redis, key password": value.encode()})


@settings(max_examples=30)  # compiling an expression takes tens of milliseconds
@given(secret=SECRETS, pair=PAIRS)
@example(secret='pa"ss \\wörd/+ł😀', pair=("ascii", "percent with plus"))
@example(secret='pa"ss \\wörd/+ł😀', pair=("JSON", "base64 at alignment 1"))
def test_secret_is_removed_in_every_pair_of_encodings(secret: str, pair: tuple[str, str]) -> None:
    inner, outer = pair
    encoded = ENCODINGS[outer](ENCODINGS[inner](secret))
    instance = redactor(secret)
    text = instance.redact(f"first\n{encoded}\nlast")
    assert "(removed: Secret shop/redis, key password)" in text
    assert encoded not in text


@pytest.mark.parametrize("encoding", [each for each in ENCODINGS if not each.startswith("base64")])
@settings(max_examples=30)  # of each of the encodings
@given(secret=SECRETS)
def test_encoded_secret_is_removed_completely(encoding: str, secret: str) -> None:
    text = redactor(secret).redact(f"first\n{ENCODINGS[encoding](secret)}\nlast")
    assert text == "first\n(removed: Secret shop/redis, key password)\nlast"


@given(secret=SECRETS, before=st.binary(max_size=5), after=st.binary(max_size=5))
def test_every_base64_digit_of_a_secret_is_removed(secret: str, before: bytes, after: bytes) -> None:
    encoded = base64.b64encode(before + secret.encode() + after).decode().rstrip("=")
    text = redactor(secret).redact(f"first\n{encoded}\nlast")
    head, tail = len(before) * 8 // 6, -(-(len(before) + len(secret.encode())) * 8 // 6)
    assert text == f"first\n{encoded[:head]}(removed: Secret shop/redis, key password){encoded[tail:]}\nlast"


@given(secret=SECRETS, before=st.text(max_size=40), after=st.text(max_size=40))
def test_plain_secret_is_removed_between_other_lines(secret: str, before: str, after: str) -> None:
    given_text = f"{before!a} <\n{secret}\n> {after!a}"
    text = redactor(secret).redact(given_text)
    assert f"<\n{secret}\n>" not in text


@given(st.text(NO_SURROGATES, max_size=200))
def test_text_without_secrets_is_unchanged(text: str) -> None:
    harmless = text.replace("://", "").replace("-----", "")
    assert redactor("6b0c7f1e-the-password").redact(harmless) == harmless


def test_secret_in_a_url_a_basic_header_and_a_json_line_is_removed() -> None:
    secret = "p@ss/w:rd"
    basic = base64.b64encode(f"shop:{secret}".encode()).decode()
    lines = [
        f"redis://shop:{quote(secret, safe='')}@redis:6379/0",
        f"GET http://api/?token={quote_plus(secret)}&next=1",
        f"Authorization: Basic {basic}",
        json.dumps({"message": json.dumps({"header": f"Basic {basic}"})}),
        "message 17-0 failed: ValueError",
    ]
    text = redactor(secret).redact("\n".join(lines))
    assert secret not in text
    assert quote(secret, safe="") not in text
    assert basic[12:20] not in text
    assert text.splitlines()[0] == "redis://(removed: URL credentials)@redis:6379/0"
    assert text.splitlines()[-1] == "message 17-0 failed: ValueError"


@pytest.mark.parametrize("encode", ["plain", "JSON", "percent"])
def test_multiline_pem_block_is_removed_in_each_encoding(encode: str) -> None:
    block = (
        "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQ\n-----END PRIVATE KEY-----"
    )
    instance = redactor()
    text = instance.redact(f"key: {ENCODINGS[encode](block)}, next")
    assert text == "key: (removed: PEM block), next"
    assert instance.removed_counts == {PEM_BLOCK: 1}


def test_truncated_pem_block_is_removed() -> None:
    body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"
    assert body not in redactor().redact(f"a\n-----BEGIN PRIVATE KEY-----\n{body}\n{body}\n")
    assert redactor().redact(f"{body}\n{body}\n-----END PRIVATE KEY-----\nb") == "(removed: PEM block)\nb"


def test_unknown_url_credentials_are_removed_in_each_encoding() -> None:
    url = "postgres://shop:unknown@db:5432/shop"
    instance = redactor()
    text = instance.redact("\n".join([url, json.dumps({"url": url}).replace("/", "\\/"), quote(url, safe="")]))
    assert "unknown" not in text
    assert instance.removed_counts == {URL_CREDENTIALS: 3}


@pytest.mark.parametrize(
    ("value", "reason"), [("abc", "shorter than 4 bytes"), ("", "shorter than 4 bytes"), ("True\n", "a common word")]
)
def test_short_or_common_value_is_kept_with_a_reason(value: str, reason: str) -> None:
    assert keep_reason(value.encode()) == reason
    assert redactor(value).redact("abc is True") == "abc is True"


def test_multiline_value_is_removed_line_by_line() -> None:
    text = redactor("first-line-of-it\nsecond-line-of-it\n").redact("1: first-line-of-it\n2: second-line-of-it")
    assert "line-of-it" not in text


@pytest.mark.parametrize(
    "secret",
    [
        '{"type": "service_account", "keys": [{"client_secret": "planted-secret"}]}',
        '{\n  "url": "redis://shop:planted-secret@redis:6379/0"\n}',
        "USER=shop\nexport PASSWORD='planted-secret'",
        "redis:\n  password: planted-secret",
        "Server=db;User Id=shop;Password=planted-secret;Encrypt=true",
        "password = planted-secret",
        "shop:planted-secret",
    ],
)
def test_value_within_a_document_is_removed_alone(secret: str) -> None:
    text = redactor(secret).redact("login with planted-secret failed for shop")
    assert "planted" not in text
    assert text.startswith("login with (removed: ")
    assert text.endswith(") failed for shop")


def test_document_nested_beyond_the_parser_limit_is_removed() -> None:
    secret = "[" * 1500
    assert redactor(secret).redact(f"a {secret} b").startswith("a (removed: ")


@pytest.mark.parametrize("fragment", ["-----BEGIN KEY-----\n", "a://"])
def test_repeated_prefix_of_a_pem_block_or_url_is_scanned_in_linear_time(fragment: str) -> None:
    started = time.process_time()
    text = redactor().redact(fragment * 20_000 + " end")
    assert time.process_time() - started < 10
    assert text.endswith("end")


def test_password_within_a_secret_url_is_removed_alone_and_encoded() -> None:
    text = redactor("redis://shop:p%40lanted@redis:6379/0").redact("auth with p@lanted; p%40lanted")
    assert "lanted" not in text
