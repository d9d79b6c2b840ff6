from collections.abc import Iterator

import pytest

from streamconsumer.model import names
from streamconsumer.model.crd import custom_resource_definition
from tests.cluster.api_server import ApiServer
from tests.cluster.control_plane import ControlPlane
from tests.cluster.errors import ProgramFailed
from tests.cluster.namespaces import fresh_namespace
from tests.model.examples import Manifest
from tests.operator.namespace import Namespace, eventually
from tests.operator.operator_process import OperatorProcess, running_operator


def install_crd(cluster: ApiServer, definition: Manifest | None = None) -> None:
    """Apply the definition, or this one, and wait until StreamConsumers can be listed."""
    cluster.apply(definition or custom_resource_definition())

    def served() -> None:
        try:
            cluster.request("GET", f"/apis/{names.API_VERSION}/{names.PLURAL}")
        except ProgramFailed as failure:
            raise AssertionError(str(failure)) from None

    eventually(served)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of one server to one worker under `--dist loadgroup`: one server of each kind is enough."""
    for item in items:
        for server in {"api", "control_plane_with_crd"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group(server))


@pytest.fixture(scope="session")
def api(api_server: ApiServer) -> ApiServer:
    """An API server that knows StreamConsumers. Nothing moves there but what a test starts."""
    install_crd(api_server)
    return api_server


@pytest.fixture(scope="session")
def control_plane_with_crd(control_plane: ControlPlane) -> ControlPlane:
    """The same with Kubernetes' own controllers: Deployments make pods, owners take their children along."""
    install_crd(control_plane)
    return control_plane


@pytest.fixture
def api_namespace(api: ApiServer) -> Iterator[Namespace]:
    """A fresh namespace on `api`."""
    with fresh_namespace(api) as name:
        yield Namespace(api, name)


@pytest.fixture
def plane_namespace(control_plane_with_crd: ControlPlane) -> Iterator[Namespace]:
    """A fresh namespace on `control_plane_with_crd`, for tests that start an operator of their own."""
    with fresh_namespace(control_plane_with_crd) as name:
        yield Namespace(control_plane_with_crd, name)


@pytest.fixture(scope="module")
def operator(
    control_plane_with_crd: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """The operator that serves `operator_namespace`."""
    with (
        fresh_namespace(control_plane_with_crd) as name,
        running_operator(
            control_plane_with_crd.kubeconfig, tmp_path_factory.mktemp("operator"), watch_namespaces=name
        ) as operator,
    ):
        yield operator


@pytest.fixture
def operator_namespace(operator: OperatorProcess, control_plane_with_crd: ControlPlane) -> Namespace:
    """The namespace that `operator` serves. Tests share it: each gives its StreamConsumers names of its own."""
    return Namespace(control_plane_with_crd, operator.environment["STREAMCONSUMER_OPERATOR_WATCH_NAMESPACES"])
