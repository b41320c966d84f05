"""Counts the tokens of every answer, whichever dialect asked and whichever backend answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from shoal_gateway.access.budgets import Budgets
from shoal_gateway.answers import Answer
from shoal_gateway.history import History
from shoal_gateway.task import (
    Admitted,
    ChatTask,
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)


class TokenMeter:
    """Sends the usage of answers to their task's tenant and into the request history."""

    def __init__(self, budgets: Budgets, history: History) -> None:
        self._budgets = budgets
        self._history = history

    def metered(self, request_id: str, task: ChatTask, answer: Answer) -> Answer:
        """The same answer, counted."""
        self._history.answered_by(request_id, answer.model)
        return _Metered(answer, request_id, task.tenant, self)

    def answered_by(self, request_id: str, model: str) -> None:
        """Note who answers, where no Answer says so."""
        self._history.answered_by(request_id, model)

    def count(self, request_id: str, tenant: str, usage: Usage) -> None:
        """Add one answer's usage; for answers that no event stream carries, too."""
        spent = usage.spent
        self._budgets.count(tenant, spent.prompt_tokens, spent.completion_tokens)
        self._history.used(request_id, usage)

    def said(self, request_id: str, text: str) -> None:
        """Keep a piece of an answer, if answers are kept."""
        self._history.said(request_id, text)


class _Metered:
    """An answer that counts once, whether it is read to its end or given up."""

    def __init__(self, answer: Answer, request_id: str, tenant: str, meter: TokenMeter) -> None:
        self._answer = answer
        self._request_id = request_id
        self._tenant = tenant
        self._meter = meter

    @property
    def model(self) -> str:
        return self._answer.model

    @property
    def fingerprint(self) -> str:
        return self._answer.fingerprint

    def again(self, request_id: str, seed: int | None) -> Answer:
        answer = self._answer.again(request_id, seed)
        self._meter.answered_by(request_id, answer.model)
        return _Metered(answer, request_id, self._tenant, self._meter)

    async def events(self) -> AsyncGenerator[Event, None]:
        """The same events. Who leaves early pays for the prompt and one token for each piece."""
        prompt_tokens = piece_count = 0
        usage: Usage | None = None
        try:
            async with aclosing(self._answer.events()) as events:
                async for event in events:
                    match event:
                        case TextDelta() | ReasoningDelta() | ToolCallDelta():
                            piece_count += 1
                            if isinstance(event, TextDelta):
                                self._meter.said(self._request_id, event.text)
                        case Admitted():
                            prompt_tokens = event.prompt_tokens
                        case Finished():
                            usage = event.usage
                    yield event
        finally:
            usage = usage or Usage(prompt_tokens, piece_count)
            self._meter.count(self._request_id, self._tenant, usage)
