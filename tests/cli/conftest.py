"""Clusters for the commands that look into one."""

from tests.operator.conftest import api, on_api

__all__ = ["api", "on_api"]
