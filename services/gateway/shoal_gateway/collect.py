"""A whole answer out of its events, for clients that do not stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from shoal_common.errors import Internal
from shoal_gateway.task import (
    Admitted,
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)


@dataclass
class Collected:
    """What one answer said, in whole."""

    reasoning: str = ""
    signature: str = ""
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    finished: Finished = field(default_factory=lambda: Finished("stop", Usage(0, 0)))

    def add(self, event: Event) -> None:
        """Take the next event."""
        match event:
            case TextDelta():
                self.text += event.text
                self.logprobs.extend(event.logprobs)
            case ReasoningDelta():
                self.reasoning += event.text
                self.signature = event.signature or self.signature
            case ToolCallStarted():
                assert event.index == len(self.calls), "calls are counted from 0"
                self.calls.append(ToolCall(event.call_id, event.name, ""))
            case ToolCallDelta():
                call = self.calls[event.index]
                arguments = call.arguments + event.arguments
                self.calls[event.index] = ToolCall(call.call_id, call.name, arguments)
            case Finished():
                self.finished = event
            case Admitted():
                pass


async def collect(events: AsyncGenerator[Event, None]) -> Collected:
    """Read an answer to its end. Raises what the events raise."""
    whole = Collected()
    async with aclosing(events):
        async for event in events:
            whole.add(event)
            if isinstance(event, Finished):
                return whole
    raise Internal("the answer ended without a finish")
