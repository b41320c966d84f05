"""What a model thinks before it answers, told apart from what it says. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shoal_gateway.task import ReasoningDelta, TextDelta
from shoal_gateway.tools.buffer import TextBuffer, overlap

ReasoningMode = Literal["off", "preserve", "auto"]


@dataclass(frozen=True)
class ThinkingMarks:
    """What stands before and after the thoughts of a family of models."""

    opening: str
    closing: str


MARKS = (ThinkingMarks("<think>", "</think>"), ThinkingMarks("[THINK]", "[/THINK]"))


def marks_of(template: str) -> ThinkingMarks | None:
    """The marks that a chat template knows, None for a model that does not think."""
    return next((m for m in MARKS if m.opening in template or m.closing in template), None)


def begins_inside(prompt: str, marks: ThinkingMarks) -> bool:
    """The template has opened the thoughts: the reply begins with them."""
    return prompt.rstrip().endswith(marks.opening)


def ends_thinking(prompt: str, marks: ThinkingMarks) -> bool:
    """The template has closed the thoughts: the reply has none."""
    return prompt.rstrip().endswith(marks.closing)


class ThoughtSplitter:
    """Thoughts stand at the start of a reply, between marks; white space around them is nobody's.

    is_shown: they are returned; else they are only told apart. A reply that ends within its
    thoughts says nothing.
    """

    def __init__(self, marks: ThinkingMarks, is_inside: bool, is_shown: bool) -> None:
        # What comes now is thought.
        self.is_inside = is_inside
        self._marks = marks
        self._is_shown = is_shown
        self._may_open = True
        self._has_thought = False
        self._is_answering = False
        # White space after the thoughts is not part of the answer.
        self._trims = False
        self._buffer = TextBuffer()

    def feed(self, delta: TextDelta) -> list[ReasoningDelta | TextDelta]:
        self._buffer.add(delta)
        thoughts = ""
        if not self._is_answering and self._opens():
            thoughts = self._think()
        contents: list[ReasoningDelta | TextDelta] = []
        if thoughts and self._is_shown:
            contents.append(ReasoningDelta(thoughts))
        if self._is_answering and (said := self._said()) is not None:
            contents.append(said)
        return contents

    def flush(self) -> list[ReasoningDelta | TextDelta]:
        rest = self._buffer.take(self._buffer.stop)
        if not self.is_inside:
            return [rest] if rest.text or rest.logprobs else []
        return [ReasoningDelta(rest.text)] if rest.text.strip() and self._is_shown else []

    def _opens(self) -> bool:
        """Whether it is decided that the reply thinks; skips the mark that says so."""
        if not self._may_open:
            return self.is_inside
        text = self._buffer.text.lstrip()
        opening = self._marks.opening
        if len(text) < len(opening) and opening.startswith(text):
            return False
        self._may_open = False
        skipped = self._buffer.stop - len(text)
        if text.startswith(opening):
            self.is_inside = True
            self._buffer.take(skipped + len(opening))
        self._is_answering = not self.is_inside
        return self.is_inside

    def _think(self) -> str:
        """Takes thoughts as far as they are certain, white space at their ends left out."""
        text, start = self._buffer.text, self._buffer.start
        found = text.find(self._marks.closing)
        certain = text[:found] if found >= 0 else text[: len(text) - overlap(text, self._closing)]
        thoughts = certain.rstrip()
        if found >= 0:
            self._buffer.take(start + found + len(self._closing))
            self.is_inside = False
            self._is_answering = True
            self._trims = True
        else:
            self._buffer.take(start + len(thoughts))
        thoughts = thoughts if self._has_thought else thoughts.lstrip()
        self._has_thought = self._has_thought or bool(thoughts)
        return thoughts

    @property
    def _closing(self) -> str:
        return self._marks.closing

    def _said(self) -> TextDelta | None:
        if self._trims:
            text = self._buffer.text.lstrip()
            self._buffer.take(self._buffer.stop - len(text))
            self._trims = not text
        taken = self._buffer.take(self._buffer.stop)
        return taken if taken.text or taken.logprobs else None
