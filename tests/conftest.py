"""Every test may use the bench of real servers."""

pytest_plugins = ["tests.cluster.fixtures"]
