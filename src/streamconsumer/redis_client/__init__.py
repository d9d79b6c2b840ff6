"""Access to a Redis server, shared by the pods, the operator and the CLI.

`topology` finds the address of the server. `credentials` reads the URL, passwords and certificates. `connection` uses
`topology` and `credentials` at each connect. `pipeline_client` sends many commands in one round trip. `keys` names the
companion keys, `replies` parses replies, `scripts` contains the Lua scripts, and `errors_table` contains the meaning of
each error. This module imports nothing, so that `keys` and `errors_table` can be imported without loading the redis
package.
"""
