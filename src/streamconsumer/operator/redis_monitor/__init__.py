"""The Redis monitor polls the streams of all StreamConsumers.

The reconciler calls `monitor`, which runs one `poller` per namespace and Redis endpoint. All StreamConsumers of a
namespace that use the same endpoint share the poller's connection. `namespace_network` limits the connections of each
namespace, `dns` looks up hosts, and `destinations` decides which addresses are allowed. `secret_resolver` builds the
connection settings from a StreamConsumer and its Secrets. `probe` defines the commands and parses the replies, and
`stream_health` decides whether a stream is degraded. `wakeup` waits for the next entry in the streams of
StreamConsumers that are scaled to zero.

The monitor never writes to Redis, because the operator may reach servers that a NetworkPolicy hides from the author of
a StreamConsumer. Instead, the pods create groups and delete consumers over their own network connections.

The pods do not depend on the monitor. If polling fails, a condition shows the cause, and the pods continue to process
messages.
"""
