"""The client of OpenAI-compatible upstreams, for drafts and for embeddings.

Imported only by what calls an upstream: the SDK is large.
"""

from __future__ import annotations

import logging

from openai import AsyncOpenAI

# What local servers without keys are sent: the SDK wants one.
_NO_KEY = "unused"
# They write a line with the whole URL for every request.
_TALKATIVE = ("openai", "httpx2", "httpcore2")


def upstream_client(base_url: str, api_key: str, timeout_s: float, retries_max: int) -> AsyncOpenAI:
    """Opens no connection yet. timeout_s: of one silence; api_key "" for none."""
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    client = AsyncOpenAI(
        api_key=api_key or _NO_KEY, base_url=base_url, timeout=timeout_s, max_retries=retries_max
    )
    # Read from the environment by the SDK; they are nobody's business but OpenAI's.
    client.organization = client.project = None
    return client
