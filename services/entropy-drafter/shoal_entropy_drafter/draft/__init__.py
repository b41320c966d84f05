"""Drafts: tokens as they are written, each with how uncertain the drafter was of it.

Owns the two sources, a model of the fleet and an OpenAI-compatible upstream. Does not know what
the gate makes of a draft, nor the cache.
"""
