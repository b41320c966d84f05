"""Clients of the fleet: each asks one gateway's driver, reads, and notes what it saw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from shoal.common.v1 import chat_pb2
from shoal_common import log as shoal_log
from shoal_common.errors import ShoalError
from shoal_common.testing.virtual_time import in_process
from shoal_gateway.prompt import Prepared
from shoal_gateway.shape import PLAIN
from shoal_gateway.task import Admitted, ChatTask, Event, Finished, Queued, TextDelta
from tests.sim.fleet import MODEL, REVISION, Fleet, GatewayProcess
from tests.sim.model import STOP_IDS, expected_ids
from tests.sim.scenario import LAYER_COUNT, Request


@dataclass
class Seen:
    """What one client saw of its request. ends: how it ended, once if all is well."""

    request: Request
    gateway: GatewayProcess | None = None
    ids: list[int] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    finished: Finished | None = None
    error: ShoalError | None = None
    admitted_count: int = 0
    has_left: bool = False
    heard_at_s: float = 0.0
    longest_wait_s: float = 0.0
    """Between two events, from the first admission on."""

    @property
    def is_over(self) -> bool:
        """Ended, or lost with its gateway."""
        return bool(self.ends) or (self.gateway is not None and self.gateway.is_dead)

    @property
    def expected(self) -> tuple[int, ...]:
        return expected_ids(self.request.prompt, self.request.max_tokens, LAYER_COUNT)

    @property
    def said(self) -> tuple[int, ...]:
        """Of these, the ones that a client gets to see."""
        return tuple(token_id for token_id in self.expected if token_id not in STOP_IDS)


class Texts:
    """Says each id as a number and a space, so that a text shows which ids it is of."""

    stop_token_ids = sorted(STOP_IDS)
    generation_config: dict[str, Any] = {}  # noqa: RUF012 read only

    def detokenizer(self, visible: object) -> Any:
        del visible
        return SimpleNamespace(feed=_text_of, flush=lambda: "")

    def token_bytes(self, token_id: int) -> bytes:
        return b"%d " % token_id


def _text_of(ids: list[int]) -> str:
    return "".join(f"{token_id} " for token_id in ids if token_id not in STOP_IDS)


class Clients:
    """All requests of a scenario."""

    def __init__(self, fleet: Fleet, tell: Any) -> None:
        self._fleet = fleet
        self._tell = tell
        self.seen = [Seen(request) for request in fleet.scenario.requests]

    def start(self) -> None:
        for seen in self.seen:
            self._fleet.loop.call_at(1000.0 + seen.request.at_s, self._begin, seen)

    def ask(self, request: Request) -> Seen:
        """One more, now."""
        self.seen.append(Seen(request))
        self._begin(self.seen[-1])
        return self.seen[-1]

    def _begin(self, seen: Seen) -> None:
        gateway = self._fleet.gateways[f"gateway{seen.request.gateway}"]
        seen.gateway = gateway
        seen.heard_at_s = self._fleet.loop.time()
        with in_process(gateway.name), shoal_log.bind(request_id=seen.request.name):
            self._fleet.loop.create_task(self._live(seen, gateway))

    async def _live(self, seen: Seen, gateway: GatewayProcess) -> None:
        await gateway.ready.wait()
        request = seen.request
        self._tell(f"{request.name} asks for {request.max_tokens} behind {len(request.prompt)}")
        try:
            async with aclosing(gateway.completer.run(_prepared(request))) as events:
                if request.cancel_after == 0:
                    await self._leave_early(seen, events)
                else:
                    await self._read(seen, events)
        except ShoalError as err:
            seen.error = err
            self._end(seen, f"error {err.reason}: {err}")
        except Exception as err:
            self._end(seen, f"crash {err!r}")
            raise

    async def _leave_early(self, seen: Seen, events: AsyncGenerator[Event, None]) -> None:
        """Gone before the first token, as a rule."""
        try:
            async with asyncio.timeout(0.05):
                await self._read(seen, events)
        except TimeoutError:
            seen.has_left = True
            self._end(seen, "left")

    async def _read(self, seen: Seen, events: AsyncGenerator[Event, None]) -> None:
        async for event in events:
            self._note(seen, event)
            limit = seen.request.cancel_after
            if limit and len(seen.ids) >= limit and seen.finished is None:
                seen.has_left = True
                self._end(seen, "left")
                return
        if seen.finished is None:
            self._end(seen, "nothing more")

    def _note(self, seen: Seen, event: Event) -> None:
        now_s = self._fleet.loop.time()
        if seen.admitted_count:
            seen.longest_wait_s = max(seen.longest_wait_s, now_s - seen.heard_at_s)
        seen.heard_at_s = now_s
        if isinstance(event, TextDelta):
            seen.ids += map(int, event.text.split())
        elif isinstance(event, Admitted):
            seen.admitted_count += 1
            self._tell(f"{seen.request.name} admitted, {event.cached_tokens} cached")
        elif isinstance(event, Finished):
            seen.finished = event
            self._end(seen, f"finished {event.reason}")
        elif isinstance(event, Queued):
            self._tell(f"{seen.request.name} queued at {event.position}")

    def _end(self, seen: Seen, how: str) -> None:
        seen.ends.append(how)
        self._tell(f"{seen.request.name} {how} after {len(seen.ids)} tokens")


def _prepared(request: Request) -> Prepared:
    task = ChatTask(
        model=MODEL,
        messages=(),
        max_tokens=request.max_tokens,
        session_id=request.session_id,
        tenant=request.tenant,
    )
    tokens: Any = Texts()
    return Prepared(
        request_id=request.name,
        task=task,
        model=MODEL,
        revision=REVISION,
        tokens=tokens,
        reading=PLAIN,
        prompt_ids=request.prompt,
        sampling=chat_pb2.SamplingSpec(),
        grammar=None,
        max_tokens=request.max_tokens,
    )
