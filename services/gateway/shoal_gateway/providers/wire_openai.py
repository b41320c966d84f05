"""ChatTask to the body of an OpenAI-type provider. Pure."""

from __future__ import annotations

import base64
import json
from typing import Any

from shoal_common.errors import InvalidRequest
from shoal_gateway.providers.table import Endpoint, Provider
from shoal_gateway.task import ChatTask, Image, Message, ReplyFormat, Tool

_REASONING_MODELS = ("o1", "o3", "o4", "gpt-5")
# Ours to decide, whatever the client put beside the fields we know.
_OURS = frozenset(["model", "messages", "stream", "stream_options", "n", "api_key", "base_url"])


def body_of(task: ChatTask, endpoint: Endpoint) -> dict[str, Any]:
    """Always asks for a stream with usage. What the provider does not know is left out.

    Raises InvalidRequest for what cannot be left out without changing the answer's meaning.
    """
    provider = endpoint.provider
    if task.adapter_id:
        raise InvalidRequest(
            f"provider '{provider.name}' has no adapters of yours", param="lora_adapter"
        )
    body: dict[str, Any] = {key: value for key, value in task.extras.items() if key not in _OURS}
    body |= {
        "model": endpoint.model,
        "messages": messages_of(task, provider),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if task.max_tokens is not None:
        body[provider.max_tokens_field] = task.max_tokens
    body |= _sampling(task, provider) | _tools(task) | _thinking(task, endpoint)
    if task.stop:
        body["stop"] = list(task.stop)
    if task.reply_format is not None:
        body |= _reply_format(task.reply_format, provider)
    if task.logprobs:
        body |= {"logprobs": True, "top_logprobs": task.top_logprob_count}
    if provider.name == "mistral" and "seed" in body:
        body["random_seed"] = body["seed"]
    return {key: value for key, value in body.items() if key not in provider.refused}


def messages_of(task: ChatTask, provider: Provider) -> list[dict[str, Any]]:
    """Images of tool results follow in a user's message: a tool's may hold text only."""
    written: list[dict[str, Any]] = []
    pending: list[Image] = []
    for message in task.messages:
        if pending and message.role != "tool":
            written.append({"role": "user", "content": [_image_part(image) for image in pending]})
            pending = []
        written.append(_message(message, provider))
        if message.role == "tool":
            pending += message.images
    if pending:
        written.append({"role": "user", "content": [_image_part(image) for image in pending]})
    return written


def _message(message: Message, provider: Provider) -> dict[str, Any]:
    written: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.role == "tool":
        written["tool_call_id"] = message.tool_call_id
    elif message.name:
        written["name"] = message.name
    if message.tool_calls:
        written["content"] = message.text or None
        written["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
        if message.reasoning and (provider.wants_reasoning or provider.is_open):
            written["reasoning_content"] = message.reasoning
    return written


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images or message.role == "tool":
        return message.told
    parts: list[dict[str, Any]] = []
    start = 0
    for image in message.images:
        if before := message.text[start : image.offset]:
            parts.append({"type": "text", "text": before})
        parts.append(_image_part(image))
        start = max(start, image.offset)
    if rest := message.text[start:]:
        parts.append({"type": "text", "text": rest})
    return parts


def _image_part(image: Image) -> dict[str, Any]:
    url = image.url
    if not url:
        url = f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _sampling(task: ChatTask, provider: Provider) -> dict[str, Any]:
    sampling = task.sampling
    seed = sampling.seed
    # The task counts seeds from 0, the wire has them signed.
    if seed is not None and seed >= 2**63:
        seed -= 2**64
    knobs: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "seed": seed,
        "logit_bias": {str(k): v for k, v in sampling.logit_bias.items()} or None,
    }
    for name in provider.knobs:
        knobs[name] = getattr(sampling, name)
    return {name: value for name, value in knobs.items() if value is not None}


def _tools(task: ChatTask) -> dict[str, Any]:
    if not task.tools:
        return {}
    fields: dict[str, Any] = {"tools": [_tool(tool) for tool in task.tools]}
    choice = task.tool_choice
    if choice.mode == "named":
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    elif choice.mode != "auto":
        fields["tool_choice"] = choice.mode
    if not task.allows_parallel_calls:
        fields["parallel_tool_calls"] = False
    return fields


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = dict(tool.parameters) or {"type": "object", "properties": {}}
    if tool.is_strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _thinking(task: ChatTask, endpoint: Endpoint) -> dict[str, Any]:
    level, budget = task.thinking.level, task.thinking.budget_tokens
    if level in ("", "on", "off") and endpoint.provider.is_open:
        return {"chat_template_kwargs": {"enable_thinking": level == "on"}} if level else {}
    if level == "on":
        if not endpoint.model.startswith(_REASONING_MODELS) or budget is None:
            return {}
        return {"reasoning_effort": _effort(budget)}
    if level == "off":
        # Models that always think, or never, refuse to be told not to.
        return {"reasoning_effort": "none"} if endpoint.model.startswith("gpt-5.") else {}
    return {"reasoning_effort": level} if level else {}


def _effort(budget_tokens: int) -> str:
    if budget_tokens <= 4096:
        return "low"
    return "medium" if budget_tokens <= 16384 else "high"


def _reply_format(wanted: ReplyFormat, provider: Provider) -> dict[str, Any]:
    if wanted.kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if wanted.kind == "json_schema":
        schema = json.loads(wanted.text)
        described: dict[str, Any] = {"name": wanted.name or "reply", "schema": schema}
        if is_closed(schema):
            described["strict"] = True
        return {"response_format": {"type": "json_schema", "json_schema": described}}
    if not provider.is_open:
        raise InvalidRequest(
            f"provider '{provider.name}' cannot hold its replies to '{wanted.param}'; "
            "use a JSON schema",
            param=wanted.param,
        )
    if wanted.kind == "regex":
        return {"guided_regex": wanted.text}
    return {"guided_choice": list(wanted.choices)}


def is_closed(schema: Any) -> bool:
    """Every object forbids other fields and requires its own: what strict mode demands."""
    if isinstance(schema, list):
        return all(is_closed(part) for part in schema)
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties")
        if not isinstance(properties, dict) or schema.get("additionalProperties") is not False:
            return False
        required = schema.get("required")
        if not isinstance(required, list) or set(properties) - {str(r) for r in required}:
            return False
    return all(is_closed(value) for value in schema.values())
