"""Pages of lists: the same objects as from a JSON parser, with pauses for other tasks."""

import asyncio
import json
from collections.abc import AsyncIterator
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


async def chunks(text: str, size: int = 7) -> AsyncIterator[bytes]:
    """Yield the text in parts. A boundary may be inside of a character."""
    encoded = text.encode()
    for begin in range(0, len(encoded), size):
        yield encoded[begin : begin + size]


async def read(page: ListPage) -> list[Any]:
    return [item async for item in page.items()]


@settings(max_examples=50)
@given(st.lists(objects, max_size=4), st.text(max_size=8), st.booleans(), st.integers(1, 200), st.booleans())
def test_page_contains_the_objects_and_the_metadata(
    items: list[Any], token: str, is_sorted: bool, size: int, is_ascii: bool
) -> None:
    """The API server sorts the fields of a list of custom resources."""
    metadata = {"resourceVersion": "7", "continue": token}
    document = {"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items}
    text = json.dumps(document, separators=(",", ":"), sort_keys=is_sorted, ensure_ascii=is_ascii)
    page = ListPage(chunks(text + "\n", size))
    assert (asyncio.run(read(page)), page.metadata) == (items, metadata)


async def test_list_without_objects_can_have_null_instead_of_items() -> None:
    page = ListPage(chunks('{"kind":"PodList","items":null,"metadata":{"resourceVersion":"7"}}'))
    assert (await read(page), page.metadata) == ([], {"resourceVersion": "7"})


async def test_page_without_items_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected a list"):
        await read(ListPage(chunks('{"kind":"Status"}')))


@pytest.mark.parametrize("text", ['{"items":', '{"items":[{"n":1}', '{"items":[{"n":1},{"n"', '{"items":[{"n":1}]'])
async def test_page_that_ends_early_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text of the error depends on the place
        await read(ListPage(chunks(text)))


async def test_only_a_few_objects_are_received_before_they_are_needed() -> None:
    """A page may have 30 MB."""
    received, text = 0, json.dumps({"items": [{"text": "x" * 1000}] * 100}, separators=(",", ":"))

    async def counted() -> AsyncIterator[bytes]:
        nonlocal received
        async for chunk in chunks(text, 100):
            received += len(chunk)
            yield chunk

    yielded = 0
    async for _ in ListPage(counted()).items():
        yielded += 1
        assert received <= 1000 * (yielded + 2)
    assert yielded == 100


async def test_other_tasks_run_between_two_objects() -> None:
    page, order = ListPage(chunks('{"metadata":{},"items":[{"n":1},{"n":2}]}')), list[object]()

    async def other() -> None:
        order.append("other")

    running = None
    async for item in page.items():
        order.append(item["n"])
        running = running or asyncio.create_task(other())
    assert order == [1, "other", 2]
