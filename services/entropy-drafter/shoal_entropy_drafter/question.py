"""Which requests may share an answer: what may be kept at all, and under which key. Pure.

Owns the reasons against keeping, the scope within which questions are compared, and the key of
questions that are equal. Does not know vectors, nor when two wordings ask the same (`guard`).
"""

from __future__ import annotations

import math
import re
import struct
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from blake3 import blake3

from shoal.common.v1 import chat_pb2

Refusal = Literal[
    "tools",
    "image",
    "thinking",
    "sampling",
    "temperature",
    "turns",
    "tenant",
    "privacy",
    "empty",
    "last_message",
]
"""Why a request is neither looked up nor kept; a closed set, fit for a metric's label."""

# Raised when the encoding changes: keys of another encoding are never found.
_ENCODING = "shoal question 1"
_SHARED_PRIVACY = (chat_pb2.PRIVACY_LABEL_UNSPECIFIED, chat_pb2.PRIVACY_LABEL_PUBLIC)
_KNOWN_ROLES = (chat_pb2.ROLE_SYSTEM, chat_pb2.ROLE_USER, chat_pb2.ROLE_ASSISTANT)
# Floats of a spec that differ by less draw the same tokens but for ties.
_DECIMALS = 4
# Where layout can be part of the question: lines, code, quoted text. An apostrophe between letters
# quotes nothing.
_LAYOUT = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029\"`“”„«»‹›「」]|(?<!\w)['‘’]|['‘’](?!\w)")


class NotCacheable(Exception):
    """This request has no place in the cache; `reason` says why. Never reaches a client."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(f"not kept in the cache: {reason}")
        self.reason: Refusal = reason


@dataclass(frozen=True)
class QuestionRules:
    """temperature_max and turns_max are inclusive; turns are messages of the user.

    drafted_by: the model that drafts; another one's answers are not given in its name.
    """

    temperature_max: float
    turns_max: int
    no_store_tenants: frozenset[str] = frozenset()
    drafted_by: str = ""


@dataclass(frozen=True)
class Question:
    """What the cache compares. Answers are shared only between questions of equal scope.

    scope, exact_key: hex, 64 characters. text: the last message, normalised; nothing else of the
    conversation is left, and nothing of it is shown in a log by accident.
    """

    tenant: str
    model: str
    scope: str
    exact_key: str
    text: str = field(repr=False)


def question_of(task: chat_pb2.ChatTask, rules: QuestionRules) -> Question:
    """The question that `task` asks. Raises NotCacheable where its answer must not be shared.

    Two things are left out of the scope because no valid answer depends on them: the session (it
    says where KV lies) and, where tokens are not drawn by chance, top_p, top_k, min_p and seed.
    """
    _check_request(task, rules)
    _check_messages(task, rules)
    text = normalised(_text_of(task.messages[-1]))
    if not text:
        raise NotCacheable("empty")
    scope = _scope(task, rules.drafted_by)
    exact_key = _digest([scope, text])
    return Question(task.tenant, task.model, scope, exact_key, text)


def normalised(text: str) -> str:
    """One spelling for texts that are written alike: NFC, and white space at the ends removed.

    Runs of white space become one blank, unless the text has several lines or quotes something:
    then they may be what is asked about (indented code, verse, `'a  b'`). Case is kept: `US` is not
    `us`.
    """
    text = unicodedata.normalize("NFC", text).strip()
    if _LAYOUT.search(text):
        return text.replace("\r\n", "\n")
    return " ".join(text.split())


def _check_request(task: chat_pb2.ChatTask, rules: QuestionRules) -> None:
    if task.tenant in rules.no_store_tenants:
        raise NotCacheable("tenant")
    if task.privacy not in _SHARED_PRIVACY:
        raise NotCacheable("privacy")
    modes = (chat_pb2.TOOL_MODE_UNSPECIFIED, chat_pb2.TOOL_MODE_NONE)
    if task.tools or task.tool_choice.mode not in modes:
        raise NotCacheable("tools")
    sampling = task.sampling
    # Token ids of one model's vocabulary, and figures that a kept text does not have.
    if sampling.logit_bias or sampling.logprobs or sampling.logprob_count:
        raise NotCacheable("sampling")
    if not 0 <= sampling.temperature <= rules.temperature_max + 1e-6:
        raise NotCacheable("temperature")
    if not all(math.isfinite(value) for value in _floats(sampling)):
        raise NotCacheable("sampling")


def _check_messages(task: chat_pb2.ChatTask, rules: QuestionRules) -> None:
    for message in task.messages:
        if message.role == chat_pb2.ROLE_TOOL or message.tool_calls or message.tool_call_id:
            raise NotCacheable("tools")
        for part in message.content:
            if part.WhichOneof("part") == "image":
                raise NotCacheable("image")
            if part.WhichOneof("part") == "thinking":
                raise NotCacheable("thinking")
    if not task.messages or task.messages[-1].role != chat_pb2.ROLE_USER:
        raise NotCacheable("last_message")
    if any(message.role not in _KNOWN_ROLES for message in task.messages):
        raise NotCacheable("last_message")
    if sum(message.role == chat_pb2.ROLE_USER for message in task.messages) > rules.turns_max:
        raise NotCacheable("turns")


def _text_of(message: chat_pb2.ChatMessage) -> str:
    return "\n".join(part.text for part in message.content)


def _scope(task: chat_pb2.ChatTask, drafted_by: str) -> str:
    """Everything but the last text on which a valid answer depends.

    max_tokens counts to the token: an answer that was complete within 500 is too long for 50.
    """
    fields = ["tenant", task.tenant, "model", task.model, "adapter", task.adapter_id]
    fields += ["drafter", drafted_by, "earlier", str(len(task.messages) - 1)]
    for message in task.messages[:-1]:
        fields += _message_fields(message)
    fields += ["name", task.messages[-1].name]
    fields += ["sampling", *_sampling_class(task.sampling)]
    fields += ["max_tokens", str(task.max_tokens), "stop", str(len(task.stop)), *task.stop]
    kind = task.response_format.WhichOneof("format")
    value = str(getattr(task.response_format, kind)) if kind else ""
    fields += ["format", kind or "", value]
    return _digest(fields)


def _message_fields(message: chat_pb2.ChatMessage) -> list[str]:
    texts = [part.text for part in message.content]
    return [str(message.role), message.name, str(len(texts)), *texts]


def _sampling_class(sampling: chat_pb2.SamplingSpec) -> list[str]:
    """Drawn by chance or not, and the numbers that then shape the answer."""
    penalties = (
        sampling.repetition_penalty,
        sampling.presence_penalty,
        sampling.frequency_penalty,
    )
    if sampling.temperature == 0:
        return ["greedy", *map(_rounded, penalties)]
    chance = (sampling.temperature, sampling.top_p, sampling.min_p)
    # A seed asked for promises one certain draw; 0 stands for none.
    whole = (str(sampling.top_k), str(sampling.seed))
    return ["drawn", *map(_rounded, (*chance, *penalties)), *whole]


def _floats(sampling: chat_pb2.SamplingSpec) -> tuple[float, ...]:
    return (
        sampling.top_p,
        sampling.min_p,
        sampling.repetition_penalty,
        sampling.presence_penalty,
        sampling.frequency_penalty,
    )


def _rounded(value: float) -> str:
    # Adding 0 makes one zero of two.
    return f"{round(value, _DECIMALS) + 0.0:.{_DECIMALS}f}"


def _digest(fields: Iterable[str]) -> str:
    """Hash of a list of texts; each is preceded by its length, so that no two lists look alike."""
    hasher = blake3(_ENCODING.encode())
    for text in fields:
        data = text.encode()
        hasher.update(struct.pack("<Q", len(data)))
        hasher.update(data)
    return hasher.hexdigest()
