"""The operator, which runs once per cluster: creates the pods of every StreamConsumer and reports in its status.

`kube/watches` (kopf only watches) → `cache` (object cache, work queue) → `reconcile` → `manifests` (pure) →
`kube/client` (the Kubernetes API). `redis_monitor` polls the streams, and `autoscaling` decides the number of pods.
Importing this package imports neither kopf nor kubernetes: the CLI renders with `manifests` alone.
"""
