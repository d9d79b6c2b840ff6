"""The user's handler: loading, calling over HTTP, outcomes and effects."""
