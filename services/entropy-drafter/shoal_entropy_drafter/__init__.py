"""Owns the entropy gate, drafts (from a fleet model or an OpenAI-compatible upstream), the semantic cache, embeddings.

Does not know the heavyweight, HTTP dialects, money.
"""
