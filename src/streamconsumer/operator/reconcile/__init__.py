"""Reconciles a StreamConsumer: parses the spec, applies and prunes children, observes the pods, writes the status."""
