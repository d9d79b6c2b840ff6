"""Access to a Redis server, shared by the pods, the operator and the CLI.

topology finds the address, credentials reads URL, passwords and certificates, and connection combines both at each
connect. pipeline_client sends many commands in one round trip. keys, replies, scripts and errors_table hold what the
callers have in common: companion keys, reply parsing, Lua scripts and the meaning of errors. This module imports
nothing, because keys and errors_table work without redis and can be loaded without it.
"""
