"""The user's handler: the loader, the HTTP handler, and the outcomes and effects that a handler can use."""
