"""Messages and exchanges: the form in which every part of the recipe sees a chat."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypedDict

Role = Literal["system", "user", "assistant", "tool"]


class Message(TypedDict):
    """One turn; the key order is part of the held-out hash (see `split`)."""

    role: Role
    content: str


def user(content: str) -> Message:
    """A turn of the user."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """A turn of the model."""
    return {"role": "assistant", "content": content}


@dataclass(frozen=True)
class Exchange:
    """A chat whose last message is the assistant's right answer.

    `tools` names the tools on offer, in the order in which they are shown.
    """

    messages: tuple[Message, ...]
    tools: tuple[str, ...] = ()

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the final answer."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """Text of the final answer."""
        return self.messages[-1]["content"]

    def prompts(self) -> Iterable[tuple[Message, ...]]:
        """Every prefix that an assistant turn follows, the final prompt last."""
        for index, message in enumerate(self.messages):
            if message["role"] == "assistant":
                yield self.messages[:index]


def question(prompt: str, answer: str) -> Exchange:
    """The common case: one question, one answer, no tools."""
    return Exchange((user(prompt), assistant(answer)))
