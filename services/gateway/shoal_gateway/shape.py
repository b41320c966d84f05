"""What a model's text means: reasoning, tool calls, or plain text. Pure."""

from __future__ import annotations

from typing import Protocol

from shoal_gateway.task import ChatTask, Content, TextDelta


class Shape(Protocol):
    """Turns the text of one reply, in pieces as they come, into contents in order."""

    @property
    def has_calls(self) -> bool:
        """At least one tool call was started."""
        ...

    @property
    def is_reasoning(self) -> bool:
        """What comes now is thought, not said."""
        ...

    def feed(self, delta: TextDelta) -> list[Content]:
        """Returns what is certain by now."""
        ...

    def flush(self) -> list[Content]:
        """Returns what was held back, at the end of the text."""
        ...


class PlainShape:
    """Text is text."""

    has_calls = False
    is_reasoning = False

    def feed(self, delta: TextDelta) -> list[Content]:
        return [delta]

    def flush(self) -> list[Content]:
        return []


def shape_of(task: ChatTask, template: str) -> Shape:
    """How replies to `task` are to be read, by the model's chat template."""
    return PlainShape()
