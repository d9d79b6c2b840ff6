"""The operator runs once per cluster, creates the pods of every StreamConsumer and writes every StreamConsumer's
status.

An event passes through `kube/watches` (uses kopf, but only for watches), `cache` (object cache and work queue),
`reconcile`, `manifests` (no side effects) and `kube/client` (requests to the Kubernetes API). `redis_monitor` polls the
streams, and `autoscaling` decides the number of pods. Importing this package does not import kopf or kubernetes, so
that the CLI can render manifests without these packages.
"""
