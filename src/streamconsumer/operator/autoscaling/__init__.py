"""Autoscaling: the number of pods of a StreamConsumer, and which pods Kubernetes deletes first."""
