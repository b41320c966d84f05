"""One call as a JSON object, read as it arrives. Pure.

Only the frame is judged: a name, and arguments that open like an object. The arguments' own text is
followed by its brackets and strings, never changed: whether it is what the tool wants is for the
caller of the tool to say, as with any provider.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from shoal_gateway.tools.buffer import TextBuffer

ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
# Other keys that models write into a call; their values must be strings, and are not used.
SPARE_KEYS = frozenset({"id", "type"})
NAME_CHARS_MAX = 256

_NOT_SPACE = re.compile(r"[^ \t\r\n]")
_STRING_MARK = re.compile(r'["\\]')
_VALUE_MARK = re.compile(r'["{}\[\]]')


class CallReader:
    """Reads `{"name": ..., "arguments": {...}}`, keys in any order, in pieces of any size.

    All positions are those of the buffer. name: "" until it is whole. arguments_start is set once
    they have opened with `{` and a key or the end; arguments_stop once their brackets are closed.
    """

    def __init__(self, position: int) -> None:
        self.position = position
        self.name = ""
        self.arguments_start: int | None = None
        self.arguments_stop: int | None = None
        self.is_done = False
        self.is_broken = False
        self._state: Callable[[str, int], int] = self._open
        # Where the string or object that is being read begins.
        self._began = position
        # The position of the text that is being scanned.
        self._base = position
        self._is_escaped = False
        self._depth = 0
        self._key = ""
        self._keys: set[str] = set()
        self._has_frame = True

    @classmethod
    def of_arguments(cls, position: int, name: str) -> CallReader:
        """A call whose name stood before it: only the arguments' object is read."""
        reader = cls(position)
        reader.name = name
        reader._has_frame = False
        reader._state = reader._arguments_open
        return reader

    @property
    def is_over(self) -> bool:
        """Nothing more belongs to this call."""
        return self.is_done or self.is_broken

    def scan(self, buffer: TextBuffer) -> None:
        """Go on to the end of the call, of the text, or to where it breaks."""
        index = self.position - buffer.start
        self._base = buffer.start
        while index < len(buffer.text) and not self.is_over:
            index = self._state(buffer.text, index)
        self.position = buffer.start + index

    def _open(self, text: str, index: int) -> int:
        return self._expect(text, index, "{", self._first_key)

    def _first_key(self, text: str, index: int) -> int:
        return self._expect(text, index, '"', self._key_text)

    def _key_text(self, text: str, index: int) -> int:
        index, is_whole = self._string(text, index)
        if not is_whole:
            return index
        self._key = self._decoded(text, index)
        kind = "arguments" if self._key in ARGUMENT_KEYS else self._key
        is_known = kind == "arguments" or kind == "name" or kind in SPARE_KEYS
        if not is_known or kind in self._keys:
            return self._break(index)
        self._keys.add(kind)
        self._state = self._colon
        return index

    def _colon(self, text: str, index: int) -> int:
        is_arguments = self._key in ARGUMENT_KEYS
        return self._expect(text, index, ":", self._arguments_open if is_arguments else self._value)

    def _value(self, text: str, index: int) -> int:
        return self._expect(text, index, '"', self._value_text)

    def _value_text(self, text: str, index: int) -> int:
        index, is_whole = self._string(text, index)
        if not is_whole:
            if self._key == "name" and index + self._base - self._began > NAME_CHARS_MAX:
                return self._break(index)
            return index
        if self._key == "name":
            self.name = self._decoded(text, index)
            if not self.name:
                return self._break(index)
        self._state = self._after_value
        return index

    def _arguments_open(self, text: str, index: int) -> int:
        index = self._skip_space(text, index)
        if index < len(text) and text[index] == "{":
            self._began = self._base + index
        return self._expect(text, index, "{", self._arguments_first)

    def _arguments_first(self, text: str, index: int) -> int:
        index = self._skip_space(text, index)
        if index == len(text):
            return index
        if text[index] not in '"}':
            return self._break(index)
        self.arguments_start = self._began
        self._depth = 1
        self._state = self._arguments
        return index

    def _arguments(self, text: str, index: int) -> int:
        mark = _VALUE_MARK.search(text, index)
        if mark is None:
            return len(text)
        if mark[0] == '"':
            self._state = self._arguments_text
        else:
            self._depth += 1 if mark[0] in "{[" else -1
        if self._depth == 0:
            self.arguments_stop = self._base + mark.end()
            self._state = self._after_value
            self.is_done = not self._has_frame
        return mark.end()

    def _arguments_text(self, text: str, index: int) -> int:
        index, is_whole = self._string(text, index)
        if is_whole:
            self._state = self._arguments
        return index

    def _after_value(self, text: str, index: int) -> int:
        index = self._skip_space(text, index)
        if index == len(text):
            return index
        if text[index] == ",":
            self._state = self._first_key
        elif text[index] == "}" and self.name:
            self.is_done = True
        else:
            return self._break(index)
        return index + 1

    def _expect(self, text: str, index: int, char: str, state: Callable[[str, int], int]) -> int:
        """Skips white space up to `char`, and goes on behind it."""
        index = self._skip_space(text, index)
        if index == len(text):
            return index
        if text[index] != char:
            return self._break(index)
        if char == '"':
            self._began = self._base + index
        self._state = state
        return index + 1

    def _skip_space(self, text: str, index: int) -> int:
        found = _NOT_SPACE.search(text, index)
        return found.start() if found else len(text)

    def _string(self, text: str, index: int) -> tuple[int, bool]:
        """Goes on inside a string; returns whether it has ended."""
        if self._is_escaped:
            self._is_escaped = False
            return index + 1, False
        mark = _STRING_MARK.search(text, index)
        if mark is None:
            return len(text), False
        self._is_escaped = mark[0] == "\\"
        return mark.end(), not self._is_escaped

    def _decoded(self, text: str, index: int) -> str:
        """The string that ends before `index`; "" where it is not JSON."""
        try:
            return str(json.loads(text[self._began - self._base : index]))
        except ValueError:
            return ""

    def _break(self, index: int) -> int:
        self.is_broken = True
        return index
