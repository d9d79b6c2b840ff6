"""Removal of secrets whose value the report does not know, by their shape."""

import base64
import json
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest

from streamconsumer.cli.report.redact import Redactor
from streamconsumer.cli.report.secret_shapes import is_opaque
from streamconsumer.model.reasons import REASONS
from streamconsumer.redis_client.errors_table import _MESSAGES, _TLS_MESSAGES

RANDOM = "q7Zt3Kx9Lm2Vb8Nc4Wr6Ys1Pd5Hf0Jg8"
"""Part of the tokens here. The tokens are composed, so that scanners for secrets do not find them in this file."""

TOKENS = {
    "aws key id": "AKIA" + "IOSFODNN7EXAMPLE",
    "aws temporary key id": "ASIA" + "IOSFODNN7EXAMPLE",
    "aws secret": "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCY3EXAMPLEKEY",
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0." + RANDOM,
    "github": "ghp_" + RANDOM,
    "github fine-grained": "github_pat_" + RANDOM,
    "gitlab": "glpat-" + RANDOM[:20],
    "slack": "xoxb-" + "123456789012-" + RANDOM[:24],
    "slack webhook": "https://hooks.slack.com/services/" + "T000/B000/" + RANDOM[:24],
    "stripe": "sk_live_" + RANDOM[:24],
    "stripe restricted": "rk_test_" + RANDOM[:24],
    "google": "AIza" + RANDOM + "abc",
    "npm": "npm_" + RANDOM + "abcd",
    "pypi": "pypi-" + "AgEIcHlwaS5vcmc" + RANDOM,
    "sendgrid": "SG." + RANDOM[:22] + "." + RANDOM,
    "hugging face": "hf_" + RANDOM,
    "vault": "hvs." + RANDOM,
    "openai": "sk-proj-" + RANDOM,
    "telegram": "bot123456789:" + RANDOM + "abc",
    "base64 of JSON": base64.b64encode(json.dumps({"auths": {"registry": {"auth": "c2hvcDpwdw=="}}}).encode()).decode(),
    "base64 of PEM": base64.b64encode(b"-----BEGIN RSA PRIVATE KEY-----\nMIIEow" + b"x" * 200).decode(),
    "opaque": RANDOM,
}
SECRET = "hunter2-Tr0ub4dor"
SETTINGS = [
    "password={}",
    "PASSWORD='{}'",
    "db_password = {}",
    "STREAMCONSUMER_REDIS_PASSWORD={}",
    "Password: {}",
    "  password: {}",
    "- token: {}",
    '"password": "{}"',
    "{{'password': '{}'}}",
    "('password', '{}')",
    "b'password': b'{}'",
    "user=shop;Pwd={};Encrypt=yes",
    "host=db user=shop password={} dbname=shop",
    "api_key={}",
    "apiKey: {}",
    "API key: {}",
    "x-api-key: {}",
    "aws_secret_access_key = {}",
    "client_secret={}&grant_type=x",
    "AccountKey={};EndpointSuffix=core",
    "SharedAccessKey={}",
    "_authToken={}",
    '"auth": "{}"',
    ".dockerconfigjson: {}",
    "requirepass {}",
    "CONFIG SET masterauth {}",
    "Authorization: Bearer {}",
    "authorization: Basic {}",
    '"Authorization": "Bearer {}"',
    "Authorization: {}",
    "Cookie: session={}; theme=dark",
    "Set-Cookie: id={}",
    "Bearer {}",
    "redis-cli -a {} PING",
    "curl -u shop:{} http://api",
    "--password {}",
    "--api-token={}",
    "AUTH {}",
    "AUTH shop {}",
    "ACL SETUSER shop on >{} ~*",
    "unknown command 'AUTH', with args beginning with: 'shop' '{}'",
    "the password is {}",
    "wrong password '{}'",
    "<password>{}</password>",
    "shop:{}@db.example:5432/shop",
    "postgres://shop:{}@db/shop",
    "mongodb+srv://shop:{}@db/shop",
    "jdbc:postgresql://db/shop?user=shop&password={}",
    "amqp://shop:{}@mq",
    "https://api.example/hook?sig={}",
]
ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": lambda text: json.dumps({"message": text}),
    "JSON in JSON": lambda text: json.dumps({"message": json.dumps({"message": text})}),
    "JSON with escaped quotes": lambda text: json.dumps({"message": text}).replace('\\"', "\\u0022"),
    "percent": lambda text: quote(text, safe=""),
    "percent twice": lambda text: quote(quote(text, safe=""), safe=""),
    "log line": lambda text: f"ERROR connect failed  error={text}\nINFO next line",
    "repr": repr,
    "HTML": lambda text: text.replace('"', "&quot;"),
}
PLAIN_ONLY = ("percent", "percent twice")


def redact(text: str) -> str:
    return Redactor({}).redact(text)


@pytest.mark.parametrize("encoding", [each for each in ENCODINGS if each not in PLAIN_ONLY])
def test_token_is_removed_in_any_text(encoding: str) -> None:
    for name, token in TOKENS.items():
        text = redact(ENCODINGS[encoding](f"request failed, {token} was used"))
        assert token[-12:] not in text, name
        assert "request failed" in text, name


@pytest.mark.parametrize("encoding", [each for each in ENCODINGS if each not in PLAIN_ONLY])
def test_value_of_a_secret_setting_is_removed(encoding: str) -> None:
    redacted = {setting: redact(ENCODINGS[encoding](setting.format(SECRET))) for setting in SETTINGS}
    assert {setting: text for setting, text in redacted.items() if SECRET in text} == {}


@pytest.mark.parametrize("encoding", PLAIN_ONLY)
@pytest.mark.parametrize(
    "setting", ["password={}", '"password": "{}"', "{{'token': '{}'}}", "postgres://shop:{}@db/shop", "api_key = {}"]
)
def test_encoded_setting_is_removed(setting: str, encoding: str) -> None:
    assert SECRET not in redact(ENCODINGS[encoding](setting.format(SECRET)))


@pytest.mark.parametrize(
    "secret", ["pa,ss;wd&x)y", "ends with space and words", 'quote"inside', "back\\slash", "ü-€-😀"]
)
@pytest.mark.parametrize("encoding", ["plain", "JSON"])
def test_quoted_value_with_any_characters_is_removed_completely(secret: str, encoding: str) -> None:
    text = redact(ENCODINGS[encoding](json.dumps({"password": secret}, ensure_ascii=False)))
    assert not any(part in text for part in secret.replace('"', " ").replace("\\", " ").split())


def test_unquoted_value_at_the_start_of_a_line_is_removed_to_its_end() -> None:
    assert redact("user: shop\npassword: correct horse battery\nport: 6379").split("\n")[::2] == [
        "user: shop",
        "port: 6379",
    ]
    assert "horse" not in redact("password: correct horse battery")


@pytest.mark.parametrize(
    "text",
    [
        *(str(message) for message in [*_MESSAGES.values(), *_TLS_MESSAGES.values()]),
        "Secret shop/redis: key password not found; the keys are username",
        "spec.redis.passwordSecretRef.name: found '../x', expected a name",
        "spec.redis.passwordSecretRef: Secret redis: not found",
        "image: registry.example/shop/orders:1.4@sha256:" + "0123456789abcdef" * 4,
        "trace_id=4bf92f3577b34da6a3ce929d0e0e4736 traceparent=00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "uid: 0e4736a3-ce92-4d0e-8bf9-2f3577b34da6, pod orders-consumer-6d5f9c7b4-x2x9z on node-1.example",
        '  File "/usr/local/lib/python3.12/site-packages/streamconsumer/processor/pipeline/settlement.py", line 377',
        "AuthenticationError: invalid username-password pair or user is disabled.",
        "the author: Jane; tokens per second are high; passed: 12; compass: north",
        "streams shop:orders and shop:{orders}:dead-letters; group billing; entry 1700000000000-0",
        "ScalingActive is False: SecretsNotReadable",
        "handler 'shop.orders:handle' raised InvalidOrderReferenceNumberException2ForCustomer",
        "--password-file /run/secrets/redis",
        "contact support@example.com",
    ],
)
def test_text_without_a_secret_is_unchanged(text: str) -> None:
    assert redact(text) == text


def test_reasons_and_remedies_of_conditions_are_unchanged() -> None:
    for text in map(str, [*REASONS, *REASONS.values()]):
        assert redact(text) == text


@pytest.mark.parametrize(
    "fragment",
    [
        "password",
        "password=",
        "password: '",
        "--password",
        "a:b@",
        "eyJ",
        "token " * 20,
        "%25",
        "\\",
        "'",
        "-----BEGIN ",
        "aB3",
        "=",
        " ",
        "<x",
    ],
)
def test_long_text_of_one_fragment_is_scanned_in_linear_time(fragment: str) -> None:
    started = time.process_time()
    redact(fragment * (100_000 // len(fragment)))
    assert time.process_time() - started < 5


def test_opaque_tokens_are_random_and_of_three_kinds() -> None:
    assert is_opaque(RANDOM)
    assert not is_opaque("0123456789abcdef" * 4)
    assert not is_opaque("InvalidOrderReferenceNumberException2ForCustomer12")


def test_known_value_within_a_shape_keeps_its_label_and_the_rest_is_removed() -> None:
    redactor = Redactor({"Secret shop/redis, key password": SECRET.encode()})
    removed = "(removed: Secret shop/redis, key password)"
    assert redactor.redact(f"connect with password={SECRET} failed") == f"connect with password={removed} failed"
    text = redactor.redact(f"password: {SECRET} and-another-one\nport: 6379")
    assert text == f"password: {removed}(removed: value of a secret setting)\nport: 6379"
