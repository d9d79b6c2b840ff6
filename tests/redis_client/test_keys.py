"""Companion keys: no two groups share a key, and each key is in the slot of its stream."""

from itertools import product

import pytest

from streamconsumer.redis_client.keys import group_key, hash_slot, same_slot


def test_no_two_groups_share_a_companion_key() -> None:
    streams = ["".join(letters) for length in range(1, 5) for letters in product("a{}:%", repeat=length)]
    groups = ["".join(letters) for length in range(1, 3) for letters in product("a{}:%", repeat=length)]
    groups += ["%3A", "%25", "a:a", "}:a"]
    keys = {group_key(stream, group, "postponed") for stream in streams for group in groups}
    assert len(keys) == len(streams) * len(groups)


@pytest.mark.parametrize(
    ("stream", "group", "key"),
    [
        ("orders", "billing", "{orders}:billing:postponed"),
        ("{orders}", "billing", "{orders}::billing:postponed"),
        ("{shop}:orders", "billing", "{shop}:orders::billing:postponed"),
        ("{shop}", "orders:billing", "{shop}::orders%3Abilling:postponed"),
        ("orders", "100%", "{orders}:100%25:postponed"),
    ],
)
def test_key_names_the_stream_and_the_group(stream: str, group: str, key: str) -> None:
    assert group_key(stream, group, "postponed") == key
    assert same_slot(stream)
    assert hash_slot(key.encode()) == hash_slot(stream.encode())
