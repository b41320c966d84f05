"""A ChatTask as the body of an OpenAI-compatible chat completion. Pure.

Text only: what a text draft cannot answer is the heavyweight's, so it raises DraftFailed.
"""

from __future__ import annotations

import json
from typing import Any

from shoal.common.v1 import chat_pb2
from shoal_entropy_drafter.errors import DraftFailed

_ROLES = {
    chat_pb2.ROLE_SYSTEM: "system",
    chat_pb2.ROLE_USER: "user",
    chat_pb2.ROLE_ASSISTANT: "assistant",
}
# Whoever runs the upstream is none of those that a narrower label names.
_FAR = (chat_pb2.PRIVACY_LABEL_UNSPECIFIED, chat_pb2.PRIVACY_LABEL_PUBLIC)


def body_of(task: chat_pb2.ChatTask, model: str, candidate_count: int) -> dict[str, Any]:
    """The request for a stream with candidates and usage. Raises DraftFailed.

    top_k, min_p and the repetition penalty are no part of that API and left out; thoughts of
    earlier turns are, too.
    """
    if task.privacy not in _FAR:
        raise DraftFailed("a privacy label keeps the prompt in the fleet")
    # A choice among tools that nobody offers is no choice.
    if task.tools and task.tool_choice.mode != chat_pb2.TOOL_MODE_NONE:
        raise DraftFailed("the request offers tools", verdict_reason="tool_call")
    if task.sampling.logit_bias:
        raise DraftFailed("token ids of another vocabulary are weighted")
    if task.adapter_id:
        raise DraftFailed("the upstream has no adapters")
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in task.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": True,
        "top_logprobs": candidate_count,
    }
    if task.max_tokens:
        body["max_tokens"] = task.max_tokens
    if task.stop:
        body["stop"] = list(task.stop)
    return body | _sampling(task.sampling) | _response_format(task.response_format)


def _message(message: chat_pb2.ChatMessage) -> dict[str, Any]:
    role = _ROLES.get(message.role)
    if role is None or message.tool_calls or message.tool_call_id:
        raise DraftFailed("the conversation used tools", verdict_reason="tool_call")
    if any(part.WhichOneof("part") == "image" for part in message.content):
        raise DraftFailed("the conversation shows images")
    texts = [part.text for part in message.content if part.WhichOneof("part") == "text"]
    written: dict[str, Any] = {"role": role, "content": "\n".join(texts)}
    if message.name:
        written["name"] = message.name
    return written


def _sampling(sampling: chat_pb2.SamplingSpec) -> dict[str, Any]:
    knobs: dict[str, Any] = {"temperature": _plain(sampling.temperature)}
    if 0 < sampling.top_p < 1:
        knobs["top_p"] = _plain(sampling.top_p)
    if sampling.presence_penalty:
        knobs["presence_penalty"] = _plain(sampling.presence_penalty)
    if sampling.frequency_penalty:
        knobs["frequency_penalty"] = _plain(sampling.frequency_penalty)
    if seed := sampling.seed:
        # Seeds are signed there.
        knobs["seed"] = seed - 2**64 if seed >= 2**63 else seed
    return knobs


def _plain(value: float) -> float:
    """A float32 of the contract as it was written: 0.7, not 0.699999988."""
    return float(f"{value:.7g}")


def _response_format(wanted: chat_pb2.ResponseFormat) -> dict[str, Any]:
    kind = wanted.WhichOneof("format")
    if kind == "json_object" and wanted.json_object:
        return {"response_format": {"type": "json_object"}}
    if kind != "json_schema":
        return {}
    try:
        schema = json.loads(wanted.json_schema)
    except ValueError as err:
        raise DraftFailed("the reply's JSON schema cannot be read") from err
    described = {"name": "reply", "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": described}}
