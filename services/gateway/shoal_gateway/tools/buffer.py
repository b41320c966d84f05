"""Text that is not yet understood, with the logprobs that belong to it. Pure."""

from __future__ import annotations

from collections import deque

from shoal_gateway.task import TextDelta, TokenLogprob


class TextBuffer:
    """Positions count characters from the start of all text ever added.

    A token's logprobs leave with the character that its text ends with.
    """

    def __init__(self) -> None:
        # What was added and not taken; its first character stands at `start`.
        self.text = ""
        self.start = 0
        self._entries: deque[tuple[int, TokenLogprob]] = deque()

    @property
    def stop(self) -> int:
        """The position behind the last character."""
        return self.start + len(self.text)

    def add(self, delta: TextDelta) -> None:
        self.text += delta.text
        self._entries.extend((self.stop, entry) for entry in delta.logprobs)

    def take(self, stop: int) -> TextDelta:
        """Removes and returns what stands before `stop`."""
        assert self.start <= stop <= self.stop
        count = stop - self.start
        taken, self.text = self.text[:count], self.text[count:]
        self.start = stop
        entries = []
        while self._entries and self._entries[0][0] <= stop:
            entries.append(self._entries.popleft()[1])
        return TextDelta(taken, tuple(entries))


def overlap(text: str, marker: str) -> int:
    """Length of the longest end of `text` that begins `marker` without completing it."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0
