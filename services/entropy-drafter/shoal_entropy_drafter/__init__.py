"""Owns the entropy gate, drafts, the semantic cache and embeddings.

Drafts come from a fleet model or an OpenAI-compatible upstream. Does not know the heavyweight,
HTTP dialects, money.
"""
