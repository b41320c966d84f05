"""Texts to vectors: by the model that is installed here, or by an OpenAI-compatible upstream.

Owns the two embedders, what they share and how one is chosen (`opening`). Does not know what
vectors are for.
"""
