"""Pages of lists: the same objects as from a JSON parser, with pauses for other tasks."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamconsumer.operator.kube.list_pages import ListPage

texts = st.text(max_size=8) | st.just('"items":[{')
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.just("items"), inner, max_size=3),
    max_leaves=10,
)
objects = st.dictionaries(texts, values, max_size=4)


async def read(page: ListPage) -> list[Any]:
    return [item async for item in page.items()]


@given(st.lists(objects, max_size=4), st.text(max_size=8), st.sampled_from([None, 2]))
def test_page_contains_the_metadata_and_the_objects(items: list[Any], token: str, indent: int | None) -> None:
    metadata = {"resourceVersion": "7", "continue": token}
    document = {"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items}
    separators = (",", ":") if indent is None else None
    page = ListPage(json.dumps(document, indent=indent, separators=separators) + "\n")
    assert (page.metadata, asyncio.run(read(page))) == (metadata, items)


async def test_list_without_objects_can_have_null_instead_of_items() -> None:
    page = ListPage('{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":null}')
    assert (page.metadata, await read(page)) == ({"resourceVersion": "7"}, [])


def test_page_without_items_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected a list"):
        ListPage('{"kind":"Status"}')


async def test_other_tasks_run_between_two_objects() -> None:
    page, order = ListPage('{"metadata":{},"items":[{"n":1},{"n":2}]}'), []

    async def other() -> None:
        order.append("other")

    running = None
    async for item in page.items():
        order.append(item["n"])
        running = running or asyncio.create_task(other())
    assert order == [1, "other", 2]
