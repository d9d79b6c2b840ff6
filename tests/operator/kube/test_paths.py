import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from streamconsumer.errors import InvalidResource
from streamconsumer.operator.kube.paths import collection_path, label_selector, object_path
from tests.model.string_fields import ATTACKS

SOURCE = Path(__file__).parents[3] / "src/streamconsumer"


def test_path_names_the_object() -> None:
    assert object_path("v1", "Secret", "shop", "redis.login") == "/api/v1/namespaces/shop/secrets/redis.login"
    assert object_path("apps/v1", "Deployment", "shop", "a", "status") == (
        "/apis/apps/v1/namespaces/shop/deployments/a/status"
    )
    assert collection_path("v1", "Pod", None) == "/api/v1/pods"


@pytest.mark.parametrize("attack", [*ATTACKS.values(), "", "A", "a..b", "-a", "a_b", "a:b", "é", "x" * 254], ids=ascii)
def test_hostile_name_is_refused(attack: str) -> None:
    with pytest.raises(InvalidResource, match=r"Secret .*: must be the name of a Kubernetes object") as caught:
        object_path("v1", "Secret", "shop", attack)
    assert str(caught.value).isprintable()
    with pytest.raises(InvalidResource, match=r"namespace .*: must be the name of a namespace"):
        collection_path("v1", "Secret", attack)
    with pytest.raises(InvalidResource):
        object_path("v1", "Secret", attack, "redis")


@pytest.mark.parametrize("value", ["a,b", "a=b", "a b", "a\n", "a)", "!a", "../x", "x" * 64])
def test_hostile_label_is_refused(value: str) -> None:
    with pytest.raises(InvalidResource):
        label_selector({"app": value})
    with pytest.raises(InvalidResource):
        label_selector({f"{value},x": "a"})


@given(st.text(), st.text(alphabet="abz019-./%?#:\\\n\u2024\uff0f"))
def test_path_has_exactly_the_given_parts(namespace: str, name: str) -> None:
    """aiohttp parses the path with yarl, which resolves `..` and decodes `%2e`."""
    try:
        path = object_path("v1", "Secret", namespace, name)
    except InvalidResource:
        return
    url = URL(f"https://kubernetes{path}")
    assert url.path == unquote(urlsplit(path).path) == f"/api/v1/namespaces/{namespace}/secrets/{name}"
    assert (url.query_string, url.fragment) == ("", "")


def test_only_one_module_builds_paths() -> None:
    modules = [path for path in SOURCE.rglob("*.py") if re.search(r"\"/apis?/|namespaces/\{", path.read_text())]
    assert [path.name for path in modules] == ["paths.py"]


def test_only_one_module_builds_label_selectors() -> None:
    modules = [path for path in SOURCE.rglob("*.py") if re.search(r"LABEL_\w+\}=\{(?!names\.)", path.read_text())]
    assert modules == []
