"""The reconcile of a StreamConsumer: parse, apply, prune, observe, write the status."""
