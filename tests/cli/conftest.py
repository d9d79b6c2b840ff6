"""Fixtures of the Kubernetes API server for the commands that read from a cluster."""

from tests.operator.conftest import api, api_namespace

__all__ = ["api", "api_namespace"]
