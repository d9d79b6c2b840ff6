"""What a redactor removes from texts: values of Secrets in every encoding, PEM blocks, credentials and queries of
URLs."""

import base64
import json
import re
import time
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from streamconsumer.cli.report.redact import PEM_BLOCK, URL_CREDENTIALS, Redactor, why_kept

ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "percent": lambda text: quote(text, safe=""),
    "percent with slashes": quote,
    "percent in lower case": lambda text: re.sub("%..", lambda found: found[0].lower(), quote(text, safe="")),
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
    lambda text: text == text.strip() and not why_kept(text.encode())
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
def test_no_encoding_of_a_secret_survives_not_even_within_another(secret: str, pair: tuple[str, str]) -> None:
    inner, outer = pair
    encoded = ENCODINGS[outer](ENCODINGS[inner](secret))
    found = redactor(secret)
    text = found.text(f"first\n{encoded}\nlast")
    assert "(removed: Secret shop/redis, key password)" in text
    assert encoded not in text


@pytest.mark.parametrize("encoding", [each for each in ENCODINGS if not each.startswith("base64")])
@settings(max_examples=30)  # of each of the encodings
@given(secret=SECRETS)
def test_nothing_of_an_encoded_secret_remains(encoding: str, secret: str) -> None:
    text = redactor(secret).text(f"first\n{ENCODINGS[encoding](secret)}\nlast")
    assert text == "first\n(removed: Secret shop/redis, key password)\nlast"


@given(secret=SECRETS, before=st.binary(max_size=5), after=st.binary(max_size=5))
def test_no_character_that_encodes_a_bit_of_a_secret_in_base64_remains(
    secret: str, before: bytes, after: bytes
) -> None:
    whole = before + secret.encode() + after
    # A second, overlapping occurrence such as 9999 in 99999 is removed too.
    assume(whole.find(secret.encode()) == whole.rfind(secret.encode()) == len(before))
    encoded = base64.b64encode(whole).decode().rstrip("=")
    text = redactor(secret).text(f"first\n{encoded}\nlast")
    head, tail = len(before) * 8 // 6, -(-(len(before) + len(secret.encode())) * 8 // 6)
    assert text == f"first\n{encoded[:head]}(removed: Secret shop/redis, key password){encoded[tail:]}\nlast"


@given(secret=SECRETS, before=st.text(max_size=40), after=st.text(max_size=40))
def test_a_plain_secret_is_removed_and_the_lines_around_it_stay(secret: str, before: str, after: str) -> None:
    given_text = f"{before!a} <\n{secret}\n> {after!a}"
    text = redactor(secret).text(given_text)
    assert f"<\n{secret}\n>" not in text


@given(st.text(NO_SURROGATES, max_size=200))
def test_a_text_without_secrets_credentials_and_pem_blocks_is_unchanged(text: str) -> None:
    harmless = text.replace("://", "").replace("-----", "")
    assert redactor("6b0c7f1e-the-password").text(harmless) == harmless


def test_a_secret_in_a_url_a_basic_header_and_a_json_line_is_removed() -> None:
    secret = "p@ss/w:rd"
    basic = base64.b64encode(f"shop:{secret}".encode()).decode()
    lines = [
        f"redis://shop:{quote(secret, safe='')}@redis:6379/0",
        f"GET http://api/?token={quote_plus(secret)}&next=1",
        f"Authorization: Basic {basic}",
        json.dumps({"message": json.dumps({"header": f"Basic {basic}"})}),
        "message 17-0 failed: ValueError",
    ]
    text = redactor(secret).text("\n".join(lines))
    assert secret not in text
    assert quote(secret, safe="") not in text
    assert basic[12:20] not in text
    assert text.splitlines()[0] == "redis://(removed: URL credentials)@redis:6379/0"
    assert text.splitlines()[-1] == "message 17-0 failed: ValueError"


@pytest.mark.parametrize("encode", ["plain", "JSON", "percent"])
def test_a_pem_block_of_several_lines_is_removed_in_each_encoding(encode: str) -> None:
    block = (
        "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQ\n-----END PRIVATE KEY-----"
    )
    found = redactor()
    text = found.text(f"key: {ENCODINGS[encode](block)}, next")
    assert text == "key: (removed: PEM block), next"
    assert found.counts == {PEM_BLOCK: 1}


def test_a_pem_block_that_the_end_or_the_beginning_of_a_log_cuts_is_removed() -> None:
    body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"
    assert body not in redactor().text(f"a\n-----BEGIN PRIVATE KEY-----\n{body}\n{body}\n")
    assert redactor().text(f"{body}\n{body}\n-----END PRIVATE KEY-----\nb") == "(removed: PEM block)\nb"


def test_credentials_of_a_url_that_no_secret_holds_are_removed_in_each_encoding() -> None:
    url = "postgres://shop:unknown@db:5432/shop"
    found = redactor()
    text = found.text("\n".join([url, json.dumps({"url": url}).replace("/", "\\/"), quote(url, safe="")]))
    assert "unknown" not in text
    assert found.counts == {URL_CREDENTIALS: 3}


@pytest.mark.parametrize(
    ("value", "reason"), [("abc", "shorter than 4 bytes"), ("", "shorter than 4 bytes"), ("True\n", "a common word")]
)
def test_a_short_or_common_value_stays_and_has_a_reason(value: str, reason: str) -> None:
    assert why_kept(value.encode()) == reason
    assert redactor(value).text("abc is True") == "abc is True"


def test_a_value_of_several_lines_is_removed_line_by_line() -> None:
    text = redactor("first-line-of-it\nsecond-line-of-it\n").text("1: first-line-of-it\n2: second-line-of-it")
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
def test_a_value_within_a_secret_that_is_a_document_is_removed_alone(secret: str) -> None:
    text = redactor(secret).text("login with planted-secret failed for shop")
    assert "planted" not in text
    assert text.startswith("login with (removed: ")
    assert text.endswith(") failed for shop")


def test_a_document_that_is_nested_deeper_than_a_parser_goes_is_removed() -> None:
    secret = "[" * 4000
    assert redactor(secret).text(f"a {secret} b").startswith("a (removed: ")


@pytest.mark.parametrize("words", ["-----BEGIN KEY-----\n", "a://"])
def test_what_only_looks_like_a_pem_block_or_a_url_takes_no_longer_than_other_text(words: str) -> None:
    started = time.process_time()
    text = redactor().text(words * 100_000 + " end")
    assert time.process_time() - started < 10
    assert text.endswith("end")


def test_the_password_within_a_url_of_a_secret_is_removed_alone_and_encoded() -> None:
    text = redactor("redis://shop:p%40lanted@redis:6379/0").text("auth with p@lanted; p%40lanted")
    assert "lanted" not in text
