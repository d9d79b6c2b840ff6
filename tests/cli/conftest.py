"""Fixtures of the Kubernetes API server for the commands that read from a cluster."""

from tests.operator.conftest import api, on_api

__all__ = ["api", "on_api"]
