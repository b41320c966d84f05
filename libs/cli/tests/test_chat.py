"""A conversation ends, stops a reply and reports failures without losing the program."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

from shoal_cli.chat import Chat, converse
from shoal_cli.client import Delta
from shoal_cli.errors import GatewayFailed


class Echo:
    """A model that answers with the question."""

    async def stream(self, body: Mapping[str, Any]) -> AsyncIterator[Delta]:
        text = body["messages"][-1]["content"]
        if text == "fail":
            raise GatewayFailed("worker w1 was lost")
        yield Delta(text)
        if text == "long":
            raise KeyboardInterrupt


class Person:
    """Types `lines`; a class of exception among them is raised in place of a line."""

    def __init__(self, *lines: str | type[BaseException]) -> None:
        self._lines = iter(lines)
        self.seen = ""
        self.complaints: list[str] = []

    def read(self) -> str:
        line = next(self._lines, EOFError)
        if isinstance(line, str):
            return line
        raise line

    def write(self, text: str) -> None:
        self.seen += text

    def talk(self, chat: Chat) -> list[GatewayFailed]:
        return converse(chat, self.read, self.write, self.complaints.append, _run)


def _run(turn: Coroutine[Any, Any, None]) -> None:
    asyncio.run(turn)


def test_turns_are_kept_until_the_end_of_input() -> None:
    chat, person = Chat(Echo(), "m"), Person("one", "", "two")
    assert person.talk(chat) == []
    assert person.seen == "one\ntwo\n"
    assert [turn["content"] for turn in chat.turns] == ["one", "one", "two", "two"]


def test_exit_ends_before_the_next_line() -> None:
    person = Person("one", "/exit", "two")
    person.talk(Chat(Echo(), "m"))
    assert person.seen == "one\n"


def test_ctrl_c_during_a_reply_stops_the_reply_alone() -> None:
    chat, person = Chat(Echo(), "m"), Person("long", "short")
    assert person.talk(chat) == []
    assert person.seen == "long [stopped]\nshort\n"
    assert [turn["content"] for turn in chat.turns] == ["short", "short"]


def test_ctrl_c_at_the_prompt_ends_the_conversation() -> None:
    person = Person("one", KeyboardInterrupt, "two")
    person.talk(Chat(Echo(), "m"))
    assert person.seen == "one\n"


def test_failed_turn_is_told_and_the_next_one_works() -> None:
    person = Person("fail", "one")
    assert [str(err) for err in person.talk(Chat(Echo(), "m"))] == person.complaints
    assert person.complaints == ["worker w1 was lost"]
    assert person.seen == "\none\n"
