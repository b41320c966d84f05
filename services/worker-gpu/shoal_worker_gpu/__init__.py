"""The worker: an agent that supervises engine children, one per (model, layer range).

Owns the step loop, KV, sampling and the frames between stages; speaks token ids. Does not know
text, HTTP dialects or money.
"""
