"""The fixtures of the processor's tests, because a processor is the client that these tests observe."""

from tests.processor.conftest import any_group, group, new_pod

__all__ = ["any_group", "group", "new_pod"]
