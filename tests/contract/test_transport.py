"""What every transport does: run against gRPC on real sockets and its in-memory fake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shoal.worker.v1 import stage_pb2, stage_pb2_grpc
from shoal_common import log as shoal_log
from shoal_common import trace
from shoal_common.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    StageFailed,
    Unauthenticated,
    Unavailable,
)
from shoal_common.rpc import RpcChannel, RpcServer, remaining_s, translated
from shoal_common.testing import MemoryRpc

TOKEN = "contract-token"
SERVICE = "shoal.worker.v1.StageService"
Context = Any


class Transport:
    """Servers and channels of one kind, all ended with the test."""

    def __init__(self, kind: str, folder: Path, stack: AsyncExitStack) -> None:
        self.kind = kind
        self._folder = folder
        self._stack = stack
        self._server_count = 0
        self.memory = MemoryRpc()

    async def serve(self, servicer: object, drain_timeout_s: float = 5.0) -> RpcServer:
        self._server_count += 1
        path = self._folder / f"{self._server_count}.sock"
        address = f"unix:{path}" if self.kind == "unix" else "127.0.0.1:0"
        make: Callable[..., RpcServer] = RpcServer
        if self.kind == "memory":
            make = self.memory.server
        server = make(address, token=TOKEN, drain_timeout_s=drain_timeout_s)
        server.add(stage_pb2_grpc.add_StageServiceServicer_to_server, servicer, SERVICE)
        await server.start()
        self._stack.push_async_callback(server.stop)
        return server

    def channel(self, address: str, token: str = TOKEN) -> RpcChannel:
        make: Callable[..., RpcChannel] = RpcChannel
        if self.kind == "memory":
            make = self.memory.channel
        channel = make(address, token=token)
        self._stack.push_async_callback(channel.close)
        return channel

    def stub(self, address: str, token: str = TOKEN) -> Any:
        return stage_pb2_grpc.StageServiceStub(self.channel(address, token).channel)


@pytest.fixture(params=["memory", "tcp", "unix"])
async def transport(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Transport]:
    async with AsyncExitStack() as stack:
        yield Transport(request.param, tmp_path, stack)


class Stage(stage_pb2_grpc.StageServiceServicer):
    """Streams and answers what the test wants."""

    def __init__(self, engine: Callable[[Context], Awaitable[None]] | None = None) -> None:
        self._engine = engine
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ended = asyncio.Event()

    async def GetEngine(self, request: Any, context: Context) -> Any:
        self.entered.set()
        if self._engine is not None:
            await self._engine(context)
        return stage_pb2.GetEngineResponse()

    async def Generate(self, request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            for position in range(request.max_tokens):
                tokens = stage_pb2.TokensDelta(first_position=position)
                yield stage_pb2.GenerateResponse(tokens=tokens)
            self.entered.set()
            await self.go_on.wait()
            if request.request_id == "fail":
                raise StageFailed("node-7", "went silent")
        finally:
            self.ended.set()

    async def Link(self, requests: Any, context: Context) -> AsyncIterator[Any]:
        async for _ in requests:
            yield stage_pb2.LinkResponse()


def generate(max_tokens: int = 1, request_id: str = "r") -> Any:
    return stage_pb2.GenerateRequest(max_tokens=max_tokens, request_id=request_id)


async def get_engine(stub: Any, **options: Any) -> Any:
    with translated():
        return await stub.GetEngine(stage_pb2.GetEngineRequest(), **options)


async def within(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 5)


async def test_unary_call_is_answered(transport: Transport) -> None:
    server = await transport.serve(Stage())
    assert await get_engine(transport.stub(server.address)) == stage_pb2.GetEngineResponse()


@pytest.mark.parametrize("token", ["", "wrong"])
async def test_missing_or_wrong_token_is_refused(transport: Transport, token: str) -> None:
    stage = Stage()
    server = await transport.serve(stage)
    stub = transport.stub(server.address, token)
    with pytest.raises(Unauthenticated, match="token"):
        await get_engine(stub)
    with pytest.raises(Unauthenticated), translated():
        async for _ in stub.Generate(generate()):
            pass
    assert not stage.entered.is_set()


async def test_stream_arrives_in_order_and_ends(transport: Transport) -> None:
    stage = Stage()
    stage.go_on.set()
    server = await transport.serve(stage)
    call = transport.stub(server.address).Generate(generate(100))
    assert [r.tokens.first_position async for r in call] == list(range(100))
    assert await call.code() is grpc.StatusCode.OK


async def test_both_directions_stream(transport: Transport) -> None:
    server = await transport.serve(Stage())
    call = transport.stub(server.address).Link()
    for _ in range(3):
        await call.write(stage_pb2.LinkRequest())
        assert await call.read() == stage_pb2.LinkResponse()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_error_behind_messages_keeps_its_class_and_fields(transport: Transport) -> None:
    stage = Stage()
    stage.go_on.set()
    server = await transport.serve(stage)
    call = transport.stub(server.address).Generate(generate(2, "fail"))
    for position in range(2):
        assert (await call.read()).tokens.first_position == position
    with pytest.raises(StageFailed, match="went silent") as caught, translated():
        await call.read()
    assert caught.value.node_id == "node-7"


async def test_unforeseen_error_is_internal_and_counted(
    transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(context: Context) -> None:
        raise ZeroDivisionError("a secret detail")

    server = await transport.serve(Stage(broken))
    with pytest.raises(Internal) as caught:
        await get_engine(transport.stub(server.address))
    assert "secret" not in str(caught.value)
    assert server.fault_count == 1
    assert any(record.exc_info for record in caplog.records)


async def test_cancelled_inner_work_does_not_leave_the_caller_waiting(transport: Transport) -> None:
    async def inner(context: Context) -> None:
        raise asyncio.CancelledError

    server = await transport.serve(Stage(inner))
    with pytest.raises(Cancelled):
        await get_engine(transport.stub(server.address), timeout=5)


async def test_unimplemented_method_says_so(transport: Transport) -> None:
    server = await transport.serve(Stage())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in transport.stub(server.address).Results(stage_pb2.ResultsRequest()):
            pass
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_nobody_at_the_address_is_unavailable(transport: Transport) -> None:
    server = await transport.serve(Stage())
    await server.stop()
    with pytest.raises(Unavailable):
        await get_engine(transport.stub(server.address), timeout=5)


async def test_deadline_ends_the_call_on_both_sides(transport: Transport) -> None:
    ended = asyncio.Event()

    async def slow(context: Context) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    server = await transport.serve(Stage(slow))
    with pytest.raises(DeadlineExceeded):
        await get_engine(transport.stub(server.address), timeout=0.1)
    await within(ended)


async def test_deadline_of_the_first_caller_bounds_the_next_hop(transport: Transport) -> None:
    left: dict[str, float | None] = {}

    async def last(context: Context) -> None:
        left["last"] = remaining_s(context)

    back = await transport.serve(Stage(last))
    stub = transport.stub(back.address)

    async def first(context: Context) -> None:
        left["first"] = remaining_s(context)
        await get_engine(stub, timeout=1000)

    front = await transport.serve(Stage(first))
    await get_engine(transport.stub(front.address), timeout=30)
    assert left["first"] is not None
    assert left["last"] is not None
    # gRPC rounds what it sends, by less than a second at this size.
    assert 0 < left["last"] <= left["first"] + 1 < 32


async def test_without_a_deadline_nothing_remains_to_be_counted(transport: Transport) -> None:
    left: list[float | None] = []

    async def note(context: Context) -> None:
        left.append(remaining_s(context))

    server = await transport.serve(Stage(note))
    await get_engine(transport.stub(server.address))
    assert left == [None]


async def test_cancelled_caller_reaches_a_waiting_handler(transport: Transport) -> None:
    stage = Stage()
    server = await transport.serve(stage)
    call = transport.stub(server.address).Generate(generate())
    await within(stage.entered)
    call.cancel()
    await within(stage.ended)
    assert call.cancelled()


async def test_cancelled_caller_reaches_a_handler_that_waits_to_write(transport: Transport) -> None:
    stage = Stage()
    server = await transport.serve(stage)
    call = transport.stub(server.address).Generate(generate(1_000_000))
    await call.read()
    call.cancel()
    await within(stage.ended)
    assert not stage.entered.is_set()


async def test_cancelled_task_cancels_its_unary_call(transport: Transport) -> None:
    ended = asyncio.Event()

    async def slow(context: Context) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    stage = Stage(slow)
    server = await transport.serve(stage)
    task = asyncio.create_task(get_engine(transport.stub(server.address)))
    await within(stage.entered)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await within(ended)


async def test_drain_ends_running_calls_and_refuses_new_ones(transport: Transport) -> None:
    stage = Stage()
    server = await transport.serve(stage)
    stub = transport.stub(server.address)
    call = stub.Generate(generate(1))
    await within(stage.entered)
    stopping = asyncio.create_task(server.stop())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await get_engine(stub, timeout=5)
    assert not stopping.done()
    stage.go_on.set()
    assert len([response async for response in call]) == 1
    await asyncio.wait_for(stopping, 5)
    await server.stop()


async def test_drain_cancels_what_outlasts_it(transport: Transport) -> None:
    stage = Stage()
    server = await transport.serve(stage, drain_timeout_s=0.05)
    call = transport.stub(server.address).Generate(generate(0))
    await within(stage.entered)
    await server.stop()
    await within(stage.ended)
    with pytest.raises((Unavailable, Cancelled)), translated():
        await call.read()


async def test_health_needs_no_token_and_watchers_do_not_hold_a_drain(transport: Transport) -> None:
    server = await transport.serve(Stage(), drain_timeout_s=30)
    stub: Any = health_pb2_grpc.HealthStub(transport.channel(server.address, "").channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
    assert (await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE))).status == serving
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == serving
    server.set_ready(False)
    assert (await watch.read()).status == not_serving
    server.set_ready(True)
    assert (await watch.read()).status == serving
    await asyncio.wait_for(server.stop(), 5)
    assert (await watch.read()).status == not_serving
    assert await watch.read() is grpc.aio.EOF


async def test_request_id_and_trace_reach_the_handler(transport: Transport) -> None:
    seen: list[tuple[object, str]] = []

    async def note(context: Context) -> None:
        seen.append((shoal_log.bound().get("request_id"), trace.trace_id()))

    server = await transport.serve(Stage(note))
    trace.setup("contract")
    with shoal_log.bind(request_id="req-1"), trace.span("outer"):
        await get_engine(transport.stub(server.address))
        assert seen == [("req-1", trace.trace_id())]


async def test_two_servers_cannot_share_an_address(transport: Transport) -> None:
    if transport.kind == "unix":
        pytest.skip("a later server takes a socket's name over, as after a crash")
    server = await transport.serve(Stage())
    make = transport.memory.server if transport.kind == "memory" else RpcServer
    with pytest.raises(OSError, match="cannot listen"):
        await make(server.address, token=TOKEN).start()


async def test_closed_channel_ends_its_calls(transport: Transport) -> None:
    stage = Stage()
    server = await transport.serve(stage)
    channel = transport.channel(server.address)
    stub: Any = stage_pb2_grpc.StageServiceStub(channel.channel)
    call = stub.Generate(generate(0))
    await within(stage.entered)
    await channel.close()
    await within(stage.ended)
    assert call.cancelled()
