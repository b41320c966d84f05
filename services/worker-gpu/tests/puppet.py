"""A last stage that does what a test tells it, behind a real gRPC server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from shoal.worker.v1 import pipeline_pb2, stage_pb2, stage_pb2_grpc
from shoal_common.ids import new_incarnation
from shoal_common.rpc import RpcServer, locator


class Puppet(stage_pb2_grpc.StageServiceServicer):
    """Hears one link in `heard`; says on it and on the results only what it is told to.

    It answers pings by itself: its process lives, unless it `is_deaf`.
    """

    def __init__(self, layer_start: int, layer_stop: int) -> None:
        self.heard: asyncio.Queue[stage_pb2.LinkRequest] = asyncio.Queue()
        self.incarnation = new_incarnation()
        self.is_deaf = False
        self._layers = (layer_start, layer_stop)
        self._replies: asyncio.Queue[stage_pb2.LinkResponse] = asyncio.Queue()
        self._results: asyncio.Queue[stage_pb2.ResultsResponse] = asyncio.Queue()
        self._server = RpcServer("127.0.0.1:0", drain_timeout_s=0)

    async def Link(
        self, request_iterator: AsyncIterator[stage_pb2.LinkRequest], context: Any
    ) -> AsyncIterator[stage_pb2.LinkResponse]:
        await anext(aiter(request_iterator))
        reader = asyncio.create_task(self._read(request_iterator))
        try:
            yield stage_pb2.LinkResponse(ready=stage_pb2.LinkReady(incarnation=self.incarnation))
            while True:
                yield await self._replies.get()
        finally:
            reader.cancel()

    async def Results(
        self, request: stage_pb2.ResultsRequest, context: Any
    ) -> AsyncIterator[stage_pb2.ResultsResponse]:
        yield stage_pb2.ResultsResponse(ready=stage_pb2.LinkReady(incarnation=self.incarnation))
        while True:
            yield await self._results.get()

    async def _read(self, requests: AsyncIterator[stage_pb2.LinkRequest]) -> None:
        async for request in requests:
            if not request.HasField("ping"):
                self.heard.put_nowait(request)
            elif not self.is_deaf:
                self._ack(stage_pb2.Ack(step_id=request.ping.number))

    async def hear(self, kind: str) -> Any:
        """The next message of a kind; others before it are skipped."""
        async with asyncio.timeout(20):
            while True:
                request = await self.heard.get()
                if request.WhichOneof("message") == kind:
                    return getattr(request, kind)

    def grant(self, asked: stage_pb2.Attach | stage_pb2.Grow) -> None:
        granted = stage_pb2.Granted(key=asked.key, blocks_granted=asked.blocks_wanted)
        self._replies.put_nowait(stage_pb2.LinkResponse(granted=granted))

    def refuse(self, key: stage_pb2.SequenceKey, reason: str) -> None:
        refused = stage_pb2.SequenceRefused(
            key=key, reason=reason, detail="no strings", node_id="puppet"
        )
        self._replies.put_nowait(stage_pb2.LinkResponse(refused=refused))

    def ack(self, frame: stage_pb2.Frame) -> None:
        self._ack(stage_pb2.Ack(step_id=frame.step_id, head_incarnation=frame.head_incarnation))

    def _ack(self, ack: stage_pb2.Ack) -> None:
        self._replies.put_nowait(stage_pb2.LinkResponse(ack=ack))

    def answer(self, frame: stage_pb2.Frame, token_id: int) -> None:
        """Receipt, and the same token for every row."""
        self.ack(frame)
        rows = [
            stage_pb2.RowResult(
                key=row.key,
                position=row.position + row.count - 1,
                token=stage_pb2.GeneratedToken(token_id=token_id),
            )
            for row in frame.rows
        ]
        step = stage_pb2.StepResult(step_id=frame.step_id, rows=rows)
        self._results.put_nowait(stage_pb2.ResultsResponse(step=step))

    def stage(self) -> pipeline_pb2.PipelineStage:
        return pipeline_pb2.PipelineStage(
            node_id="puppet",
            incarnation=self.incarnation,
            layer_start=self._layers[0],
            layer_stop=self._layers[1],
            locator=locator(self._server.address),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Puppet]:
        async with AsyncExitStack() as stack:
            self._server.add(stage_pb2_grpc.add_StageServiceServicer_to_server, self)
            await self._server.start()
            stack.push_async_callback(self._server.stop)
            yield self
