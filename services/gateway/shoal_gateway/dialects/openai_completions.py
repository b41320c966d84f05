"""The bodies of OpenAI's older completions: a prompt to go on from, without a template. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits
from shoal_gateway.dialects import fields
from shoal_gateway.dialects.openai_chat import sampling_of, wants_usage
from shoal_gateway.dialects.openai_format import parse_format
from shoal_gateway.task import ChatTask, RawPrompt

KNOWN_FIELDS = frozenset(
    [
        "model", "prompt", "best_of", "echo", "frequency_penalty", "logit_bias", "logprobs",
        "max_tokens", "n", "presence_penalty", "seed", "stop", "stream", "stream_options",
        "suffix", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "user",
        "session_id", "lora_adapter", "response_format", "guided_regex", "guided_choice",
    ]
)  # fmt: skip
# What the API promises where a request names no limit.
MAX_TOKENS_DEFAULT = 16
PROMPT_TOKENS_MAX = 1024 * 1024
TOKEN_ID_MAX = 2**31 - 1


@dataclass(frozen=True)
class CompletionRequest:
    """A parsed body: one task for each prompt, and how the answers are to be written."""

    tasks: tuple[ChatTask, ...]
    is_stream: bool
    wants_usage: bool
    echo: bool


def parse(body: dict[str, Any], is_strict: bool = False) -> CompletionRequest:
    """Raises InvalidRequest naming the first field that is wrong."""
    given = fields.present(body)
    extras = fields.unknown(given, KNOWN_FIELDS, is_strict)
    prompts = _prompts(given)
    count = _choice_count(given, len(prompts))
    logprob_count = fields.integer(given, "logprobs", 0, limits.TOP_LOGPROBS_MAX)
    _refuse_suffix(given)
    is_stream = fields.boolean(given, "stream", False)
    request = CompletionRequest(
        tasks=tuple(
            ChatTask(
                model=fields.model_name(given),
                messages=(),
                raw_prompt=prompt,
                sampling=sampling_of(given),
                max_tokens=fields.integer(given, "max_tokens", 1, limits.TOKENS_MAX)
                or MAX_TOKENS_DEFAULT,
                stop=fields.stop_strings(given, "stop"),
                reply_format=parse_format(given),
                logprobs=logprob_count is not None,
                top_logprob_count=logprob_count or 0,
                choice_count=count,
                session_id=fields.short_text(given, "session_id"),
                adapter_id=fields.short_text(given, "lora_adapter"),
                is_streamed=is_stream,
                extras=extras,
            )
            for prompt in prompts
        ),
        is_stream=is_stream,
        wants_usage=wants_usage(given),
        echo=fields.boolean(given, "echo", False),
    )
    _check_echo(request)
    return request


def _prompts(given: dict[str, Any]) -> tuple[RawPrompt, ...]:
    """A text, texts, token ids, or lists of them."""
    if "prompt" not in given:
        raise InvalidRequest("'prompt' is required", param="prompt")
    value = given["prompt"]
    if isinstance(value, str):
        return (_text(value, "prompt"),)
    entries = limits.as_list(value, "prompt", PROMPT_TOKENS_MAX)
    if not entries:
        raise InvalidRequest("'prompt' must hold at least one prompt", param="prompt")
    if not isinstance(entries[0], str | list):
        return (_token_ids(entries, "prompt"),)
    limits.as_list(entries, "prompt", limits.CHOICE_ANSWERS_MAX)
    is_text = isinstance(entries[0], str)
    return tuple(
        _text(entry, f"prompt[{index}]") if is_text else _token_ids(entry, f"prompt[{index}]")
        for index, entry in enumerate(entries)
    )


def _text(value: Any, param: str) -> RawPrompt:
    text = limits.as_text(value, param)
    return RawPrompt(limits.check_length(text, param, 1, limits.BODY_SIZE_BYTES_MAX))


def _token_ids(value: Any, param: str) -> RawPrompt:
    entries = limits.as_list(value, param, PROMPT_TOKENS_MAX)
    if not entries:
        raise InvalidRequest(f"'{param}' must hold at least one token id", param=param)
    return RawPrompt(
        token_ids=tuple(limits.as_integer(entry, param, 0, TOKEN_ID_MAX) for entry in entries)
    )


def _choice_count(given: dict[str, Any], prompt_count: int) -> int:
    """Answers to each prompt; `best_of` may only say the same."""
    count = limits.as_integer(given.get("n", 1), "n", 1, limits.CHOICE_ANSWERS_MAX)
    best_of = limits.as_integer(given.get("best_of", count), "best_of", 1, 20)
    if best_of not in (count, 1):
        raise InvalidRequest(
            f"'best_of' must be as large as 'n' ({count}): answers are not ranked", param="best_of"
        )
    if count * prompt_count > limits.CHOICE_ANSWERS_MAX:
        raise InvalidRequest(
            f"'n' asks for {count} answers to each of {prompt_count} prompts; the limit is "
            f"{limits.CHOICE_ANSWERS_MAX} answers",
            param="n",
        )
    return count


def _refuse_suffix(given: dict[str, Any]) -> None:
    if limits.as_text(given.get("suffix", ""), "suffix"):
        raise InvalidRequest(
            "'suffix' is not supported: put what follows into the prompt", param="suffix"
        )


def _check_echo(request: CompletionRequest) -> None:
    if not request.echo:
        return
    if any(task.logprobs for task in request.tasks):
        raise InvalidRequest(
            "'echo' cannot go with 'logprobs': the prompt's own are not computed", param="echo"
        )
    if not all(task.raw_prompt and task.raw_prompt.text for task in request.tasks):
        raise InvalidRequest("'echo' needs a prompt of text, not of token ids", param="echo")
