"""Two operators with different settings that watch the same namespace by mistake."""

import time
from pathlib import Path

from tests.model.examples import manifest
from tests.operator.namespace import Namespace, eventually
from tests.operator.operator_process import running_operator


def test_operators_do_not_overwrite_each_other_without_a_pause(api_namespace: Namespace, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    kubeconfig, watched = api_namespace.cluster.kubeconfig, {"watch_namespaces": api_namespace.name}
    with (
        running_operator(kubeconfig, folders[0], processor_image="first:1", **watched) as operator,
        running_operator(kubeconfig, folders[1], processor_image="second:1", **watched),
    ):
        api_namespace.create(manifest(image=...))
        eventually(lambda: api_namespace.get("Deployment", "orders-consumer"))
        time.sleep(5)
        assert api_namespace.get("Deployment", "orders-consumer")["metadata"]["generation"] < 30
        assert operator.logged("another client changes a managed object repeatedly; delaying the next repair")
