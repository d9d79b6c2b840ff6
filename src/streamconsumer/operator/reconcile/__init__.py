"""One reconcile: parse, apply, prune, observe, write the status."""
