"""What is asked of the world before the service starts, so that a mistake does not show as quality.

An upstream that gives no candidates would escalate every request, and nobody would know why.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from shoal.common.v1 import chat_pb2
from shoal.drafter.v1 import drafter_pb2
from shoal_common.log import redact
from shoal_entropy_drafter.draft.base import DraftSource, DraftTokens
from shoal_entropy_drafter.errors import DraftFailed
from shoal_entropy_drafter.refusals import refusal
from shoal_entropy_drafter.settings import Settings

log = logging.getLogger(__name__)

_QUESTION = "Say hello."
_TOKENS_MAX = 8


async def check_drafter(source: DraftSource, settings: Settings) -> None:
    """Have an upstream draft a word. Raises ConfigurationError naming the option and the remedy.

    One that is reached but has no time now is warned of and taken.
    """
    try:
        async with asyncio.timeout(settings.drafter_timeout_s):
            known_count, token_count = await _sample(source)
    except TimeoutError as err:
        raise refusal(
            "drafter_base_url",
            f"{redact(settings.drafter_base_url)} did not draft a word within "
            f"{settings.drafter_timeout_s:g} s: start it, or raise drafter_timeout_s",
        ) from err
    except DraftFailed as err:
        if not err.option:
            log.warning("drafter not checked", extra={"problem": err.problem})
            return
        raise refusal(err.option, _remedy(err, settings)) from err
    if not known_count:
        raise refusal(
            "drafter_model",
            f"'{settings.drafter_model}' gave no logprobs with any of {token_count} tokens: name a "
            f"model of {redact(settings.drafter_base_url)} that supports logprobs and top_logprobs",
        )


async def _sample(source: DraftSource) -> tuple[int, int]:
    """Tokens of a tiny draft whose candidates are known, and all of them."""
    question = chat_pb2.ChatMessage(
        role=chat_pb2.ROLE_USER, content=[chat_pb2.ContentPart(text=_QUESTION)]
    )
    task = chat_pb2.ChatTask(messages=[question], max_tokens=_TOKENS_MAX)
    request = drafter_pb2.AnswerRequest(task=task)
    known_count = token_count = 0
    async with aclosing(source.draft(request, 0.0)) as events:
        async for event in events:
            if isinstance(event, DraftTokens):
                token_count += len(event.tokens)
                known_count += sum(token.entropy.is_known for token in event.tokens)
    return known_count, token_count


def _remedy(error: DraftFailed, settings: Settings) -> str:
    address = redact(settings.drafter_base_url)
    remedies = {
        "drafter_api_key": "set a key that may complete chats",
        "drafter_model": f"name a model of {address} that supports logprobs and top_logprobs, or "
        f"ask for fewer top_logprobs",
        "drafter_base_url": "start it, or correct the address",
        "drafter_timeout_s": "start it anew, or give it more time",
    }
    return f"{address} does not draft, {error.problem}: {remedies[error.option]}"
