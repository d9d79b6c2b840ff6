"""What runs once per cluster: makes it hold what each StreamConsumer asks for, and says so in its status.

handlers (kopf watches, nothing else) → queue → reconcile → manifests (pure) → cluster (the only user of the
Kubernetes API). Importing this package imports neither kopf nor kubernetes: the CLI renders with `manifests` alone.
"""
