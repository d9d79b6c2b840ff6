"""Components that handle a message, from its admission to the in-flight table to its settlement."""
