"""What a model's text means: reasoning, tool calls, or plain text. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Protocol

from shoal_common.tokens import ModelTokens, StopChecker
from shoal_gateway.reasoning import (
    ReasoningMode,
    ThinkingMarks,
    ThoughtSplitter,
    begins_inside,
    ends_thinking,
    marks_of,
)
from shoal_gateway.task import ChatTask, Content, ReasoningDelta, TextDelta
from shoal_gateway.tools.buffer import TextBuffer
from shoal_gateway.tools.formats import FormatMode, ToolFormat, format_of
from shoal_gateway.tools.parser import CallParser


@dataclass(frozen=True)
class ReadingRules:
    """How this gateway wants replies to be read."""

    tool_mode: FormatMode = "auto"
    reasoning_mode: ReasoningMode = "auto"


@dataclass(frozen=True)
class Reading:
    """How the replies to one prompt are to be read.

    tool_format: None where calls stay text. thinking: None for a model that does not think;
    starts_inside: the prompt has opened its thoughts; may_think: they may still come. mark_ids:
    tokens that are marks. special: the marks among them that are no text of their own.
    """

    tool_format: ToolFormat | None = None
    tool_names: AbstractSet[str] = frozenset()
    is_single_call: bool = False
    thinking: ThinkingMarks | None = None
    starts_inside: bool = False
    may_think: bool = False
    mode: ReasoningMode = "auto"
    mark_ids: Mapping[str, int] = field(default_factory=dict)
    special: AbstractSet[str] = frozenset()

    @property
    def splits_thoughts(self) -> bool:
        """Thoughts are told apart from what is said."""
        return self.thinking is not None and self.mode != "preserve"

    @property
    def visible_tokens(self) -> dict[int, str]:
        """Special tokens whose text must reach the shape."""
        return {self.mark_ids[mark]: mark for mark in self.special}

    def shape(self, stop: Sequence[str]) -> ReplyShape:
        """For one reply."""
        thoughts = None
        if self.thinking is not None and self.splits_thoughts:
            is_shown = self.mode == "auto"
            thoughts = ThoughtSplitter(self.thinking, self.starts_inside, is_shown)
        calls: Shape = PlainShape()
        if self.tool_format is not None:
            hidden = self.special & set(self.tool_format.marks)
            calls = CallParser(self.tool_format, self.tool_names, hidden, self.is_single_call)
        return ReplyShape(StopChecker(stop), thoughts, calls)


PLAIN = Reading()


def reading_of(
    task: ChatTask, template: str, prompt: str, tokens: ModelTokens, rules: ReadingRules
) -> Reading:
    """How replies to `task` are to be read, by the chat template and the prompt it rendered."""
    wants_calls = task.tools and task.tool_choice.mode != "none"
    tool_format = format_of(template, rules.tool_mode) if wants_calls else None
    thinking = marks_of(template)
    marks = tool_format.marks if tool_format is not None else ()
    if thinking is not None:
        marks = (*marks, thinking.opening, thinking.closing)
    mark_ids = {mark: at for mark in marks if (at := tokens.added_id(mark)) is not None}
    return Reading(
        tool_format=tool_format,
        tool_names=_names(task),
        is_single_call=not task.allows_parallel_calls or task.tool_choice.mode == "named",
        thinking=thinking,
        starts_inside=thinking is not None and begins_inside(prompt, thinking),
        may_think=thinking is not None and not ends_thinking(prompt, thinking),
        mode=rules.reasoning_mode,
        mark_ids=mark_ids,
        special=frozenset(mark for mark, at in mark_ids.items() if tokens.is_special(at)),
    )


def _names(task: ChatTask) -> frozenset[str]:
    if task.tool_choice.mode == "named":
        return frozenset({task.tool_choice.name})
    return frozenset(tool.name for tool in task.tools)


class Shape(Protocol):
    """Turns what one reply says, in pieces as they come, into contents in order."""

    @property
    def has_calls(self) -> bool:
        """At least one tool call was started."""
        ...

    @property
    def is_over(self) -> bool:
        """Nothing more is wanted of this reply."""
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
    is_over = False

    def feed(self, delta: TextDelta) -> list[Content]:
        return [delta]

    def flush(self) -> list[Content]:
        return []


class ReplyShape:
    """One reply's text through its stages: thoughts, stop strings, tool calls.

    Stop strings are looked for in what the model says, its calls included, not in its thoughts.
    """

    def __init__(self, stop: StopChecker, thoughts: ThoughtSplitter | None, calls: Shape) -> None:
        self._stop = stop
        self._thoughts = thoughts
        self._calls = calls
        # What the stop checker has been given and has not let through.
        self._unchecked = TextBuffer()

    @property
    def has_calls(self) -> bool:
        """At least one tool call was started."""
        return self._calls.has_calls

    @property
    def is_reasoning(self) -> bool:
        """What comes now is thought, not said."""
        return self._thoughts is not None and self._thoughts.is_inside

    @property
    def is_over(self) -> bool:
        """Nothing more is wanted of this reply: a stop string, or enough calls."""
        return self._stop.is_stopped or self._calls.is_over

    @property
    def stop_string(self) -> str | None:
        """The stop string that was found."""
        return self._stop.found

    def feed(self, delta: TextDelta) -> list[Content]:
        """Returns what is certain by now."""
        if self._thoughts is None:
            return self._say(delta)
        return self._contents(self._thoughts.feed(delta))

    def flush(self) -> list[Content]:
        """Returns what was held back, at the end of the text."""
        contents = self._contents(self._thoughts.flush()) if self._thoughts is not None else []
        if not self._stop.is_stopped:
            contents += self._let_through(self._stop.flush())
        return contents + self._calls.flush()

    def _contents(self, parts: Sequence[ReasoningDelta | TextDelta]) -> list[Content]:
        contents: list[Content] = []
        for part in parts:
            if isinstance(part, TextDelta):
                contents += self._say(part)
            else:
                contents.append(part)
        return contents

    def _say(self, delta: TextDelta) -> list[Content]:
        if self.is_over:
            return []
        self._unchecked.add(delta)
        return self._let_through(self._stop.feed(delta.text))

    def _let_through(self, text: str) -> list[Content]:
        passed = self._unchecked.take(self._unchecked.start + len(text))
        return self._calls.feed(passed) if passed.text or passed.logprobs else []
