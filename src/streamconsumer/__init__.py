"""StreamConsumer: Python functions as Redis Streams consumers on Kubernetes.

Packages and import direction: `cli → operator | processor → redis_client → model → errors`. This module re-exports
nothing, because a re-export would make the operator import redis and make every pod import kopf.
"""

__version__ = "0.1.0"
