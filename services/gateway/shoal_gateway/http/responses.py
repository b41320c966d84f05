"""OpenAI's responses over HTTP: made, read again, resumed, cancelled, deleted."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from aiohttp import web

from shoal_common.clock import Clock
from shoal_common.errors import Internal, InvalidRequest, PromptTooLong, ShoalError
from shoal_gateway.answers import Answer, Answers
from shoal_gateway.dialects.responses import ResponsesRequest, new_response_id, parse
from shoal_gateway.dialects.responses_items import Item, cut_at, starts_of
from shoal_gateway.dialects.responses_options import check_ingress, is_response_id
from shoal_gateway.dialects.responses_output import WireEvent
from shoal_gateway.dialects.responses_render import (
    ResponseBuilder,
    ResponseHead,
    ResponseStream,
    StoredStream,
    frame,
)
from shoal_gateway.http.body import read_object
from shoal_gateway.http.caller import CALLER, for_caller
from shoal_gateway.http.middleware import REQUEST_ID, Handler
from shoal_gateway.http.paging import page_of, query_integer
from shoal_gateway.http.streaming import write_stream
from shoal_gateway.http.trail import trail_of
from shoal_gateway.metrics import Metrics, observed
from shoal_gateway.responses.background import BackgroundRuns
from shoal_gateway.responses.chain import earlier_items, with_references
from shoal_gateway.responses.errors import ResponseNotFound, ResponseTooLarge, StoreUnreachable
from shoal_gateway.responses.record import Record, to_json
from shoal_gateway.responses.store import ResponseStore
from shoal_gateway.task import Event

log = logging.getLogger(__name__)


class ResponsesRelay(Protocol):
    """Hands requests to providers that speak this very dialect."""

    async def relay(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse | None:
        """The provider's answer as it is; None when the body's model is not of such a provider."""
        ...

    async def ask(self, request: web.Request) -> web.StreamResponse | None:
        """The same for a request about one response; None when no such provider has it."""
        ...


@dataclass(frozen=True)
class Turn:
    """A request that will be answered. `own` are its items, references resolved."""

    asked: ResponsesRequest
    own: list[Item] = field(repr=False)
    head: ResponseHead
    builder: ResponseBuilder
    events: AsyncGenerator[Event, None]

    def record(self, is_logged: bool) -> Record:
        """What is stored of it by now."""
        return Record(
            response_id=self.head.response_id,
            tenant=self.asked.base.tenant,
            status=self.builder.status,
            created_at=self.head.created_at,
            model=self.head.model,
            previous_id=self.asked.previous_response_id,
            is_background=self.asked.is_background,
            is_logged=is_logged,
            response=self.builder.as_object(),
            items=self.own,
        )


class EventLog:
    """The events of one stream, as long as they are not too many to be stored."""

    def __init__(self, size_bytes_max: int) -> None:
        self.events: list[tuple[int, bytes]] = []
        self._room_bytes = size_bytes_max

    def add(self, events: list[WireEvent]) -> bytes:
        """Returns them as they go over the wire."""
        data = [(event["sequence_number"], frame(event)) for event in events]
        self._room_bytes -= sum(len(each) for _, each in data)
        if self._room_bytes >= 0:
            self.events.extend(data)
        else:
            self.events.clear()
        return b"".join(each for _, each in data)


@dataclass(frozen=True)
class ResponsesRoutes:
    """The handlers with what they need."""

    answers: Answers
    store: ResponseStore
    runs: BackgroundRuns
    metrics: Metrics
    clock: Clock
    is_strict: bool
    keep_alive_s: float
    relay: ResponsesRelay | None = None

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/responses", self.create)
        app.router.add_post("/v1/responses/input_tokens", self.count_tokens)
        one = "/v1/responses/{response_id}"
        app.router.add_get(one, self._here_or_far(self.show))
        app.router.add_delete(one, self._here_or_far(self.delete))
        app.router.add_post(f"{one}/cancel", self._here_or_far(self.cancel))
        app.router.add_get(f"{one}/input_items", self._here_or_far(self.list_items))
        app.on_shutdown.append(self._drain)

    async def create(self, request: web.Request) -> web.StreamResponse:
        body = await read_object(request)
        check_ingress(body)
        if self.relay is not None:
            relayed = await self.relay.relay(request, body)
            if relayed is not None:
                return relayed
        turn = await self._open(request, body)
        if turn.asked.is_background:
            return await self._create_in_background(request, turn)
        if turn.asked.is_stream:
            stream = ResponseStream(turn.builder)
            return await write_stream(request, self._frames(turn), stream, self.keep_alive_s)
        async with aclosing(turn.events) as events:
            async for event in events:
                turn.builder.feed(event)
        if not turn.builder.is_ended:
            raise Internal("the answer ended without a finish")
        await self._keep(turn, [])
        return web.json_response(turn.builder.as_object())

    async def count_tokens(self, request: web.Request) -> web.Response:
        body = await read_object(request)
        check_ingress(body)
        asked = self._parsed(request, body, new_response_id())
        own, earlier = await self._items(asked)
        with _blaming_input():
            count = await self.answers.count_tokens(asked.task([*earlier, *own]))
        return web.json_response({"object": "response.input_tokens", "input_tokens": count})

    async def show(self, request: web.Request) -> web.StreamResponse:
        record = await self._record(request)
        if request.query.get("stream", "false") != "true":
            return web.json_response(record.response)
        after = query_integer(request, "starting_after", -1, -1, 2**31 - 1)
        if not record.is_logged:
            raise InvalidRequest(
                "the events of this response were not kept: it was not made as a stream, or they "
                "were too many; leave 'stream' out",
                param="stream",
            )
        frames = self.store.tail(record, after)
        return await write_stream(request, frames, StoredStream(), self.keep_alive_s)

    async def delete(self, request: web.Request) -> web.Response:
        record = await self._record(request)
        if not record.is_ended:
            await self._cancelled(record)
        await self.store.delete(record.response_id)
        deleted = {"id": record.response_id, "object": "response", "deleted": True}
        return web.json_response(deleted)

    async def cancel(self, request: web.Request) -> web.Response:
        record = await self._record(request)
        if not record.is_background:
            raise InvalidRequest(
                "only a response made with 'background' can be cancelled; to end another one, "
                "close its connection",
                param="response_id",
            )
        if not record.is_ended:
            record = await self._cancelled(record)
        return web.json_response(record.response)

    async def list_items(self, request: web.Request) -> web.Response:
        """The items that the response was made from, those of earlier turns among them."""
        record = await self._record(request)
        items = await earlier_items(self.store, record.previous_id, record.tenant)
        return web.json_response(page_of(request, [*items, *record.items]))

    def _here_or_far(self, handler: Handler) -> Handler:
        """Asks a provider for the responses that are not kept here."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except ResponseNotFound:
                answer = await self.relay.ask(request) if self.relay is not None else None
                if answer is None:
                    raise
                return answer

        return handle

    async def _drain(self, app: web.Application) -> None:
        await self.runs.close()

    def _parsed(
        self, request: web.Request, body: dict[str, Any], response_id: str
    ) -> ResponsesRequest:
        asked = parse(body, response_id, self.is_strict)
        return replace(asked, base=for_caller(request, asked.base))

    async def _open(self, request: web.Request, body: dict[str, Any]) -> Turn:
        """Everything that can be refused is refused here."""
        response_id = new_response_id()
        asked = self._parsed(request, body, response_id)
        is_stored = asked.wants_store is not False and await self.store.is_up()
        if not is_stored and (asked.wants_store or asked.is_background):
            raise StoreUnreachable
        own, earlier = await self._items(asked)
        size_bytes = len(to_json(own)) + len(asked.instructions)
        if is_stored and size_bytes > self.store.limits.size_bytes_max:
            if asked.wants_store or asked.is_background:
                raise ResponseTooLarge(size_bytes, self.store.limits.size_bytes_max)
            is_stored = False
        answer = await self._answer(request[REQUEST_ID], asked, [*earlier, *own])
        head = ResponseHead(
            response_id=response_id,
            created_at=int(self.clock.time()),
            model=answer.model,
            is_background=asked.is_background,
            wants_logprobs=asked.base.logprobs,
            echo=asked.echo,
        )
        builder = ResponseBuilder(head, is_stored, self.clock.time)
        events = observed(answer.events(), self.metrics, self.clock, trail_of(request).note)
        return Turn(asked, own, head, builder, events)

    async def _items(self, asked: ResponsesRequest) -> tuple[list[Item], list[Item]]:
        """The items of the request itself, and those of the turns before it."""
        tenant = asked.base.tenant
        own = await with_references(self.store, asked.items, tenant)
        return own, await earlier_items(self.store, asked.previous_response_id, tenant)

    async def _answer(
        self, request_id: str, asked: ResponsesRequest, items: Sequence[Item]
    ) -> Answer:
        """An answer to as many of the last items as fit, where leaving some out is allowed."""
        with _blaming_input():
            try:
                return await self.answers.open(request_id, asked.task(items))
            except PromptTooLong as err:
                if not asked.truncates:
                    raise
                fitting, too_long = None, err
            starts = starts_of(items)
            while starts:
                middle = len(starts) // 2
                task = asked.task(cut_at(items, starts[middle]))
                try:
                    fitting = await self.answers.open(request_id, task)
                except PromptTooLong as err:
                    starts, too_long = starts[middle + 1 :], err
                else:
                    starts = starts[:middle]
            if fitting is None:
                raise too_long
            return fitting

    async def _frames(self, turn: Turn) -> AsyncGenerator[bytes, None]:
        """The stream of an answer on this connection; its last event leaves when it is stored."""
        builder = turn.builder
        kept = EventLog(self.store.limits.size_bytes_max if builder.is_stored else 0)
        yield kept.add(builder.begin())
        try:
            async with aclosing(turn.events) as events:
                async for event in events:
                    data = kept.add(builder.feed(event))
                    if builder.is_ended:
                        await self._keep(turn, kept.events)
                        yield data
                        return
                    yield data
            raise Internal("the answer ended without a finish")
        except ShoalError as err:
            data = kept.add(builder.fail(err))
            await self._keep(turn, kept.events)
            yield data
            raise

    async def _keep(self, turn: Turn, events: list[tuple[int, bytes]]) -> None:
        """Store an ended answer. Without Redis it is given all the same."""
        if not turn.builder.is_stored:
            return
        try:
            await self.store.save(turn.record(is_logged=bool(events)), events)
        except StoreUnreachable:
            turn.builder.is_stored = False
            log.warning("response not stored", extra={"response_id": turn.head.response_id})

    async def _create_in_background(self, request: web.Request, turn: Turn) -> web.StreamResponse:
        record = turn.record(is_logged=True)
        await self.runs.start(turn.builder, record, turn.events)
        if turn.asked.is_stream:
            frames = self.store.tail(record, -1)
            return await write_stream(request, frames, StoredStream(), self.keep_alive_s)
        location = {"Location": f"/v1/responses/{record.response_id}"}
        return web.json_response(record.response, status=202, headers=location)

    async def _record(self, request: web.Request) -> Record:
        response_id = request.match_info["response_id"]
        tenant = request[CALLER].tenant
        record = None
        if is_response_id(response_id):
            record = await self.store.load(response_id, tenant)
        if record is None:
            raise ResponseNotFound(response_id[:80])
        return record

    async def _cancelled(self, record: Record) -> Record:
        """The record once its producer, here or elsewhere, has ended it."""
        if not await self.runs.cancel(record.response_id):
            await self.store.ask_to_cancel(record.response_id)
            await self.store.wait_for_end(record)
        ended = await self.store.load(record.response_id, record.tenant)
        if ended is None:
            raise ResponseNotFound(record.response_id)
        return ended


@contextmanager
def _blaming_input() -> Iterator[None]:
    """This dialect calls the messages its input."""
    try:
        yield
    except InvalidRequest as err:
        if err.param is not None and err.param.startswith("messages"):
            err.param = "input"
        raise
