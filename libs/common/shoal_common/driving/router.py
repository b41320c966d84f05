"""The router as a driver sees it: which models there are, and plans held open.

Every call has a deadline or dies with its connection; errors come out as ShoalError.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Protocol, Self

from shoal.router.v1 import router_pb2, router_pb2_grpc
from shoal_common.driving.asking import asking
from shoal_common.errors import Unavailable
from shoal_common.rpc import RpcChannel


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
        with asking("the router"):
            response = await self._call.read()
        if not isinstance(response, router_pb2.PlanResponse):
            raise Unavailable("the router ended the plan; try again")
        return response

    async def report_lost(self, lost: router_pb2.StageLost) -> None:
        await self._write(router_pb2.PlanRequest(stage_lost=lost))

    async def _write(self, request: router_pb2.PlanRequest) -> None:
        try:
            with asking("the router"):
                await self._call.write(request)
        except asyncio.InvalidStateError:
            # The router has answered with an error already: `next` tells which.
            return


class GrpcRouter:
    def __init__(self, channel: RpcChannel, timeout_s: float) -> None:
        self._stub: Any = router_pb2_grpc.RouterServiceStub(channel.channel)
        self._timeout_s = timeout_s

    async def list_models(self) -> tuple[router_pb2.ModelState, ...]:
        with asking("the router"):
            answer = await self._stub.ListModels(
                router_pb2.ListModelsRequest(), timeout=self._timeout_s
            )
        return tuple(answer.models)

    def open_plan(self, request: router_pb2.PlanOpen) -> PlanStream:
        return GrpcPlanStream(self._stub, request)
