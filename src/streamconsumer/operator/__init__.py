"""The operator creates the pods of all StreamConsumers that it watches, and writes the status of each StreamConsumer.

A watch event passes through these modules, in this order: `kube/watches` (kopf's watches), `cache` (object cache and
work queue), `reconcile`, `manifests` (no side effects) and `kube/client` (requests to the Kubernetes API).
`redis_monitor` polls the streams, and `autoscaling` decides the number of pods. Importing this package does not import
kopf or kubernetes, so that the CLI can render manifests without these packages.
"""
