"""The one parser of Redis URLs: what redis-py understands and is harmless is accepted, and nothing else."""

import re
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.asyncio.connection import parse_url

from streamconsumer.model.redis_url import (
    OPTIONS,
    PLAIN_URL_PATTERN,
    InvalidRedisUrl,
    InvalidRedisUrlOption,
    RedisUrl,
    format_host_port,
    parse_host_port,
    parse_redis_url,
    redact_url,
)

FILE_OPTIONS = ("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_password")
OTHER_OPTIONS = (
    *("connection_class", "encoding", "encoding_errors", "decode_responses", "retry", "retry_on_error", "parser_class"),
    *(
        "credential_provider",
        "redis_connect_func",
        "command_packer",
        "encoder_class",
        "socket_type",
        "protocol",
        "host",
    ),
    *("path", "port", "client_name", "lib_name", "max_connections", "timeout", "retry_on_timeout", "ssl_ciphers"),
)


def error_of(url: str) -> str:
    try:
        parsed = parse_redis_url(url)
    except InvalidRedisUrl as error:
        return str(error)
    pytest.fail(f"{url!r} was parsed: {parsed}")


def encode_all(name: str) -> str:
    return "".join(f"%{ord(character):02x}" for character in name)


@pytest.mark.parametrize("spell", [str, encode_all, lambda name: f"%{ord(name[0]):02X}{name[1:]}"], ids=range(3))
@pytest.mark.parametrize("scheme", ["redis://r/0", "rediss://r", "unix:///run/redis.sock"])
def test_option_that_is_not_allowed_is_named_in_every_spelling(spell: Any, scheme: str) -> None:
    for name in (*FILE_OPTIONS, *OTHER_OPTIONS):
        url = f"{scheme}?socket_timeout=3&{spell(name)}=/dev/stdout"
        message = error_of(url)
        assert f"option 2 after `?` ({name}) is not allowed" in message, url
        assert ("redis.tls" in message) == (name in FILE_OPTIONS), url


@pytest.mark.parametrize(
    "name", ["DB", "db%20", "%20db", "db[]", "ssl_ca_certs+", "Ssl_Ca_Certs", "", "hunter2", "d%00b"]
)
def test_unknown_option_is_not_quoted(name: str) -> None:
    message = error_of(f"redis://r/0?{name}=hunter2")
    assert message.startswith("option 1 after `?` is not one of db, ")
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        *(
            (f"db={value}", "(db) must be the number")
            for value in ("-1", "1e3", "٣", "0x1", "%201", "1_0", "9" * 10, "")
        ),
        *(
            (f"socket_timeout={value}", "from 0.01")
            for value in ("nan", "inf", "0", "-1", "1e9", "3601", "0.001", "1,5")
        ),
        *((f"health_check_interval={value}", "must be") for value in ("-1", "99999", "true")),
        *((f"socket_keepalive={value}", "true or false") for value in ("2", "", "truee", "None", "true%0a")),
        *((f"ssl_cert_reqs={value}", "none or required") for value in ("x", "NONE", "0", "CERT_NONE")),
        ("db=1&db=1", "(db) repeats an earlier option"),
        ("db=1&%64b=2", "(db) repeats an earlier option"),
        ("username=a&user%6eame=b", "(username) repeats an earlier option"),
    ],
)
def test_invalid_value_is_rejected_without_a_quotation(option: str, expected: str) -> None:
    assert expected in error_of(f"rediss://r?{option}")


def test_option_of_tls_is_rejected_without_tls() -> None:
    for option in ("ssl_cert_reqs=none", "ssl_check_hostname=no"):
        assert "is valid only in a URL that begins with rediss://" in error_of(f"redis://r?{option}")


def test_different_values_before_and_after_the_question_mark_are_rejected() -> None:
    for url in ("redis://r/0?db=1", "redis://:a@r?password=b", "redis://u@r?username=v"):
        assert ", before and after the `?`; remove one value" in error_of(url)
    assert parse_redis_url("redis://:a@r/1?db=1&password=a") == RedisUrl("redis", "r", database=1, password="a")


@pytest.mark.parametrize(
    "url",
    [
        *("", "redis", "redis:", "redis:/r", "http://r", "REDIS://r", "rediss:///\n", "redis://r\n", " redis://r"),
        *(
            "redis://r:0",
            "redis://r:65536",
            "redis://r:٣",
            "redis://r:-1",
            "redis://r:",
            "redis://r:1:2",
            "redis://r/x",
        ),
        *("redis://r/1/2", "redis://r/-1", "redis://r/٣", "redis://r#a", "redis://r/0#?db=1", "redis://r/%30"),
        *("redis://a..b", "redis://.a", "redis://-a", "redis://a_-", f"redis://{'a' * 64}", f"redis://{'a.' * 127}aa"),
        *(
            "redis://%2e",
            "redis://a%00b",
            "redis://a b",
            "redis://bücher",
            "redis://a/../b",
            "redis://a\\b",
            "redis://*",
        ),
        *("redis://[::1", "redis://::1", "redis://[x]", "redis://[::1%25eth0]", "redis://[1.2.3.4]", "redis://[:::]"),
        *("redis://:a?b@r", "redis://:a#b@r", "redis://:%ff@r", "redis://:a\udc80@r", "redis://" + "a" * 2048),
        *("unix://run/redis", "unix://", "unix:///", "unix:///a%00b", "unix:///a#b", "unix:/run/redis", "unix://h:1/a"),
    ],
)
def test_url_of_another_form_is_rejected(url: str) -> None:
    assert "is not a URL of the form" in error_of(url) or "after `?`" in error_of(url)


PARTS = st.tuples(
    st.sampled_from(["redis", "rediss"]),
    st.sampled_from(["", "u@", ":p@", "u:p@", "a%40b:%2F%3f%23@", ":p@ss@", ":p:q@", "%C3%A9:%20@"]),
    st.sampled_from(["redis", "redis-0.redis.shop.svc.cluster.local", "my_redis", "10.0.0.7", "[fd00::7]", "a.b.", ""]),
    st.sampled_from(["", ":1", ":6379", ":65535"]),
    st.sampled_from(["", "/", "/0", "/15", "/2/", "?db=3", "/?db=3"]),
)


@given(PARTS)
def test_address_and_credentials_are_those_of_redis_py(parts: tuple[str, ...]) -> None:
    scheme, userinfo, host, port, database = parts
    url = f"{scheme}://{userinfo}{host}{port}{database}"
    theirs, parsed = parse_url(url), parse_redis_url(url)
    assert parsed.scheme == scheme
    assert parsed.host == theirs.get("host", "localhost")
    assert parsed.port == theirs.get("port", 6379)
    assert parsed.database == theirs.get("db", 0)
    assert (parsed.username, parsed.password) == (theirs.get("username"), theirs.get("password"))


@given(st.text(min_size=1).filter(lambda text: text.encode(errors="replace").decode() == text), st.text(max_size=9))
def test_encoded_password_is_returned_unchanged(password: str, username: str) -> None:
    encoded = f"redis://{quote(username, safe='')}:{quote(password, safe='')}@r"
    if len(encoded) <= 2048:
        assert parse_redis_url(encoded).password == password
        assert parse_redis_url(encoded).username == (username or None)


def test_options_are_typed() -> None:
    url = "rediss://r/2?socket_timeout=2.5&socket_keepalive=no&health_check_interval=30&ssl_check_hostname=False"
    parsed = parse_redis_url(url)
    options = {"socket_timeout": 2.5, "socket_keepalive": False, "health_check_interval": 30}
    assert parsed == RedisUrl("rediss", "r", database=2, verifies_host_name=False, connection_options=options)
    unverified = parse_redis_url("rediss://r?ssl_cert_reqs=none")
    assert (unverified.verifies_certificate, unverified.verifies_host_name) == (False, False)


def test_unix_socket_has_a_path_and_options() -> None:
    parsed = parse_redis_url("unix://u:p@/run/my%20redis.sock?db=3")
    assert parsed == RedisUrl("unix", database=3, username="u", password="p", socket_path="/run/my redis.sock")


@example("a:1")
@given(st.text())
def test_any_text_is_either_a_host_with_a_port_or_an_error(text: str) -> None:
    try:
        host, port = parse_host_port(text)
    except InvalidRedisUrl:
        return
    assert 0 < port <= 65535
    assert len(host) <= 253


SNIPPETS = st.sampled_from(
    [
        *(
            "redis",
            "rediss",
            "unix",
            "://",
            ":",
            "/",
            "@",
            "?",
            "&",
            "=",
            "#",
            "%",
            "%2f",
            "%00",
            "..",
            "[",
            "]",
            "::1",
        ),
        *("db", "ssl_ca_certs", "pass%77ord", "socket_timeout", "0", "9" * 20, "a" * 70),
        *("é", "\udc80", "\n", "\u202e", "٣", " "),
    ]
)
URLS = st.builds(
    "{}{}".format, st.sampled_from(["redis://", "rediss://", "unix:///", ""]), st.lists(SNIPPETS).map("".join)
)


@given(URLS | st.text())
def test_any_text_is_either_parsed_or_an_invalid_url(text: str) -> None:
    try:
        parsed = parse_redis_url(text)
    except InvalidRedisUrl:
        return
    assert set(parsed.connection_options) < set(OPTIONS)
    assert re.fullmatch("[A-Za-z0-9_.:-]{1,253}", parsed.host)
    assert 0 < parsed.port <= 65535
    parsed.endpoint.encode()


@given(URLS)
def test_redacted_url_contains_no_credentials(text: str) -> None:
    try:
        parsed = parse_redis_url(text)
    except InvalidRedisUrl:
        assert "@" not in redact_url(text)
        return
    redacted = redact_url(text)
    assert "?" not in redacted
    assert "@" not in redacted
    assert parsed.scheme == redacted.partition("://")[0]


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("redis://shop:secret@redis:6379/0", "redis://redis:6379/0"),
        ("redis://shop:sec/ret@redis:6379/0", "redis://…"),
        ("redis://shop:sec?ret@redis:6379/0", "redis://…"),
        ("redis://shop:123?ret@redis:6379/0", "redis://…"),
        ("redis://shop:123/ret@redis:6379/0", "redis://…"),
        ("redis://shop:sec#ret@redis:6379/0", "redis://…"),
        ("redis://redis/0?password=secret", "redis://redis/0"),
        ("unix://:secret@/run/redis?db=1", "unix:///run/redis"),
        ("https://u:secret@collector:4318/v1/traces?token=secret", "https://collector:4318/v1/traces"),
    ],
)
def test_redacted_url_is_the_server_or_only_the_scheme(url: str, redacted: str) -> None:
    assert redact_url(url) == redacted


@given(st.from_regex(PLAIN_URL_PATTERN, fullmatch=True))
def test_url_that_the_crd_accepts_has_no_credentials_and_only_allowed_options(url: str) -> None:
    try:
        parsed = parse_redis_url(url)
    except InvalidRedisUrlOption as error:
        assert re.search("repeats an earlier option|must be a number of seconds|is valid only in", str(error))  # noqa: PT017 - or it is parsed
        return
    except InvalidRedisUrl:
        return  # a port, an IPv6 address or a length out of range, which the pattern does not check
    assert not parsed.has_credentials
    assert parsed.scheme != "unix"


@pytest.mark.parametrize(
    ("host", "port", "text"),
    [
        ("redis", 6379, "redis:6379"),
        ("10.0.0.1", 1, "10.0.0.1:1"),
        ("fd00::1", 6379, "[fd00::1]:6379"),
        ("/s", None, "/s"),
    ],
)
def test_host_and_port_are_shown_with_brackets_around_an_ipv6_address(host: str, port: int | None, text: str) -> None:
    assert format_host_port(host, port) == text
    if port:
        assert parse_host_port(text) == (host, port)
