"""The reconcile of a StreamConsumer: parse the spec, apply and prune children, observe the pods, write the status."""
