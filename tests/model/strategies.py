"""Hypothesis strategies for `ProcessorSettings`: every valid value of every field."""

from datetime import timedelta
from typing import Any, TypeVar

from hypothesis import strategies as st
from pydantic import BaseModel

from streamconsumer.model.fields import parse_duration
from streamconsumer.model.name_fields import REDIS_NAME
from streamconsumer.model.processor_settings import (
    Backoff,
    Breaker,
    Delivery,
    HandlerSettings,
    ProcessorSettings,
    RedisSettings,
    Retention,
    TraceContextSettings,
)

# An environment variable cannot contain NUL or half a surrogate pair.
text = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=60)
some_text = text.filter(bool)
redis_names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60).filter(REDIS_NAME.matches)
unspaced = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=60)
words = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)


def durations(minimum: str, maximum: str) -> st.SearchStrategy[timedelta]:
    """Return a strategy for durations within the bounds, with microseconds."""
    return st.timedeltas(parse_duration(minimum), parse_duration(maximum))


handler_paths = st.builds("{}:{}".format, st.lists(words, min_size=1, max_size=3).map(".".join), words)
start_positions = st.sampled_from(["0", "$"]) | st.from_regex(r"[0-9]{1,15}(-[0-9]{1,5})?", fullmatch=True)

T = TypeVar("T", bound=BaseModel)


def models(model: type[T], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[T]:
    """Return a strategy for a model. Every field needs a strategy; otherwise the round-trip test would miss a new
    field."""
    assert set(fields) == set(model.model_fields), f"{model.__name__}: fields and strategies differ"
    return st.fixed_dictionaries(fields).map(lambda drawn: model(**drawn))


def one_of_or_none(*choices: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for the fields of one of the choices, or for no fields."""
    return st.just({}) | st.one_of(*(st.fixed_dictionaries(choice) for choice in choices))


def secret(name: str) -> st.SearchStrategy[dict[str, Any]]:
    return one_of_or_none({name: text}, {f"{name}_file": some_text})


urls = st.builds("{}://{}".format, st.sampled_from(["redis", "rediss", "unix"]), unspaced)
nodes = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}:[1-9][0-9]{0,3}", fullmatch=True)
sentinels = {
    "sentinel_master": st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True),
    "sentinel_nodes": st.lists(nodes, min_size=1, max_size=3),
}

redis_settings = st.tuples(
    st.fixed_dictionaries({"url": urls}) | st.fixed_dictionaries({"url_file": some_text}),
    *(secret(name) for name in ("username", "password", "sentinel_username", "sentinel_password")),
    one_of_or_none({"tls_ca_file": some_text}),
    one_of_or_none({"tls_cert_file": some_text, "tls_key_file": some_text}),
    one_of_or_none({"tls_insecure_skip_verify": st.booleans()}),
    one_of_or_none(sentinels, {"cluster": st.booleans()}),
).map(lambda parts: RedisSettings(**{name: value for part in parts for name, value in part.items()}))
deliveries = models(
    Delivery,
    min_idle=durations("1s", "24h"),
    max_deliveries=st.integers(1, 1000),
    timeout=st.none() | durations("10ms", "24h"),
    backoff=models(Backoff, min_delay=durations("1ms", "1h"), max_delay=durations("1h", "24h")),
    terminal_errors=st.lists(st.lists(words, min_size=1, max_size=3).map(".".join), max_size=3),
    max_entry_bytes=st.integers(1024, 536_870_912),
    dead_letter_stream=st.none() | redis_names,
    dead_letter_max_length=st.integers(1, 100_000_000),
    breaker=models(
        Breaker,
        failures=st.integers(0, 100_000),
        max_pause=durations("10ms", "1h"),
    ),
)
retentions = models(
    Retention,
    max_age=st.none() | durations("1s", "8760h"),
    acknowledged=st.booleans(),
)

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "stream": redis_names,
    "consumer_group": redis_names,
    "start_from": start_positions,
    "batch_count": st.integers(1, 1000),
    "poll_interval": durations("100ms", "1m"),
    "concurrency": st.integers(1, 1000),
    "encoding": st.sampled_from(["utf-8", "bytes"]),
    "ordering_key": st.none() | redis_names,
    "delivery": deliveries,
    "retention": retentions,
    "drain_timeout": durations("1s", "1h"),
    "redis": redis_settings,
    "handler": st.builds(HandlerSettings, python=handler_paths, batch=st.booleans())
    | st.builds(HandlerSettings, http_url=st.builds("http://{}".format, unspaced)),
    "telemetry": models(
        TraceContextSettings,
        context=st.sampled_from(["parent", "link", "ignore"]),
        context_field=redis_names,
        baggage=st.lists(words, max_size=3),
    ),
    "consumer_name": redis_names,
    "http_port": st.integers(0, 65535),
    "http_host": text,
    "log_level": st.sampled_from(["DEBUG", "INFO", "WARNING", "ERROR"]),
    "log_format": st.sampled_from(["json", "text"]),
    "termination_log": text,
}

settings = models(ProcessorSettings, **FIELDS)
