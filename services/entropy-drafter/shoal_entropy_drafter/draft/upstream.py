"""Drafts by any OpenAI-compatible upstream: text, with the candidates of each token.

Owns the call and the meaning of its failures. Does not know settings; errors name the option to
look at. Neither the upstream's words nor the SDK's errors are passed on: they may quote the key or
the prompt.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import openai

from shoal.drafter.v1 import drafter_pb2
from shoal_entropy_drafter.draft.base import DraftEvent
from shoal_entropy_drafter.draft.body import body_of
from shoal_entropy_drafter.draft.chunks import ChunkReader
from shoal_entropy_drafter.errors import DraftFailed
from shoal_entropy_drafter.upstream_client import upstream_client

RETRIES_MAX = 1
"""Tries beyond the first, all within the draft's time: the heavyweight is waiting."""
_OPTION_BY_STATUS = {401: "drafter_api_key", 403: "drafter_api_key", 404: "drafter_model"}


class UpstreamDrafts:
    """A `DraftSource` over HTTP."""

    kind = drafter_pb2.DRAFTER_KIND_UPSTREAM

    def __init__(
        self,
        model: str,
        base_url: str,
        api_key: str,
        timeout_s: float,
        candidate_count: int,
        retries_max: int = RETRIES_MAX,
    ) -> None:
        """timeout_s: of one silence; the whole draft's time is its caller's. Opens nothing yet."""
        self._model = model
        self._candidate_count = candidate_count
        self._client = upstream_client(base_url, api_key, timeout_s, retries_max)
        self._is_closed = False

    def check(self, request: drafter_pb2.AnswerRequest) -> None:
        """Any task will do; one that an upstream cannot draft is escalated."""

    async def draft(
        self, request: drafter_pb2.AnswerRequest, remaining_s: float
    ) -> AsyncGenerator[DraftEvent, None]:
        """See `DraftSource.draft`."""
        body = body_of(request.task, self._model, self._candidate_count)
        reader = ChunkReader(self._candidate_count)
        try:
            stream = await self._client.chat.completions.create(**body)
            async with stream:
                async for chunk in stream:
                    tokens = reader.take(chunk)
                    if tokens is not None:
                        yield tokens
        except openai.OpenAIError as err:
            raise _failure(err) from None
        except ValueError:
            # A line that is no JSON; its text is in the error.
            raise DraftFailed("the upstream's stream cannot be read") from None
        except RuntimeError:
            # A try on a closed client.
            if not self._is_closed:
                raise
            raise DraftFailed("the service is ending") from None
        yield reader.ended()

    async def close(self) -> None:
        """Close the connections."""
        self._is_closed = True
        await self._client.close()


def _failure(error: openai.OpenAIError) -> DraftFailed:
    """What an error of the SDK means for the draft, without its words."""
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        option = _OPTION_BY_STATUS.get(status, "drafter_model" if 400 <= status < 500 else "")
        if status in (408, 409, 429):
            option = ""
        return DraftFailed(f"the upstream answered HTTP {status}", option=option)
    if isinstance(error, openai.APITimeoutError):
        problem = "the upstream was silent for too long"
        return DraftFailed(problem, verdict_reason="timeout", option="drafter_timeout_s")
    if isinstance(error, openai.APIConnectionError):
        problem = "the upstream cannot be reached, or broke off"
        return DraftFailed(problem, option="drafter_base_url")
    return DraftFailed("the upstream ended its stream with an error")
