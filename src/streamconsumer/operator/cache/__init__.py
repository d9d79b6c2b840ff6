"""From a watch event to a reconcile: the object cache, the debounce of creates, and the work queue."""
