"""StreamConsumer: Python functions as Redis Streams consumers on Kubernetes.

Rooms, and the one way the arrows go: `cli → operator | processor → server → model → errors`.
Nothing is re-exported here: it would drag redis into the operator and kopf into every pod.
"""

__version__ = "0.1.0"
