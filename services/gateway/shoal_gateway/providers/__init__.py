"""Models that others host: which there are, their keys, their wires, their failures.

Owns every outgoing HTTP call to a provider. Does not know the client's dialect.
"""
