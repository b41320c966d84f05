"""ChatTask: the one internal form of a chat request, and the events of its answer.

Dialects translate client bodies to it and its events back; backends answer it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from shoal_common.driving import OPEN, Privacy

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
FormatKind = Literal["json_object", "json_schema", "regex", "choice"]
ToolMode = Literal["auto", "none", "required", "named"]
CacheControl = Literal["", "no-cache", "no-store"]
Answerer = Literal["cache", "drafter", "heavyweight", "drafter+heavyweight"]


@dataclass(frozen=True)
class ToolCall:
    """A call the assistant made earlier. `arguments` is the JSON text as the model wrote it."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Image:
    """Encoded bytes and their media type, or a `url` that they are yet to be fetched from.

    offset: characters of the message's text before it.
    """

    media_type: str
    data: bytes = field(repr=False)
    offset: int = 0
    url: str = ""


@dataclass(frozen=True)
class Thought:
    """One block of thoughts for the provider that wrote it, which alone can read `sealed` ones."""

    text: str = ""
    signature: str = ""
    sealed: str = ""


@dataclass(frozen=True)
class CachePoint:
    """A provider may keep the prompt up to here, for `ttl`.

    offset: characters of the message's text before it; at the text's end, it is the message's.
    """

    offset: int
    ttl: str


@dataclass(frozen=True)
class Message:
    """`reasoning` is what the assistant thought before its text; `signature` proves it to the
    provider that signed it. `thoughts` are the same, block by block, where they came so.

    is_error: of a tool's result, that the tool failed; its text does not say so itself.
    """

    role: Role
    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    images: tuple[Image, ...] = ()
    reasoning: str = ""
    signature: str = ""
    thoughts: tuple[Thought, ...] = ()
    is_error: bool = False
    cache_points: tuple[CachePoint, ...] = ()

    @property
    def told(self) -> str:
        """The text for those who know no failed results."""
        return f"Error: {self.text}" if self.is_error else self.text


@dataclass(frozen=True)
class Tool:
    """`parameters` is a JSON schema. `is_strict`: the arguments must match it. `cache_ttl`: how
    long a provider may keep the prompt up to here; "" says nothing."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    is_strict: bool = False
    cache_ttl: str = ""


@dataclass(frozen=True)
class ToolChoice:
    """`name` is set with mode "named"."""

    mode: ToolMode = "auto"
    name: str = ""


@dataclass(frozen=True)
class Sampling:
    """None means: not asked for, take the next default in line."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True)
class ReplyFormat:
    """What the whole reply must look like. `param` is the field that asked for it, `text` the
    schema or expression, `choices` the texts of kind choice, `name` the schema's."""

    kind: FormatKind
    param: str
    text: str = ""
    choices: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True)
class Thinking:
    """How much the model is asked to think first. `level` is off, on or a provider's word for an
    effort; "" leaves it to the model. `budget_tokens` None sets no bound."""

    level: str = ""
    budget_tokens: int | None = None


@dataclass(frozen=True)
class RawPrompt:
    """A text to go on from, without a template; `token_ids` stand in its place if there are any."""

    text: str = field(default="", repr=False)
    token_ids: tuple[int, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class ChatTask:
    """Checked by the dialect; every list and number is within its limit."""

    # "" takes the default model.
    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    allows_parallel_calls: bool = True
    # None for free text.
    reply_format: ReplyFormat | None = None
    logprobs: bool = False
    top_logprob_count: int = 0
    # Answers to the same prompt.
    choice_count: int = 1
    thinking: Thinking = Thinking()
    session_id: str = ""
    adapter_id: str = ""
    # Prefix caches and budgets are kept apart by it.
    tenant: str = ""
    # Machines that may see it.
    privacy: Privacy = OPEN
    # Instead of messages; only this fleet's models can go on from one.
    raw_prompt: RawPrompt | None = None
    # The last message is the assistant's, and the answer goes on from it.
    continues_last: bool = False
    # `max_tokens` may be more than the context has room for: the answer then ends where that does.
    may_fill_context: bool = False
    # The client reads while the answer is written; else nothing is seen before its end.
    is_streamed: bool = True
    # Of kept answers: take none (no-cache), or neither take nor keep one (no-store).
    cache_control: CacheControl = ""
    # Fields that nobody here knows, for a provider of the client's own dialect.
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenLogprob:
    """`text` may hold half a character; `data` is exact."""

    text: str
    data: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Usage:
    """Reasoning tokens are among the completion's, cached ones among the prompt's.

    by_model: what each of several models computed for the answer, which is more than it shows and,
    where it was kept from before, nothing; None where one model made it.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    by_model: Mapping[str, Usage] | None = None

    @property
    def spent(self) -> Usage:
        """What was computed, whether or not it can be seen in the answer."""
        if self.by_model is None:
            return self
        parts = self.by_model.values()
        return Usage(
            prompt_tokens=sum(part.prompt_tokens for part in parts),
            completion_tokens=sum(part.completion_tokens for part in parts),
        )


@dataclass(frozen=True)
class Queued:
    """The request waits for a plan."""

    position: int


@dataclass(frozen=True)
class Route:
    """A pipeline of this fleet. `stages` are "node@0:3", layers half-open; `queued_ms` is how long
    the request waited for it."""

    pipeline_id: str
    stages: tuple[str, ...]
    queued_ms: int = 0


@dataclass(frozen=True)
class StageTime:
    """Sums over all steps of an answer; `stage` as in Route."""

    stage: str
    queue_us: int
    compute_us: int
    wire_us: int


@dataclass(frozen=True)
class Provenance:
    """Who of a cascade answers, and why.

    entropy: the statistic that was compared, None where there was no draft. escalation: why the
    heavyweight has a part in it, "" where it has none. cache_layer: "exact" or "semantic", of kept
    answers, which have a similarity (cosine of the two questions) and an age.
    """

    answered_by: Answerer
    entropy: float | None = None
    escalation: str = ""
    cache_layer: str = ""
    similarity: float = 0.0
    age_s: int = 0


@dataclass(frozen=True)
class Admitted:
    """The answer begins: what is known of its prompt.

    `route` is None where somebody else's machines answer. `provenance`, of cascades, is as far as
    it is known by now.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    route: Route | None = None
    provenance: Provenance | None = None


@dataclass(frozen=True)
class ReasoningDelta:
    """What the model thinks before it answers. A provider's `signature` closes what it signed;
    `sealed` is a whole thought that only the provider can read."""

    text: str
    signature: str = ""
    sealed: str = ""


@dataclass(frozen=True)
class TextDelta:
    """Whole characters, no part of a stop string. May carry logprobs and no text."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class ToolCallStarted:
    """`index` counts the calls of this answer from 0; the name is whole."""

    index: int
    call_id: str
    name: str


@dataclass(frozen=True)
class ToolCallDelta:
    """More of the JSON text of a call's arguments."""

    index: int
    arguments: str


@dataclass(frozen=True)
class Finished:
    """`stop_string` is the one that ended the answer, if one did. `route` and `times` are those
    of the last attempt, where this fleet answers and its stages tell."""

    reason: FinishReason
    usage: Usage
    stop_string: str | None = None
    route: Route | None = None
    times: tuple[StageTime, ...] = ()
    provenance: Provenance | None = None


Content = ReasoningDelta | TextDelta | ToolCallStarted | ToolCallDelta
Event = Queued | Admitted | Content | Finished
