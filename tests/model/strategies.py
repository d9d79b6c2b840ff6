"""Generated settings: every value that a pod can be told."""

from datetime import timedelta
from typing import Any, TypeVar

from hypothesis import strategies as st
from pydantic import BaseModel

from streamconsumer.model.fields import parse_duration
from streamconsumer.model.settings import (
    Delivery,
    PodHandler,
    ProcessorSettings,
    Reconnect,
    RedisAccess,
)

# What an environment variable cannot hold is no setting: NUL, and half a surrogate pair.
text = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=60)
some_text = text.filter(bool)
unspaced = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=60)
words = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)


def durations(least: str, most: str) -> st.SearchStrategy[timedelta]:
    """Durations with these bounds, to the microsecond."""
    return st.timedeltas(parse_duration(least), parse_duration(most))


handler_paths = st.builds("{}:{}".format, st.lists(words, min_size=1, max_size=3).map(".".join), words)
starts = st.sampled_from(["0", "$"]) | st.from_regex(r"[0-9]{1,15}(-[0-9]{1,5})?", fullmatch=True)

T = TypeVar("T", bound=BaseModel)


def models(kind: type[T], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[T]:
    """Models of this kind, by their fields' own names."""
    return st.fixed_dictionaries(fields).map(lambda drawn: kind(**drawn))


accesses = models(
    RedisAccess,
    url=st.builds("{}://{}".format, st.sampled_from(["redis", "rediss", "unix"]), unspaced),
    username=st.none() | text,
    password=st.none() | text,
)
reconnects = models(Reconnect, min_delay=durations("1ms", "1m"), max_delay=durations("1m", "5m"))

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "stream": some_text,
    "consumer_group": some_text,
    "start_from": starts,
    "batch_count": st.integers(1, 1000),
    "poll_interval": durations("100ms", "1m"),
    "concurrency": st.integers(1, 1000),
    "encoding": st.sampled_from(["utf-8", "bytes"]),
    "delivery": models(Delivery, min_idle=durations("1s", "24h")),
    "reconnect": reconnects,
    "drain_timeout": durations("1s", "1h"),
    "redis": accesses,
    "handler": models(PodHandler, python=handler_paths),
    "consumer_name": some_text,
    "http_port": st.integers(0, 65535),
    "http_host": text,
    "log_level": st.sampled_from(["DEBUG", "INFO", "WARNING", "ERROR"]),
    "log_format": st.sampled_from(["json", "text"]),
    "termination_log": text,
}

settings = models(ProcessorSettings, **FIELDS)
