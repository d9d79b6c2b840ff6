"""How a Redis server is reached, and what pods and operator both know of it.

Where it is (topology) and how to get in (access) is found anew at each connect (connections). keys, replies, scripts
and faults are what is agreed on: names beside a stream, the shape of answers, Lua, and what an error means. Nothing is
imported here: keys and faults do without redis, and so does who needs only those.
"""
