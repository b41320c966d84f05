"""A model's text, in pieces of any size, to text and tool calls. Pure.

What is kept to:
- Nothing of a call is sent before its name is known to be a tool's and its arguments have opened
  as an object; until then it may still turn out to be text, and is then sent as text.
- From then on everything up to the bracket that closes the arguments is theirs, as it was written.
  If they end early, cut off or broken, the call stays with what was written.
- White space around calls is dropped; other text is kept, in order.
- The pieces in which a text arrives change nothing but the pieces in which it leaves.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable, Set

from shoal_gateway.task import Content, TextDelta, ToolCallDelta, ToolCallStarted
from shoal_gateway.tools.buffer import TextBuffer, overlap
from shoal_gateway.tools.formats import ToolFormat
from shoal_gateway.tools.reader import NAME_CHARS_MAX, CallReader

_ID_CHARS = string.ascii_letters + string.digits
# `name`, perhaps an id, perhaps a mark, before the arguments of Mistral's newer models.
_NAMED = re.compile(r"([^\s\[\]{}\"]+)(?:\[CALL_ID\]([^\s\[\]{}\"]*))?(?:\[ARGS\])?\s*")


class CallParser:
    """Reads one reply. `names` are the tools'; `hidden` are marks that no client may see.

    is_single: the reply is over after its first call.
    """

    def __init__(
        self,
        tool_format: ToolFormat,
        names: Set[str],
        hidden: Set[str] = frozenset(),
        is_single: bool = False,
    ) -> None:
        self.is_over = False
        self._format = tool_format
        self._names = names
        self._hidden = hidden
        self._is_single = is_single
        # Held text begins where the last content ended.
        self._buffer = TextBuffer()
        self._contents: list[Content] = []
        # Does one step; returns whether another one may be possible.
        self._state: Callable[[], bool] = self._text
        self._call_count = 0
        self._has_text = False
        self._may_be_bare = tool_format.is_bare
        # The state of a frame: where it was read to, where its mark ended, what was in it.
        self._position = 0
        self._marked_stop = 0
        self._frame_call_count = 0
        self._is_array = False
        self._reader = CallReader(0)
        self._is_started = False

    @property
    def has_calls(self) -> bool:
        return self._call_count > 0

    def feed(self, delta: TextDelta) -> list[Content]:
        if self.is_over:
            return []
        self._buffer.add(delta)
        return self._advance()

    def flush(self) -> list[Content]:
        if self.is_over:
            return []
        contents = self._advance()
        while self._is_undecided():
            self._fail()
            contents += self._advance()
        rest = self._buffer.take(self._buffer.stop)
        if not self._is_frame_end(rest.text):
            self._emit(rest)
        return contents + self._sent()

    def _advance(self) -> list[Content]:
        while not self.is_over and self._state():
            pass
        return self._sent()

    def _sent(self) -> list[Content]:
        sent, self._contents = self._contents, []
        return sent

    def _is_undecided(self) -> bool:
        """The text has ended where a call could still have come."""
        if self._state == self._frame:
            return self._frame_call_count == 0
        return self._state == self._call and not self._is_started

    def _is_frame_end(self, rest: str) -> bool:
        """Nothing but what stands around calls, perhaps cut off."""
        if self._state == self._call:
            return True
        if self._state == self._frame:
            rest = rest[: len(rest) - overlap(rest, self._format.closing)]
            return not rest.strip(f"]{self._format.separators}{string.whitespace}")
        return self.has_calls and not self._has_text and not rest.strip()

    def _text(self) -> bool:
        """Outside of calls: up to the next mark, or a bracket that a bare call begins with."""
        text, start = self._buffer.text, self._buffer.start
        said = len(text) - len(text.lstrip())
        if not self._has_text and said < len(text) and self._may_be_bare and text[said] in "{[":
            return self._enter(start + said, is_marked=False)
        opening = self._format.opening
        found = text.find(opening) if opening else -1
        if found >= 0:
            if self._has_text or text[:found].strip():
                self._emit(self._buffer.take(start + found))
            return self._enter(start + found + len(opening))
        stop = len(text) - overlap(text, opening)
        # White space waits: a call may follow.
        if self._has_text or text[:stop].strip():
            self._emit(self._buffer.take(start + stop))
        return False

    def _emit(self, delta: TextDelta) -> None:
        text = delta.text
        for mark in self._hidden:
            text = text.replace(mark, "")
        self._has_text = self._has_text or bool(text.strip())
        self._may_be_bare = self._may_be_bare and not self._has_text
        if text or delta.logprobs:
            self._contents.append(TextDelta(text, delta.logprobs))

    def _enter(self, position: int, is_marked: bool = True) -> bool:
        """A frame begins; `position` is behind its mark."""
        self._position = position
        self._marked_stop = position if is_marked else self._buffer.start
        self._frame_call_count = 0
        self._is_array = False
        self._state = self._frame
        return True

    def _leave(self) -> bool:
        """Back to text, of which none was said since the last call."""
        self._has_text = False
        self._may_be_bare = False
        self._state = self._text
        return True

    def _fail(self) -> bool:
        """What is held is no call."""
        self._leave()
        if self._frame_call_count == 0 and self._marked_stop > self._buffer.start:
            self._emit(self._buffer.take(self._marked_stop))
        return True

    def _frame(self) -> bool:
        """Before, between and after the calls of one frame."""
        text = self._buffer.text
        index = self._position - self._buffer.start
        while index < len(text) and text[index].isspace():
            index += 1
        self._position = self._buffer.start + index
        if index == len(text):
            return False
        if self._frame_call_count and (decided := self._mark_at(index)) is not None:
            return decided
        char = text[index]
        if char == "{":
            return self._begin(CallReader(self._position))
        if char == "[" and not self._is_array and not self._frame_call_count:
            self._is_array = True
            self._position += 1
            return True
        if char == "]" and self._is_array and self._frame_call_count:
            self._is_array = False
            self._position += 1
            self._buffer.take(self._position)
            return True
        if char in self._format.separators and self._frame_call_count:
            self._position += 1
            return True
        if self._format.is_named and not self._is_array and not self._frame_call_count:
            return self._named(index)
        return self._fail()

    def _mark_at(self, index: int) -> bool | None:
        """The mark that ends the frame or begins the next; None where there is neither."""
        text = self._buffer.text
        for mark in (self._format.closing, self._format.opening):
            if mark and text.startswith(mark, index):
                is_closing = mark == self._format.closing
                self._buffer.take(self._position + (len(mark) if is_closing else 0))
                return self._leave()
            if mark and mark.startswith(text[index:]):
                return False
        return None

    def _named(self, index: int) -> bool:
        """A name, and the arguments behind it."""
        text = self._buffer.text
        opened = text.find("{", index)
        head = text[index : opened if opened >= 0 else len(text)]
        if opened < 0 and len(head) <= NAME_CHARS_MAX and "\n" not in head:
            return False
        found = _NAMED.fullmatch(head)
        if opened < 0 or found is None:
            return self._fail()
        return self._begin(CallReader.of_arguments(self._buffer.start + opened, found[1]))

    def _begin(self, reader: CallReader) -> bool:
        self._reader = reader
        self._is_started = False
        self._state = self._call
        return True

    def _call(self) -> bool:
        """Inside one call."""
        reader = self._reader
        reader.scan(self._buffer)
        if not self._is_started and not self._start():
            is_lost = reader.is_over or (reader.name and reader.name not in self._names)
            return self._fail() if is_lost else False
        if reader.arguments_start is not None:
            stop = reader.position if reader.arguments_stop is None else reader.arguments_stop
            if stop > self._buffer.start:
                self._argue(self._buffer.take(stop).text)
        if not reader.is_over:
            return False
        self._position = reader.position if reader.is_done else self._buffer.start
        self._buffer.take(self._position)
        self._frame_call_count += 1
        self._state = self._frame
        self.is_over = self._is_single
        return True

    def _start(self) -> bool:
        """Send the call's start if it is certain."""
        reader = self._reader
        if reader.name not in self._names:
            return False
        if reader.arguments_start is None and not reader.is_done:
            return False
        self._is_started = True
        self._call_count += 1
        call_id = new_call_id(self._format)
        self._contents.append(ToolCallStarted(self._call_count - 1, call_id, reader.name))
        if reader.arguments_start is None:
            # A call without arguments is a call with none.
            self._argue("{}")
        else:
            self._buffer.take(reader.arguments_start)
        return True

    def _argue(self, arguments: str) -> None:
        self._contents.append(ToolCallDelta(self._call_count - 1, arguments))


def new_call_id(tool_format: ToolFormat) -> str:
    """Mistral's templates take nine letters and digits, nothing else."""
    if tool_format.name == "mistral":
        return "".join(secrets.choice(_ID_CHARS) for _ in range(9))
    return "call_" + "".join(secrets.choice(_ID_CHARS) for _ in range(24))
