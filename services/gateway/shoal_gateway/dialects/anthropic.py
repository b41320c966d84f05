"""The bodies of Anthropic's messages: a JSON object to ChatTask. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits
from shoal_gateway.dialects import fields
from shoal_gateway.dialects.anthropic_content import json_text, messages_of
from shoal_gateway.dialects.anthropic_tools import choice_of, tools_of
from shoal_gateway.task import ChatTask, Message, ReplyFormat, Sampling, Thinking

# Read here, or accepted without effect on a local model.
KNOWN_FIELDS = frozenset(
    [
        "model", "messages", "system", "max_tokens", "stream", "temperature", "top_p", "top_k",
        "stop_sequences", "tools", "tool_choice", "thinking", "output_config", "output_format",
        "metadata", "service_tier", "cache_control", "context_management", "inference_geo",
        "speed", "diagnostics", "betas", "user_profile_id", "session_id", "lora_adapter",
        "mcp_servers", "container",
    ]
)  # fmt: skip
# They name machines that stand at Anthropic's.
_HOSTED_FIELDS = ("mcp_servers", "container")
# To the words that all dialects share.
EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "xhigh"}
SERVICE_TIERS = ("auto", "standard_only")
THINKING_TYPES = ("enabled", "disabled", "adaptive")
THINKING_DISPLAYS = ("summarized", "omitted")
BUDGET_TOKENS_MIN = 1024


@dataclass(frozen=True)
class MessagesRequest:
    """A parsed body: the task, and how the answer is to be written.

    hides_thinking: thought blocks come without their text.
    """

    task: ChatTask
    is_stream: bool
    hides_thinking: bool


def parse(body: dict[str, Any], is_strict: bool = False) -> MessagesRequest:
    """Raises InvalidRequest naming the first field that is wrong."""
    if body.get("max_tokens") is None:
        raise InvalidRequest("'max_tokens' is required", param="max_tokens")
    return _request(body, is_strict)


def parse_count(body: dict[str, Any], is_strict: bool = False) -> ChatTask:
    """The body of a question for the prompt's tokens, which needs no `max_tokens`."""
    return _request(body, is_strict).task


def _request(body: dict[str, Any], is_strict: bool) -> MessagesRequest:
    given = fields.present(body)
    extras = fields.unknown(given, KNOWN_FIELDS, is_strict)
    _check_service(given)
    tools = tools_of(given)
    choice, allows_parallel_calls = choice_of(given, tools)
    max_tokens = fields.integer(given, "max_tokens", 1, limits.TOKENS_MAX)
    output = fields.present(limits.as_object(given.get("output_config", {}), "output_config"))
    thinking, hides_thinking = _thinking(given, _effort(output), max_tokens)
    messages = messages_of(given)
    task = ChatTask(
        model=fields.model_name(given),
        messages=messages,
        sampling=Sampling(
            temperature=fields.number(given, "temperature", 0.0, 1.0),
            top_p=fields.number(given, "top_p", 0.0, 1.0),
            top_k=fields.integer(given, "top_k", 0, 2**31 - 1),
        ),
        max_tokens=max_tokens,
        stop=_stop_sequences(given),
        tools=tools,
        tool_choice=choice,
        allows_parallel_calls=allows_parallel_calls,
        reply_format=_reply_format(given, output),
        thinking=thinking,
        session_id=fields.short_text(given, "session_id"),
        adapter_id=fields.short_text(given, "lora_adapter"),
        continues_last=_continues(messages, thinking),
        may_fill_context=True,
        is_streamed=fields.boolean(given, "stream", False),
        extras=extras,
    )
    return MessagesRequest(task, task.is_streamed, hides_thinking)


def _continues(messages: tuple[Message, ...], thinking: Thinking) -> bool:
    """Whether the last message is the beginning of the answer."""
    last = messages[-1]
    if last.role != "assistant":
        return False
    if last.tool_calls:
        problem = "calls tools; send their results as tool_result blocks behind it"
    elif thinking.budget_tokens is not None:
        problem = "begins the answer, which cannot go with thinking"
    elif last.text != last.text.rstrip():
        problem = "begins the answer, so it must not end with white space"
    else:
        return True
    raise InvalidRequest(f"the last of 'messages' {problem}", param="messages")


def _check_service(given: dict[str, Any]) -> None:
    """What says nothing about the answer's text."""
    metadata = limits.as_object(given.get("metadata", {}), "metadata")
    if metadata.get("user_id") is not None:
        limits.as_text(metadata["user_id"], "metadata.user_id")
    _one_of(given.get("service_tier", "auto"), "service_tier", SERVICE_TIERS)
    for param in _HOSTED_FIELDS:
        if given.get(param):
            raise InvalidRequest(
                f"'{param}' needs machines of Anthropic's own, which this endpoint does not have; "
                "offer what they do as tools with an input_schema",
                param=param,
            )


def _stop_sequences(given: dict[str, Any]) -> tuple[str, ...]:
    if isinstance(given.get("stop_sequences"), str):
        raise limits.wrong_type("stop_sequences", "an array of strings", given["stop_sequences"])
    return fields.stop_strings(given, "stop_sequences")


def _effort(output: dict[str, Any]) -> str:
    if "effort" not in output:
        return ""
    return EFFORTS[_one_of(output["effort"], "output_config.effort", tuple(EFFORTS))]


def _thinking(given: dict[str, Any], effort: str, max_tokens: int | None) -> tuple[Thinking, bool]:
    """How much to think, and whether the thoughts' text is hidden."""
    if "thinking" not in given:
        return Thinking(effort), False
    asked = fields.present(limits.as_object(given["thinking"], "thinking"))
    kind = _one_of(asked.get("type"), "thinking.type", THINKING_TYPES)
    display = _one_of(asked.get("display", "summarized"), "thinking.display", THINKING_DISPLAYS)
    hides_thinking = display == "omitted"
    if kind == "disabled":
        return Thinking("off"), hides_thinking
    if kind == "adaptive":
        return Thinking(effort), hides_thinking
    return Thinking(effort or "on", _budget(asked, max_tokens)), hides_thinking


def _budget(asked: dict[str, Any], max_tokens: int | None) -> int:
    param = "thinking.budget_tokens"
    if "budget_tokens" not in asked:
        raise InvalidRequest(f"'{param}' is required with type enabled", param=param)
    budget = limits.as_integer(asked["budget_tokens"], param, BUDGET_TOKENS_MIN, 2**31 - 1)
    if max_tokens is not None and budget >= max_tokens:
        raise InvalidRequest(
            f"'{param}' is {budget}; it must be less than max_tokens, {max_tokens}", param=param
        )
    return budget


def _reply_format(given: dict[str, Any], output: dict[str, Any]) -> ReplyFormat | None:
    """From `output_config.format`, or `output_format` as betas named it."""
    param = "output_config.format" if "format" in output else "output_format"
    value = output.get("format", given.get("output_format"))
    if value is None:
        return None
    asked = limits.as_object(value, param)
    _one_of(asked.get("type"), f"{param}.type", ("json_schema",))
    schema = limits.as_object(asked.get("schema"), f"{param}.schema")
    text = json_text(schema, f"{param}.schema")
    limits.check_length(text, f"{param}.schema", 0, limits.SCHEMA_CHARS_MAX)
    return ReplyFormat("json_schema", param, text)


def _one_of(value: Any, param: str, allowed: tuple[str, ...]) -> str:
    text = limits.as_text(value, param)
    if text not in allowed:
        raise InvalidRequest(f"'{param}' must be one of {', '.join(allowed)}", param=param)
    return text
