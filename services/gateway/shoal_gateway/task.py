"""ChatTask: the one internal form of a chat request, and the events of its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length"]
FormatKind = Literal["json_object", "json_schema", "regex", "choice"]


@dataclass(frozen=True)
class ToolCall:
    """A call the assistant made earlier. `arguments` is the JSON text as the model wrote it."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    role: Role
    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""


@dataclass(frozen=True)
class Sampling:
    """None means: not asked for, take the next default in line."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True)
class ReplyFormat:
    """What the whole reply must look like. `param` is the field that asked for it, `text` the
    schema or expression, `choices` the texts of kind choice."""

    kind: FormatKind
    param: str
    text: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChatTask:
    """Checked by the dialect; every list and number is within its limit."""

    # "" takes the default model.
    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    # Tool definitions as the client wrote them, for the template.
    tools: tuple[Mapping[str, Any], ...] = ()
    # None for free text.
    reply_format: ReplyFormat | None = None
    logprobs: bool = False
    top_logprob_count: int = 0
    session_id: str = ""
    adapter_id: str = ""


@dataclass(frozen=True)
class TokenLogprob:
    """`text` may hold half a character; `data` is exact."""

    text: str
    data: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True)
class Queued:
    """The request waits for a plan."""

    position: int


@dataclass(frozen=True)
class Admitted:
    """The head has taken the request."""


@dataclass(frozen=True)
class TextDelta:
    """Whole characters, no part of a stop string. May carry logprobs and no text."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Finished:
    reason: FinishReason
    usage: Usage


Event = Queued | Admitted | TextDelta | Finished
