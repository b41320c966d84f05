"""The bodies of OpenAI's chat completions: a JSON object to ChatTask. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits
from shoal_gateway.dialects import fields
from shoal_gateway.dialects.openai_format import parse_format
from shoal_gateway.dialects.openai_messages import messages_of
from shoal_gateway.dialects.openai_tools import choice_of, tools_of
from shoal_gateway.task import ChatTask, Sampling, Thinking

# Read here, or accepted without effect on a local model.
KNOWN_FIELDS = frozenset(
    [
        "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens",
        "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop",
        "frequency_penalty", "presence_penalty", "logit_bias", "seed", "tools", "tool_choice",
        "parallel_tool_calls", "logprobs", "top_logprobs", "n", "user", "session_id",
        "lora_adapter", "response_format", "guided_regex", "guided_choice", "metadata", "store",
        "service_tier", "safety_identifier", "prompt_cache_key", "reasoning_effort",
        "chat_template_kwargs", "modalities", "verbosity", "prediction", "prompt_cache_retention",
        "prompt_cache_options", "moderation",
    ]
)  # fmt: skip
SEED_RANGE = (-(2**63), 2**64 - 1)
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")


@dataclass(frozen=True)
class ChatRequest:
    """A parsed body: the task, and how the answer is to be written."""

    task: ChatTask
    is_stream: bool
    wants_usage: bool


def parse(body: dict[str, Any], is_strict: bool = False) -> ChatRequest:
    """Raises InvalidRequest naming the first field that is wrong."""
    given = fields.present(body)
    extras = fields.unknown(given, KNOWN_FIELDS, is_strict)
    tools = tools_of(given)
    task = ChatTask(
        model=fields.model_name(given),
        messages=messages_of(given),
        sampling=sampling_of(given),
        max_tokens=_max_tokens(given),
        stop=fields.stop_strings(given, "stop"),
        tools=tools,
        tool_choice=choice_of(given, tools),
        allows_parallel_calls=fields.boolean(given, "parallel_tool_calls", True),
        reply_format=parse_format(given),
        logprobs=fields.boolean(given, "logprobs", False),
        top_logprob_count=_top_logprobs(given),
        choice_count=limits.as_integer(given.get("n", 1), "n", 1, limits.CHOICE_ANSWERS_MAX),
        thinking=_thinking(given),
        session_id=fields.short_text(given, "session_id"),
        adapter_id=fields.short_text(given, "lora_adapter"),
        is_streamed=fields.boolean(given, "stream", False),
        extras=extras,
    )
    return ChatRequest(
        task=task,
        is_stream=task.is_streamed,
        wants_usage=wants_usage(given),
    )


def wants_usage(given: dict[str, Any]) -> bool:
    """Whether a stream ends with a chunk that carries its usage."""
    options = limits.as_object(given.get("stream_options", {}), "stream_options")
    options = fields.present(options)
    return limits.as_boolean(options.get("include_usage", False), "stream_options.include_usage")


def sampling_of(given: dict[str, Any]) -> Sampling:
    """Every knob that OpenAI's and vLLM's clients send."""
    seed = fields.integer(given, "seed", *SEED_RANGE)
    return Sampling(
        temperature=fields.number(given, "temperature", 0.0, 2.0),
        top_p=fields.number(given, "top_p", 0.0, 1.0),
        top_k=fields.integer(given, "top_k", 0, 2**31 - 1),
        min_p=fields.number(given, "min_p", 0.0, 1.0),
        repetition_penalty=fields.number(given, "repetition_penalty", 0.01, 10.0),
        presence_penalty=fields.number(given, "presence_penalty", -2.0, 2.0),
        frequency_penalty=fields.number(given, "frequency_penalty", -2.0, 2.0),
        logit_bias=_logit_bias(given),
        seed=None if seed is None else seed % 2**64,
    )


def _logit_bias(given: dict[str, Any]) -> dict[int, float]:
    table = limits.as_object(given.get("logit_bias", {}), "logit_bias")
    if len(table) > limits.LOGIT_BIAS_COUNT_MAX:
        raise InvalidRequest(
            f"'logit_bias' has {len(table)} entries, the limit is {limits.LOGIT_BIAS_COUNT_MAX}",
            param="logit_bias",
        )
    bias = {}
    for key, value in table.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 9):
            raise InvalidRequest("the keys of 'logit_bias' must be token ids", param="logit_bias")
        bias[int(key)] = limits.as_number(value, f"logit_bias.{key}", -100.0, 100.0)
    return bias


def _max_tokens(given: dict[str, Any]) -> int | None:
    for param in ("max_completion_tokens", "max_tokens"):
        if param in given:
            return limits.as_integer(given[param], param, 1, limits.TOKENS_MAX)
    return None


def _top_logprobs(given: dict[str, Any]) -> int:
    if "top_logprobs" not in given:
        return 0
    count = limits.as_integer(given["top_logprobs"], "top_logprobs", 0, limits.TOP_LOGPROBS_MAX)
    if count and not given.get("logprobs"):
        raise InvalidRequest("'top_logprobs' needs 'logprobs' to be true", param="top_logprobs")
    return count


def _thinking(given: dict[str, Any]) -> Thinking:
    """From `reasoning_effort`, or the switch that vLLM's clients hand to templates."""
    effort = limits.as_text(given.get("reasoning_effort", ""), "reasoning_effort")
    if effort and effort not in EFFORTS:
        raise InvalidRequest(
            f"'reasoning_effort' must be one of {', '.join(EFFORTS)}", param="reasoning_effort"
        )
    if effort:
        return Thinking("off" if effort == "none" else effort)
    switches = limits.as_object(given.get("chat_template_kwargs", {}), "chat_template_kwargs")
    is_on = switches.get("enable_thinking")
    if is_on is None:
        return Thinking()
    param = "chat_template_kwargs.enable_thinking"
    return Thinking("on" if limits.as_boolean(is_on, param) else "off")
