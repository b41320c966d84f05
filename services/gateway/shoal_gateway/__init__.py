"""The front door: HTTP dialects in, events out.

Owns a request from its first byte to its last: key, limits, chat template, token ids, plan, text,
stop strings. Does not know how layers are split, what a tensor is, or where weights lie.
"""
