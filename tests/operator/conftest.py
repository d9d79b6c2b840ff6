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
    """Apply the CRD, or the given definition, and wait until StreamConsumers can be listed."""
    cluster.apply(definition or custom_resource_definition())
    wait_until_listed(cluster)


def wait_until_listed(cluster: ApiServer) -> None:
    """Wait until StreamConsumers can be listed."""

    def listed() -> None:
        try:
            cluster.request("GET", f"/apis/{names.API_VERSION}/{names.PLURAL}")
        except ProgramFailed as failure:
            raise AssertionError(str(failure)) from None

    eventually(listed)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of one server in one worker under `--dist loadgroup`: one server of each kind is enough."""
    for item in items:
        for server in {"api", "control_plane_with_crd"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group(server))


@pytest.fixture(scope="session")
def api(api_server: ApiServer) -> ApiServer:
    """An API server with the CRD and without controllers."""
    install_crd(api_server)
    return api_server


@pytest.fixture(scope="session")
def control_plane_with_crd(control_plane: ControlPlane) -> ControlPlane:
    """An API server with the CRD and Kubernetes' own controllers: Deployments create pods, and deletions cascade."""
    install_crd(control_plane)
    return control_plane


@pytest.fixture
def api_namespace(api: ApiServer) -> Iterator[Namespace]:
    """A new namespace on `api`."""
    with fresh_namespace(api) as name:
        yield Namespace(api, name)


@pytest.fixture
def plane_namespace(control_plane_with_crd: ControlPlane) -> Iterator[Namespace]:
    """A new namespace on `control_plane_with_crd`, for tests that start their own operator."""
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
    """The namespace that `operator` serves. Tests share the namespace, and each test uses its own resource names."""
    return Namespace(control_plane_with_crd, operator.environment["STREAMCONSUMER_OPERATOR_WATCH_NAMESPACES"])
