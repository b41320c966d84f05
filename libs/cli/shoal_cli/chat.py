"""A conversation on the terminal, streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
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


def converse(
    chat: Chat,
    read_line: Callable[[], str],
    write: Callable[[str], None],
    complain: Callable[[str], None],
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> list[GatewayFailed]:
    """Ask and answer until an end of input or `/exit`; returns the errors of turns that failed.

    `run` runs one turn to its end. Ctrl-C (KeyboardInterrupt) during a reply gives that reply up,
    at the prompt it ends the conversation. Input is read while nothing else runs, so that a
    pending read never keeps the program alive.
    """
    failures: list[GatewayFailed] = []
    while True:
        try:
            text = read_line().strip()
        except (EOFError, KeyboardInterrupt):
            return failures
        if text in {"/exit", "/quit"}:
            return failures
        if not text:
            continue
        try:
            run(chat.say(text, write))
        except GatewayFailed as err:
            failures.append(err)
            complain(str(err))
        except KeyboardInterrupt:
            write(" [stopped]")
        write("\n")
