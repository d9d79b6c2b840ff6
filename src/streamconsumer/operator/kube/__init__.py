"""The Kubernetes API: requests, watches, the leader lease and Events."""
