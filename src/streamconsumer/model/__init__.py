"""Models of the StreamConsumer resource: fields, rules and status. Pure: no I/O, no kopf, no redis.

Import order: names → fields → processor_settings → spec → status → crd; each module builds on the previous modules.
Everything that the operator and the processor must agree on is defined here and nowhere else.
"""
