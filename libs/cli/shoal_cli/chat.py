"""A conversation on the terminal, streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from shoal_cli.client import Delta
from shoal_cli.errors import GatewayFailed


class Streams(Protocol):
    """The part of the gateway's client that a chat uses."""

    def stream(self, body: Mapping[str, Any]) -> AsyncIterator[Delta]: ...


@dataclass
class Chat:
    """The turns so far. A turn that failed leaves no trace in them."""

    client: Streams
    model: str
    system: str | None = None
    max_tokens: int = 2048
    temperature: float = 0.7
    turns: list[dict[str, str]] = field(default_factory=list)

    def request(self, text: str) -> dict[str, Any]:
        """The request that asks `text` after all turns so far."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        return {
            "model": self.model,
            "messages": [*head, *self.turns, {"role": "user", "content": text}],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }

    async def say(self, text: str, write: Callable[[str], None]) -> None:
        """One turn; `write` gets the reply piece by piece. Raises GatewayFailed."""
        pieces: list[str] = []
        async for delta in self.client.stream(self.request(text)):
            if delta.text:
                pieces.append(delta.text)
                write(delta.text)
        self.turns += [
            {"role": "user", "content": text},
            {"role": "assistant", "content": "".join(pieces)},
        ]


async def converse(chat: Chat, read_line: Callable[[], str], write: Callable[[str], None]) -> None:
    """Ask and answer until an end of input or `/exit`; a failed turn is told and may be retried."""
    while True:
        try:
            text = (await asyncio.to_thread(read_line)).strip()
        except EOFError:
            return
        if text in {"/exit", "/quit"}:
            return
        if not text:
            continue
        try:
            await chat.say(text, write)
        except GatewayFailed as err:
            write(f"[{err}]")
        write("\n")
