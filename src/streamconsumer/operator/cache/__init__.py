"""The steps from a watch event to a reconcile: object cache, debounce of new StreamConsumers, and work queue."""
