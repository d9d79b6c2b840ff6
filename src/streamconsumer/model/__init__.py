"""What a StreamConsumer is. Pure: no I/O, no kopf, no redis.

names → fields → settings → spec → status → crd: each file builds on the one before. What the operator and
the processor agree on stands here and nowhere else.
"""
