"""The fixtures of tests that need an API server."""

from tests.operator.conftest import api
from tests.operator.conftest import api_namespace as on_api

__all__ = ["api", "on_api"]
