"""A provider's stream passed on as bytes, and what it used, read on the way. Pure.

Bytes go on in whole events, as many as a read brought; only events that tell usage are parsed.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from shoal_gateway.providers.read_openai import usage_of
from shoal_gateway.providers.values import count, obj
from shoal_gateway.task import Usage

# An escaped one, inside a text, has a backslash before its second quotation mark.
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_ERROR = re.compile(rb'"error"\s*:\s*[{"]')
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')


class RelayedStream:
    """One stream. With `drops_usage`, OpenAI's last chunk, that nobody asked for, is left out."""

    def __init__(self, drops_usage: bool) -> None:
        self._drops_usage = drops_usage
        self._rest = b""
        self._usage: dict[str, Any] = {}
        self.event_count = 0
        # The error that the provider sent instead of going on; nothing after it is passed on.
        self.error: dict[str, Any] = {}

    @property
    def waiting_size_bytes(self) -> int:
        """Of an event that is not complete."""
        return len(self._rest)

    def feed(self, chunk: bytes) -> bytes:
        """What can be passed on."""
        data = self._rest + chunk
        stop = max(data.rfind(b"\n\n") + 2, data.rfind(b"\r\n\r\n") + 4)
        if stop < 4:
            self._rest = data
            return b""
        self._rest = data[stop:]
        return self._passed(data[:stop])

    def flush(self) -> bytes:
        """What is left at the end."""
        rest, self._rest = self._rest, b""
        return self._passed(rest)

    def usage(self) -> Usage | None:
        """None if the stream told none."""
        return usage_from(self._usage) if self._usage else None

    def _passed(self, events: bytes) -> bytes:
        self.event_count += events.count(b"data:")
        may_fail = _ERROR.search(events) is not None
        if not may_fail and _USAGE.search(events) is None:
            return events
        kept = []
        for event in re.split(rb"(?<=\n\n)|(?<=\r\n\r\n)", events):
            if may_fail and (value := value_of(event)).get("error"):
                self.error = value
                break
            if _USAGE.search(event) is not None:
                self._usage |= usage_fields(event)
                if self._drops_usage and _NO_CHOICES.search(event) is not None:
                    continue
            kept.append(event)
        return b"".join(kept)


def value_of(event: bytes) -> dict[str, Any]:
    """The object in one event or whole body; empty if there is none."""
    lines = [line[5:] for line in event.splitlines() if line.startswith(b"data:")]
    try:
        return obj(orjson.loads(b"".join(lines) or event))
    except orjson.JSONDecodeError:
        return {}


def usage_fields(event: bytes) -> dict[str, Any]:
    """The usage object of one event or whole body."""
    return usage_in(value_of(event))


def usage_in(value: dict[str, Any]) -> dict[str, Any]:
    """The usage object, wherever its dialect puts it."""
    for place in (value, obj(value.get("message")), obj(value.get("response"))):
        if found := obj(place.get("usage")):
            return {name: entry for name, entry in found.items() if entry is not None}
    return {}


def usage_from(fields: dict[str, Any]) -> Usage:
    """From any of the three dialects."""
    if "prompt_tokens" in fields:
        return usage_of(fields)
    # Anthropic counts what came from its cache, or went there, apart.
    cached = count(fields.get("cache_read_input_tokens"))
    written = count(fields.get("cache_creation_input_tokens"))
    details = obj(fields.get("output_tokens_details"))
    return Usage(
        prompt_tokens=count(fields.get("input_tokens")) + cached + written,
        completion_tokens=count(fields.get("output_tokens")),
        cached_tokens=cached or count(obj(fields.get("input_tokens_details")).get("cached_tokens")),
        reasoning_tokens=count(details.get("reasoning_tokens")),
    )
