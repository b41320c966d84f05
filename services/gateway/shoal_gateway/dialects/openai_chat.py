"""The bodies of OpenAI's chat completions: a JSON object to ChatTask. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits
from shoal_gateway.dialects.openai_format import parse_format
from shoal_gateway.task import ChatTask, Message, Role, Sampling, ToolCall

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
# Accepted without effect, or handled here; `strict_compat` refuses all others.
KNOWN_FIELDS = frozenset(
    [
        "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens",
        "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop",
        "frequency_penalty", "presence_penalty", "logit_bias", "seed", "tools", "tool_choice",
        "parallel_tool_calls", "logprobs", "top_logprobs", "n", "user", "session_id",
        "lora_adapter", "response_format", "guided_regex", "guided_choice", "metadata", "store",
        "service_tier", "safety_identifier", "prompt_cache_key",
    ]
)  # fmt: skip
SEED_RANGE = (-(2**63), 2**64 - 1)


@dataclass(frozen=True)
class ChatRequest:
    """A parsed body: the task, and how the answer is to be written."""

    task: ChatTask
    is_stream: bool
    wants_usage: bool


def parse(body: dict[str, Any], is_strict: bool = False) -> ChatRequest:
    """Raises InvalidRequest naming the first field that is wrong."""
    if is_strict and (unknown := sorted(set(body) - KNOWN_FIELDS)):
        raise InvalidRequest(f"unknown field '{unknown[0]}'", param=unknown[0])
    # OpenAI's clients send null for what they leave out.
    given = {key: value for key, value in body.items() if value is not None}
    _refuse_unsupported(given)
    tools = _tools(given)
    task = ChatTask(
        model=_model(given),
        messages=_messages(given),
        sampling=_sampling(given),
        max_tokens=_max_tokens(given),
        stop=_stop(given),
        tools=tools,
        reply_format=parse_format(given),
        logprobs=limits.as_boolean(given.get("logprobs", False), "logprobs"),
        top_logprob_count=_top_logprobs(given),
        session_id=_name(given, "session_id"),
        adapter_id=_name(given, "lora_adapter"),
    )
    options = limits.as_object(given.get("stream_options", {}), "stream_options")
    return ChatRequest(
        task=task,
        is_stream=limits.as_boolean(given.get("stream", False), "stream"),
        wants_usage=limits.as_boolean(
            options.get("include_usage") or False, "stream_options.include_usage"
        ),
    )


def _refuse_unsupported(given: dict[str, Any]) -> None:
    if limits.as_integer(given.get("n", 1), "n", 1, 128) != 1:
        raise InvalidRequest("'n' must be 1: send one request for each answer", param="n")


def _model(given: dict[str, Any]) -> str:
    model = limits.as_text(given.get("model", ""), "model")
    limits.check_length(model, "model", 0, limits.MODEL_NAME_CHARS_MAX)
    return "" if model == "auto" else model


def _name(given: dict[str, Any], param: str) -> str:
    return limits.check_length(limits.as_text(given.get(param, ""), param), param, 0, 256)


def _messages(given: dict[str, Any]) -> tuple[Message, ...]:
    if "messages" not in given:
        raise InvalidRequest("'messages' is required", param="messages")
    entries = limits.as_list(given["messages"], "messages", limits.MESSAGE_COUNT_MAX)
    if not entries:
        raise InvalidRequest("'messages' must hold at least one message", param="messages")
    return tuple(_message(entry, f"messages[{index}]") for index, entry in enumerate(entries))


def _message(entry: Any, param: str) -> Message:
    fields = limits.as_object(entry, param)
    role = limits.as_text(fields.get("role"), f"{param}.role")
    if role not in ROLES:
        raise InvalidRequest(
            f"'{param}.role' must be one of {', '.join(ROLES)}", param=f"{param}.role"
        )
    calls = _tool_calls(fields.get("tool_calls"), f"{param}.tool_calls")
    return Message(
        role=ROLES[role],
        text=_content(fields.get("content"), f"{param}.content", may_be_absent=bool(calls)),
        tool_calls=calls,
        tool_call_id=limits.as_text(fields.get("tool_call_id") or "", f"{param}.tool_call_id"),
        name=limits.as_text(fields.get("name") or "", f"{param}.name"),
    )


def _content(value: Any, param: str, may_be_absent: bool) -> str:
    if value is None and may_be_absent:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise limits.wrong_type(param, "a string or an array of text parts", value)
    return "".join(_part(part, f"{param}[{index}]") for index, part in enumerate(value))


def _part(value: Any, param: str) -> str:
    part = limits.as_object(value, param)
    kind = limits.as_text(part.get("type"), f"{param}.type")
    if kind != "text":
        raise InvalidRequest(
            f"'{param}.type' is '{kind[:40]}'; only text parts are supported", param=f"{param}.type"
        )
    return limits.as_text(part.get("text"), f"{param}.text")


def _tool_calls(value: Any, param: str) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    calls = []
    for index, entry in enumerate(limits.as_list(value, param, limits.TOOL_COUNT_MAX)):
        where = f"{param}[{index}]"
        call = limits.as_object(entry, where)
        function = limits.as_object(call.get("function"), f"{where}.function")
        calls.append(
            ToolCall(
                call_id=limits.as_text(call.get("id") or "", f"{where}.id"),
                name=limits.as_text(function.get("name"), f"{where}.function.name"),
                arguments=limits.as_text(
                    function.get("arguments", "{}"), f"{where}.function.arguments"
                ),
            )
        )
    return tuple(calls)


def _sampling(given: dict[str, Any]) -> Sampling:
    def number(param: str, least: float, most: float) -> float | None:
        return limits.as_number(given[param], param, least, most) if param in given else None

    def integer(param: str, least: int, most: int) -> int | None:
        return limits.as_integer(given[param], param, least, most) if param in given else None

    seed = integer("seed", *SEED_RANGE)
    return Sampling(
        temperature=number("temperature", 0.0, 2.0),
        top_p=number("top_p", 0.0, 1.0),
        top_k=integer("top_k", 0, 2**31 - 1),
        min_p=number("min_p", 0.0, 1.0),
        repetition_penalty=number("repetition_penalty", 0.01, 10.0),
        presence_penalty=number("presence_penalty", -2.0, 2.0) or 0.0,
        frequency_penalty=number("frequency_penalty", -2.0, 2.0) or 0.0,
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


def _stop(given: dict[str, Any]) -> tuple[str, ...]:
    value = given.get("stop", [])
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise limits.wrong_type("stop", "a string or an array of strings", value)
    entries = limits.as_list(value, "stop", limits.STOP_COUNT_MAX)
    return tuple(
        limits.check_length(limits.as_text(entry, "stop"), "stop", 1, limits.STOP_CHARS_MAX)
        for entry in entries
    )


def _tools(given: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    entries = limits.as_list(given.get("tools", []), "tools", limits.TOOL_COUNT_MAX)
    names = []
    for index, entry in enumerate(entries):
        param = f"tools[{index}]"
        function = limits.as_object(
            limits.as_object(entry, param).get("function"), f"{param}.function"
        )
        name = limits.as_text(function.get("name"), f"{param}.function.name")
        names.append(limits.check_length(name, f"{param}.function.name", 1, 256))
        limits.as_object(function.get("parameters") or {}, f"{param}.function.parameters")
    if _drops_tools(given.get("tool_choice", "auto"), names):
        return ()
    return tuple(entries)


def _drops_tools(choice: Any, names: list[str]) -> bool:
    """Checks tool_choice. Returns True for "none": the template is not shown the tools."""
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise InvalidRequest(
                "'tool_choice' must be none, auto, required or a function", param="tool_choice"
            )
        return choice == "none"
    function = limits.as_object(
        limits.as_object(choice, "tool_choice").get("function"), "tool_choice.function"
    )
    if limits.as_text(function.get("name"), "tool_choice.function.name") not in names:
        raise InvalidRequest("'tool_choice' names a function not in 'tools'", param="tool_choice")
    return False


def _top_logprobs(given: dict[str, Any]) -> int:
    if "top_logprobs" not in given:
        return 0
    count = limits.as_integer(given["top_logprobs"], "top_logprobs", 0, limits.TOP_LOGPROBS_MAX)
    if count and not given.get("logprobs"):
        raise InvalidRequest("'top_logprobs' needs 'logprobs' to be true", param="top_logprobs")
    return count
