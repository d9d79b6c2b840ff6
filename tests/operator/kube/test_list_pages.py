"""Pages of lists: the same objects as from a JSON parser, with pauses for other tasks."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
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


@settings(max_examples=50)
@given(st.lists(objects, max_size=4), st.text(max_size=8), st.booleans())
def test_page_contains_the_objects_and_the_metadata(items: list[Any], token: str, is_sorted: bool) -> None:
    """The API server sorts the fields of a list of custom resources."""
    metadata = {"resourceVersion": "7", "continue": token}
    document = {"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items}
    page = ListPage(json.dumps(document, separators=(",", ":"), sort_keys=is_sorted) + "\n")
    assert (asyncio.run(read(page)), page.metadata) == (items, metadata)


async def test_list_without_objects_can_have_null_instead_of_items() -> None:
    page = ListPage('{"kind":"PodList","items":null,"metadata":{"resourceVersion":"7"}}')
    assert (await read(page), page.metadata) == ([], {"resourceVersion": "7"})


def test_page_without_items_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected a list"):
        ListPage('{"kind":"Status"}')


async def test_other_tasks_run_between_two_objects() -> None:
    page, order = ListPage('{"metadata":{},"items":[{"n":1},{"n":2}]}'), list[object]()

    async def other() -> None:
        order.append("other")

    running = None
    async for item in page.items():
        order.append(item["n"])
        running = running or asyncio.create_task(other())
    assert order == [1, "other", 2]
