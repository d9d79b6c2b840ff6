"""The user's function: loading it, calling it over HTTP, its outcomes and its effects."""
