"""Outbound calls: router, first stages and shard store, each behind a Protocol.

Every call has a deadline or dies with its connection; errors come out as ShoalError.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, Self

import grpc

from shoal.router.v1 import router_pb2, router_pb2_grpc
from shoal.shard_store.v1 import shard_store_pb2, shard_store_pb2_grpc
from shoal.worker.v1 import stage_pb2, stage_pb2_grpc
from shoal_common.errors import Unauthenticated, Unavailable
from shoal_common.rpc import Dial, RpcChannel, address_of, translated
from shoal_gateway.errors import PeerRefused, PeerUnreachable, StageSilent
from shoal_gateway.silence import Silence

STAGE_CHANNELS_MAX = 64
FILE_SIZE_BYTES_MAX = 256 * 1024 * 1024


@contextmanager
def _asking(peer: str) -> Iterator[None]:
    """Calls inside raise ShoalError, and none that a client would take for its own fault.

    What gRPC itself says of a broken connection holds addresses; clients get a plain sentence.
    """
    try:
        with translated():
            yield
    except Unauthenticated as err:
        raise PeerRefused(peer) from err
    except Unavailable as err:
        if _comes_from_peer(err.__cause__):
            raise
        raise PeerUnreachable(peer) from err


def _comes_from_peer(cause: BaseException | None) -> bool:
    """True when the other side wrote the error, not the connection."""
    if not isinstance(cause, grpc.aio.AioRpcError):
        return False
    return any(key == "grpc-status-details-bin" for key, _ in cause.trailing_metadata() or ())


class PlanStream(Protocol):
    """One generation's hold on a pipeline. Leaving the context releases it, however it is left."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *failure: Any) -> None: ...
    async def next(self) -> router_pb2.PlanResponse:
        """The next queue position or plan; raises what the router answered instead."""
        ...

    async def report_lost(self, lost: router_pb2.StageLost) -> None: ...


class Router(Protocol):
    async def list_models(self) -> tuple[router_pb2.ModelState, ...]: ...
    def open_plan(self, request: router_pb2.PlanOpen) -> PlanStream: ...


class Stages(Protocol):
    def generate(
        self, locator: str, request: stage_pb2.GenerateRequest
    ) -> AsyncGenerator[stage_pb2.GenerateResponse, None]:
        """Events of one attempt; closing the iterator cancels it on every stage."""
        ...


class ShardStore(Protocol):
    async def read_manifest(self, model: str, revision: str) -> bytes: ...
    async def read_file(self, digest: str, size_bytes: int) -> bytes: ...


class GrpcPlanStream:
    """PlanStream over a router's bidirectional call."""

    def __init__(self, stub: Any, request: router_pb2.PlanOpen) -> None:
        self._stub = stub
        self._open = request
        self._call: Any = None

    async def __aenter__(self) -> Self:
        self._call = self._stub.Plan()
        try:
            await self._write(router_pb2.PlanRequest(open=self._open))
        except BaseException:
            self._call.cancel()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call.cancel()

    async def next(self) -> router_pb2.PlanResponse:
        with _asking("the router"):
            response = await self._call.read()
        if not isinstance(response, router_pb2.PlanResponse):
            raise Unavailable("the router ended the plan; try again")
        return response

    async def report_lost(self, lost: router_pb2.StageLost) -> None:
        await self._write(router_pb2.PlanRequest(stage_lost=lost))

    async def _write(self, request: router_pb2.PlanRequest) -> None:
        try:
            with _asking("the router"):
                await self._call.write(request)
        except asyncio.InvalidStateError:
            # The router has answered with an error already: `next` tells which.
            return


class GrpcRouter:
    def __init__(self, channel: RpcChannel, timeout_s: float) -> None:
        self._stub: Any = router_pb2_grpc.RouterServiceStub(channel.channel)
        self._timeout_s = timeout_s

    async def list_models(self) -> tuple[router_pb2.ModelState, ...]:
        with _asking("the router"):
            answer = await self._stub.ListModels(
                router_pb2.ListModelsRequest(), timeout=self._timeout_s
            )
        return tuple(answer.models)

    def open_plan(self, request: router_pb2.PlanOpen) -> PlanStream:
        return GrpcPlanStream(self._stub, request)


class GrpcStages:
    """One channel per head, the least recently used closed beyond a bound."""

    def __init__(
        self, token: str, idle_timeout_s: float, silence_s: float, dial: Dial = RpcChannel
    ) -> None:
        """silence_s: without a sign of life from a head for so long, it counts as lost."""
        self._dial = dial
        self._token = token
        self._idle_timeout_s = idle_timeout_s
        self._silence_s = silence_s
        self._channels: OrderedDict[str, RpcChannel] = OrderedDict()
        self._use_count: dict[str, int] = {}

    async def generate(
        self, locator: str, request: stage_pb2.GenerateRequest
    ) -> AsyncGenerator[stage_pb2.GenerateResponse, None]:
        channel = await self._acquire(locator)
        stub: Any = stage_pb2_grpc.StageServiceStub(channel.channel)
        request.keep_alive_ms = max(1, int(self._silence_s * 1000 / 4))
        call = stub.Generate(request)
        silence = Silence(call.cancel, self._silence_s, self._idle_timeout_s)
        try:
            while True:
                silence.is_waiting = True
                event = await _read(call, silence)
                if not isinstance(event, stage_pb2.GenerateResponse):
                    return
                is_news = not event.HasField("alive")
                silence.heard(carries_on=is_news)
                if is_news:
                    yield event
        finally:
            silence.close()
            call.cancel()
            self._use_count[locator] -= 1

    async def close(self) -> None:
        while self._channels:
            await self._channels.popitem()[1].close()

    async def _acquire(self, locator: str) -> RpcChannel:
        if locator not in self._channels:
            self._channels[locator] = self._dial(address_of(locator), token=self._token)
        self._channels.move_to_end(locator)
        self._use_count[locator] = self._use_count.get(locator, 0) + 1
        channel = self._channels[locator]
        idle = [key for key in self._channels if not self._use_count[key]]
        for key in idle[: max(0, len(self._channels) - STAGE_CHANNELS_MAX)]:
            del self._use_count[key]
            await self._channels.pop(key).close()
        return channel


async def _read(call: Any, silence: Silence) -> Any:
    """The call's next message, or its end. Raises StageSilent, and what the call ends with."""
    try:
        with _asking("a worker"):
            return await call.read()
    except asyncio.CancelledError as err:
        task = asyncio.current_task()
        if silence.exceeded_s is None or (task is not None and task.cancelling()):
            raise
        raise StageSilent(silence.exceeded_s) from err


class GrpcShardStore:
    def __init__(self, channel: RpcChannel, timeout_s: float) -> None:
        self._stub: Any = shard_store_pb2_grpc.ShardStoreServiceStub(channel.channel)
        self._timeout_s = timeout_s

    async def read_manifest(self, model: str, revision: str) -> bytes:
        request = shard_store_pb2.GetManifestRequest(model=model, revision=revision)
        with _asking("the shard store"):
            answer = await self._stub.GetManifest(request, timeout=self._timeout_s)
        return bytes(answer.manifest_json)

    async def read_file(self, digest: str, size_bytes: int) -> bytes:
        if size_bytes > FILE_SIZE_BYTES_MAX:
            raise Unavailable(f"a model file of {size_bytes} bytes is too large to read")
        request = shard_store_pb2.ReadBlobRequest(digest=digest)
        data = bytearray()
        call = self._stub.ReadBlob(request, timeout=self._timeout_s)
        try:
            with _asking("the shard store"):
                async for part in call:
                    data += part.data
        finally:
            call.cancel()
        return bytes(data)
