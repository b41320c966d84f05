"""Tool calls in the text of this fleet's own models.

Owns how each family of models writes a call, how calls are read while they arrive, and the grammar
that forces one. Knows nothing of requests on the wire, nor of how a reply is generated.
"""
