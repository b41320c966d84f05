"""Stop strings over a stream of text."""

from __future__ import annotations

from collections.abc import Sequence


class StopChecker:
    """Lets text through up to the first stop string; no part of one ever passes.

    Holds back at most as many characters as the longest stop string less one.
    """

    def __init__(self, stop_strings: Sequence[str]) -> None:
        assert all(stop_strings), "an empty stop string would stop everything"
        self._stop_strings = tuple(stop_strings)
        self._held = ""
        # The stop string that ended the text.
        self.found: str | None = None

    @property
    def is_stopped(self) -> bool:
        """A stop string was found."""
        return self.found is not None

    def feed(self, text: str) -> str:
        """Returns what may be sent now; after a stop string nothing more is."""
        if self.is_stopped:
            return ""
        window = self._held + text
        found = [(at, stop) for stop in self._stop_strings if (at := window.find(stop)) >= 0]
        if found:
            start, self.found = min(found)
            self._held = ""
            return window[:start]
        keep = self._prefix_length(window)
        self._held = window[len(window) - keep :]
        return window[: len(window) - keep]

    def flush(self) -> str:
        """Returns what was held back; call it once, when no more text comes."""
        held, self._held = self._held, ""
        return held

    def _prefix_length(self, window: str) -> int:
        """Length of the longest end of `window` with which a stop string could begin."""
        longest = 0
        for stop in self._stop_strings:
            for length in range(min(len(stop) - 1, len(window)), longest, -1):
                if window.endswith(stop[:length]):
                    longest = length
                    break
        return longest
