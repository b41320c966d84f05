"""The bodies of OpenAI's responses: a JSON object to ChatTask. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits
from shoal_gateway.dialects import fields
from shoal_gateway.dialects.responses_items import Item, items_of, messages_of
from shoal_gateway.dialects.responses_options import (
    choice_of,
    format_of,
    metadata_of,
    tools_of,
)
from shoal_gateway.task import ChatTask, Message, Sampling, Thinking

# Read here, or accepted without effect on a local model.
KNOWN_FIELDS = frozenset(
    [
        "model", "input", "instructions", "stream", "stream_options", "background", "store",
        "previous_response_id", "tools", "tool_choice", "parallel_tool_calls", "max_tool_calls",
        "text", "reasoning", "max_output_tokens", "temperature", "top_p", "top_logprobs",
        "include", "metadata", "truncation", "service_tier", "user", "safety_identifier",
        "prompt_cache_key", "prompt_cache_retention", "conversation", "prompt", "personality",
    ]
)  # fmt: skip
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
LOGPROBS = "message.output_text.logprobs"
INCLUDABLE = (
    LOGPROBS, "reasoning.encrypted_content", "message.input_image.image_url",
    "file_search_call.results", "web_search_call.results", "web_search_call.action.sources",
    "computer_call_output.output.image_url", "code_interpreter_call.outputs",
)  # fmt: skip
_REFUSED = {
    "conversation": "conversations are not kept here; chain with 'previous_response_id'",
    "prompt": "prompt templates are not kept here; send 'instructions' and 'input'",
}
_ECHOED = (
    "instructions", "max_output_tokens", "max_tool_calls", "previous_response_id",
    "prompt_cache_retention", "service_tier", "temperature", "top_p",
)  # fmt: skip
# The published schema knows no null for them.
_ECHOED_IF_GIVEN = ("prompt_cache_key", "safety_identifier", "user")


@dataclass(frozen=True)
class ResponsesRequest:
    """A parsed body. `items` are its own, before those of the turns it continues; `echo` is what
    every object of the answer repeats."""

    items: tuple[Item, ...]
    instructions: str
    previous_response_id: str
    is_stream: bool
    is_background: bool
    # None where the body does not say.
    wants_store: bool | None
    truncates: bool
    # All but the messages.
    base: ChatTask
    echo: Mapping[str, Any] = field(repr=False)

    def task(self, items: Sequence[Item]) -> ChatTask:
        """The task of answering `items`, which are those of earlier turns and the own ones."""
        system = (Message("system", self.instructions),) if self.instructions else ()
        return replace(self.base, messages=(*system, *messages_of(items)))


def new_response_id() -> str:
    return f"resp_{secrets.token_hex(16)}"


def parse(body: dict[str, Any], response_id: str, is_strict: bool = False) -> ResponsesRequest:
    """Raises InvalidRequest naming the first field that is wrong."""
    given = fields.present(body)
    extras = fields.unknown(given, KNOWN_FIELDS, is_strict)
    for param, hint in _REFUSED.items():
        if param in given:
            raise InvalidRequest(f"'{param}' is not supported: {hint}", param=param)
    if "input" not in given:
        raise InvalidRequest("'input' is required", param="input")
    is_background = fields.boolean(given, "background", False)
    wants_store = fields.boolean(given, "store", True) if "store" in given else None
    if is_background and wants_store is False:
        raise InvalidRequest("'background' needs 'store' to be true", param="background")
    base = _base(given, extras)
    return ResponsesRequest(
        items=items_of(given["input"], response_id),
        instructions=limits.as_text(given.get("instructions", ""), "instructions"),
        previous_response_id=given.get("previous_response_id", ""),
        is_stream=base.is_streamed,
        is_background=is_background,
        wants_store=wants_store,
        truncates=_word(given, "truncation", ("auto", "disabled"), "disabled") == "auto",
        base=base,
        echo=_echo(given),
    )


def _base(given: dict[str, Any], extras: Mapping[str, Any]) -> ChatTask:
    choice, tools = choice_of(given, tools_of(given))
    top_logprobs = fields.integer(given, "top_logprobs", 0, limits.TOP_LOGPROBS_MAX) or 0
    wants_logprobs = LOGPROBS in _include(given)
    return ChatTask(
        model=fields.model_name(given),
        messages=(),
        sampling=Sampling(
            temperature=fields.number(given, "temperature", 0.0, 2.0),
            top_p=fields.number(given, "top_p", 0.0, 1.0),
        ),
        max_tokens=fields.integer(given, "max_output_tokens", 1, limits.TOKENS_MAX),
        tools=tools,
        tool_choice=choice,
        allows_parallel_calls=fields.boolean(given, "parallel_tool_calls", True),
        reply_format=format_of(limits.as_object(given.get("text", {}), "text")),
        logprobs=wants_logprobs,
        top_logprob_count=top_logprobs if wants_logprobs else 0,
        thinking=_thinking(given),
        is_streamed=fields.boolean(given, "stream", False),
        extras=extras,
    )


def _include(given: dict[str, Any]) -> list[str]:
    entries = limits.as_list(given.get("include", []), "include", len(INCLUDABLE) * 2)
    for index, entry in enumerate(entries):
        if entry not in INCLUDABLE:
            raise InvalidRequest(
                f"'include[{index}]' must be one of {', '.join(INCLUDABLE)}",
                param=f"include[{index}]",
            )
    return entries


def _thinking(given: dict[str, Any]) -> Thinking:
    reasoning = limits.as_object(given.get("reasoning", {}), "reasoning")
    effort = reasoning.get("effort")
    if effort is None:
        return Thinking()
    if effort not in EFFORTS:
        raise InvalidRequest(
            f"'reasoning.effort' must be one of {', '.join(EFFORTS)}", param="reasoning.effort"
        )
    return Thinking("off" if effort == "none" else effort)


def _echo(given: dict[str, Any]) -> dict[str, Any]:
    """What the answer's objects say of the request; the checks are those that are left."""
    for param in _ECHOED_IF_GIVEN:
        fields.short_text(given, param)
    fields.integer(given, "max_tool_calls", 0, 2**31 - 1)
    _word(given, "prompt_cache_retention", ("in_memory", "24h"), "in_memory")
    tiers = ("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")
    echo = {name: given.get(name) for name in _ECHOED}
    echo |= {name: given[name] for name in _ECHOED_IF_GIVEN if name in given}
    return echo | {
        "service_tier": _word(given, "service_tier", tiers, "default"),
        "truncation": _word(given, "truncation", ("auto", "disabled"), "disabled"),
        "metadata": metadata_of(given),
        "parallel_tool_calls": given.get("parallel_tool_calls", True),
        "reasoning": _reasoning(given),
        "text": _text(given),
        "tools": [_tool(tool) for tool in given.get("tools", [])],
        "tool_choice": given.get("tool_choice", "auto"),
        "top_logprobs": given.get("top_logprobs", 0),
    }


def _reasoning(given: dict[str, Any]) -> dict[str, Any]:
    reasoning = limits.as_object(given.get("reasoning", {}), "reasoning")
    words = ("auto", "concise", "detailed")
    if reasoning.get("summary") is not None and reasoning["summary"] not in words:
        raise InvalidRequest(
            f"'reasoning.summary' must be one of {', '.join(words)}", param="reasoning.summary"
        )
    return {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")}


def _text(given: dict[str, Any]) -> dict[str, Any]:
    text = limits.as_object(given.get("text", {}), "text")
    verbosity = text.get("verbosity") or "medium"
    if verbosity not in ("low", "medium", "high"):
        raise InvalidRequest(
            "'text.verbosity' must be one of low, medium, high", param="text.verbosity"
        )
    return {"format": text.get("format") or {"type": "text"}, "verbosity": verbosity}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool["name"],
        "description": tool.get("description"),
        "parameters": tool.get("parameters"),
        "strict": bool(tool.get("strict")),
    }


def _word(given: dict[str, Any], param: str, words: Sequence[str], default: str) -> str:
    word = limits.as_text(given.get(param, default), param)
    if word not in words:
        raise InvalidRequest(f"'{param}' must be one of {', '.join(words)}", param=param)
    return word
