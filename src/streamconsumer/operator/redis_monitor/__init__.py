"""Redis monitor: polls the streams of all StreamConsumers, and creates and cleans up consumer groups.

The reconciler calls `monitor`, which keeps one `poller` per Redis endpoint. All StreamConsumers of an endpoint share
its connection. `secret_resolver` builds the connection settings from a resource and its Secrets. `probe` has the
commands and parses the replies, and `stream_health` decides when a stream is degraded. `group_admin` writes to Redis:
it creates a missing group and deletes consumers of terminated pods. `wakeup` waits for the first entry of streams
without pods.

No pod depends on the monitor. If polling fails, a condition shows the cause and the pods continue.
"""
