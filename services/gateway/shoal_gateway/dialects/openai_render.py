"""The answers of OpenAI's chat completions as JSON objects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from shoal_common.errors import InvalidRequest, ShoalError
from shoal_gateway.task import Finished, TextDelta, TokenLogprob, Usage

ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class ChatRenderer:
    """One answer; all its parts share id, time and model name. `wants_logprobs` as was asked."""

    response_id: str
    created: int
    model: str
    wants_logprobs: bool = False
    wants_usage: bool = False

    def first_chunk(self) -> dict[str, Any]:
        return self._chunk([_choice({"role": "assistant", "content": ""})])

    def text_chunk(self, delta: TextDelta) -> dict[str, Any]:
        logprobs = _logprobs(delta.logprobs) if self.wants_logprobs else None
        return self._chunk([_choice({"content": delta.text}, logprobs=logprobs)])

    def last_chunks(self, finished: Finished) -> list[dict[str, Any]]:
        """The finish reason, then the usage where it was asked for."""
        chunks = [self._chunk([_choice({}, finish_reason=finished.reason)])]
        if self.wants_usage:
            chunks.append(self._chunk([]) | {"usage": _usage(finished.usage)})
        return chunks

    def whole(self, deltas: Iterable[TextDelta], finished: Finished) -> dict[str, Any]:
        parts = list(deltas)
        message = {
            "role": "assistant",
            "content": "".join(part.text for part in parts),
            "refusal": None,
        }
        entries = tuple(entry for part in parts for entry in part.logprobs)
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": finished.reason,
            "logprobs": _logprobs(entries) if self.wants_logprobs else None,
        }
        return self._envelope("chat.completion", [choice]) | {"usage": _usage(finished.usage)}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = self._envelope("chat.completion.chunk", choices)
        return chunk | {"usage": None} if self.wants_usage else chunk

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.response_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def error_object(error: ShoalError) -> dict[str, Any]:
    """The body of an error, on the wire or inside a stream."""
    default = "invalid_request_error" if error.http_status < 500 else "server_error"
    return {
        "error": {
            "message": str(error),
            "type": ERROR_TYPES.get(error.http_status, default),
            "param": error.param if isinstance(error, InvalidRequest) else None,
            "code": error.reason.lower(),
        }
    }


def _choice(
    delta: dict[str, Any], finish_reason: str | None = None, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": logprobs}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _logprobs(entries: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    return {"content": [_logprob(entry) for entry in entries], "refusal": None}


def _logprob(entry: TokenLogprob) -> dict[str, Any]:
    top = [_candidate(candidate) for candidate in entry.top]
    return _candidate(entry) | {"top_logprobs": top}


def _candidate(entry: TokenLogprob) -> dict[str, Any]:
    return {"token": entry.text, "logprob": entry.logprob, "bytes": list(entry.data)}
