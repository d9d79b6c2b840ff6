"""Autoscaling decides the number of pods of a StreamConsumer, and which of its pods Kubernetes deletes first."""
