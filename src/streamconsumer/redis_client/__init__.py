"""Access to a Redis server, shared by the pods, the operator and the CLI.

`topology` finds the address of the server. `credentials` reads the URL, passwords and certificates. `connection` uses
`topology` and `credentials` at each connect. `pipeline_client` sends many commands in one round trip. `keys`,
`replies`, `scripts` and `errors_table` define companion keys, reply parsing, Lua scripts and the meaning of errors for
all callers. This module imports nothing, so that `keys` and `errors_table` can be imported without loading the redis
package.
"""
