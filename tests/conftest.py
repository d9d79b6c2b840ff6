"""Fixtures and settings of all tests."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.cluster.fixtures"]

# Input generation is slow on a machine with other load, which is no failure of the test.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
