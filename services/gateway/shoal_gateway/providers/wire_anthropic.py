"""ChatTask to the body of Anthropic's messages. Pure."""

from __future__ import annotations

import base64
import json
from typing import Any

from shoal_common.errors import InvalidRequest
from shoal_gateway.providers.table import Endpoint
from shoal_gateway.task import (
    CachePoint,
    ChatTask,
    Image,
    Message,
    ReplyFormat,
    Thought,
    ToolCall,
)

# The least that Anthropic takes is 1024.
_BUDGETS = {"minimal": 1024, "low": 2048, "on": 8192, "medium": 8192, "high": 16384, "xhigh": 32768}
_JSON_ONLY = "Answer with one JSON object and nothing else."


def body_of(task: ChatTask, endpoint: Endpoint, max_tokens_default: int) -> dict[str, Any]:
    """Always asks for a stream. Knobs that Anthropic does not know are left out.

    Raises InvalidRequest for what cannot be left out without changing the answer's meaning.
    """
    if task.adapter_id:
        raise InvalidRequest(
            f"provider '{endpoint.name}' has no adapters of yours", param="lora_adapter"
        )
    body: dict[str, Any] = {
        "model": endpoint.model,
        "max_tokens": task.max_tokens or max_tokens_default,
        "stream": True,
    }
    body |= prompt_of(task)
    thinking = _thinking(task)
    body |= thinking
    is_thinking = thinking.get("thinking", {}).get("type") == "enabled"
    if is_thinking:
        if task.thinking.budget_tokens is None:
            # Part of max_tokens there; who named no budget means the answer.
            body["max_tokens"] += thinking["thinking"]["budget_tokens"]
        if body.get("tool_choice", {}).get("type") in ("any", "tool"):
            body["tool_choice"] = {"type": "auto"}
    else:
        body |= _sampling(task)
    if stops := [stop for stop in task.stop if stop.strip()]:
        body["stop_sequences"] = stops
    return body


def prompt_of(task: ChatTask) -> dict[str, Any]:
    """What counts as prompt: system, messages, tools."""
    system: list[dict[str, Any]] = []
    for message in task.messages:
        if message.role == "system":
            system += _cached(message, _text_and_images(message))
    body: dict[str, Any] = {"messages": _messages(task.messages)}
    if task.reply_format is not None:
        body |= _reply_format(task.reply_format, system)
    if any("cache_control" in block for block in system):
        body["system"] = system
    elif system:
        body["system"] = "\n\n".join(block["text"] for block in system)
    return body | _tools(task)


def _messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Neighbours of one side become one message, as their turns must alternate."""
    written: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "system":
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(message)
        if written and written[-1]["role"] == role:
            written[-1]["content"] += blocks
        elif blocks:
            written.append({"role": role, "content": blocks})
    if not written:
        raise InvalidRequest("'messages' must hold more than system messages", param="messages")
    return written


def _blocks(message: Message) -> list[dict[str, Any]]:
    if message.role == "tool":
        content = _text_and_images(message)
        result: dict[str, Any] = {"type": "tool_result", "tool_use_id": message.tool_call_id}
        if content:
            result["content"] = content
        if message.is_error:
            result["is_error"] = True
        return _cached(message, [result])
    blocks = _text_and_images(message) + [_tool_use(call) for call in message.tool_calls]
    thoughts = _thoughts(message) if message.role == "assistant" else []
    return thoughts + _cached(message, blocks)


def _thoughts(message: Message) -> list[dict[str, Any]]:
    """Without a signature nobody could tell that they were really thought."""
    blocks: list[dict[str, Any]] = []
    for thought in message.thoughts or (Thought(message.reasoning, message.signature),):
        if thought.sealed:
            blocks.append({"type": "redacted_thinking", "data": thought.sealed})
        elif thought.signature:
            signed = {"thinking": thought.text, "signature": thought.signature}
            blocks.append({"type": "thinking"} | signed)
    return blocks


def _text_and_images(message: Message) -> list[dict[str, Any]]:
    """The message's text, cut where images stand, and where the prompt is kept up to."""
    points = [point for point in message.cache_points if point.offset < len(message.text)]
    cuts: list[tuple[int, int, Image | CachePoint]]
    cuts = [(image.offset, 0, image) for image in message.images]
    cuts += [(point.offset, 1, point) for point in points]
    blocks: list[dict[str, Any]] = []
    start = 0
    for offset, _, cut in sorted(cuts, key=lambda each: each[:2]):
        blocks += _text_block(message.text[start:offset])
        start = max(start, offset)
        if isinstance(cut, Image):
            blocks.append(_image_block(cut))
        elif blocks:
            blocks[-1]["cache_control"] = {"type": "ephemeral", "ttl": cut.ttl}
            # Blocks of the client's were put together with a line's end between them.
            start += message.text.startswith("\n", start)
    return blocks + _text_block(message.text[start:])


def _cached(message: Message, blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same blocks, the last with the cache point at the message's end if there is one."""
    for point in message.cache_points:
        if point.offset >= len(message.text) and blocks:
            blocks[-1]["cache_control"] = {"type": "ephemeral", "ttl": point.ttl}
    return blocks


def _text_block(text: str) -> list[dict[str, Any]]:
    """Empty ones are refused."""
    return [{"type": "text", "text": text}] if text.strip() else []


def _image_block(image: Image) -> dict[str, Any]:
    if image.url:
        return {"type": "image", "source": {"type": "url", "url": image.url}}
    data = base64.b64encode(image.data).decode()
    source = {"type": "base64", "media_type": image.media_type, "data": data}
    return {"type": "image", "source": source}


def _tool_use(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        # Models write broken calls; the conversation must go on all the same.
        arguments = {"arguments": call.arguments}
    return {"type": "tool_use", "id": call.call_id, "name": call.name, "input": arguments}


def _tools(task: ChatTask) -> dict[str, Any]:
    if not task.tools:
        return {}
    tools = []
    for tool in task.tools:
        written: dict[str, Any] = {"name": tool.name}
        if tool.description:
            written["description"] = tool.description
        written["input_schema"] = {"type": "object"} | dict(tool.parameters)
        if tool.is_strict:
            written["strict"] = True
        if tool.cache_ttl:
            written["cache_control"] = {"type": "ephemeral", "ttl": tool.cache_ttl}
        tools.append(written)
    choice: dict[str, Any] = {"type": task.tool_choice.mode}
    if task.tool_choice.mode == "named":
        choice = {"type": "tool", "name": task.tool_choice.name}
    elif task.tool_choice.mode == "required":
        choice = {"type": "any"}
    if not task.allows_parallel_calls and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    fields: dict[str, Any] = {"tools": tools}
    return fields if choice == {"type": "auto"} else fields | {"tool_choice": choice}


def _sampling(task: ChatTask) -> dict[str, Any]:
    """Newer models refuse temperature and top_p together."""
    sampling = task.sampling
    fields: dict[str, Any] = {}
    if sampling.temperature is not None:
        fields["temperature"] = min(sampling.temperature, 1.0)
    elif sampling.top_p is not None:
        fields["top_p"] = sampling.top_p
    if sampling.top_k:
        fields["top_k"] = sampling.top_k
    return fields


def _thinking(task: ChatTask) -> dict[str, Any]:
    level, budget = task.thinking.level, task.thinking.budget_tokens
    if not level or level == "off":
        return {"thinking": {"type": "disabled"}} if level else {}
    last = next((m for m in reversed(task.messages) if m.role == "assistant"), None)
    if last is not None and last.tool_calls and not _thoughts(last):
        # A turn that began without thoughts cannot go on with them.
        return {}
    tokens = max(1024, budget or _BUDGETS.get(level, _BUDGETS["on"]))
    return {"thinking": {"type": "enabled", "budget_tokens": tokens}}


def _reply_format(wanted: ReplyFormat, system: list[dict[str, Any]]) -> dict[str, Any]:
    if wanted.kind == "json_schema":
        schema = json.loads(wanted.text)
        return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    if wanted.kind == "json_object":
        system.append({"type": "text", "text": _JSON_ONLY})
        return {}
    raise InvalidRequest(
        f"Anthropic's models cannot hold their replies to '{wanted.param}'; use a JSON schema",
        param=wanted.param,
    )
