"""Models of the StreamConsumer resource: fields, rules and status.

The modules perform no I/O and import neither kopf nor redis. Import order: names → fields → processor_settings → spec →
status → crd; no module imports a module to its right. Only this package contains the definitions on which the operator
and the processor must agree.
"""
