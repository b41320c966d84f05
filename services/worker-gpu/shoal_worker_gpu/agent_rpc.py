"""gRPC on the agent: translation only."""

from __future__ import annotations

import grpc

from shoal.worker.v1 import worker_pb2, worker_pb2_grpc
from shoal_worker_gpu.agent import Agent
from shoal_worker_gpu.assignment import Assignment
from shoal_worker_gpu.metrics import AgentMetrics

Context = grpc.aio.ServicerContext[object, object]


class WorkerRpc(worker_pb2_grpc.WorkerServiceServicer):
    def __init__(self, agent: Agent, metrics: AgentMetrics) -> None:
        self._agent = agent
        self._metrics = metrics

    async def Load(
        self, request: worker_pb2.LoadRequest, context: Context
    ) -> worker_pb2.LoadResponse:
        assignment = Assignment(request.model, request.layer_start, request.layer_stop)
        status = self._agent.load(assignment, memory_bytes=request.memory_bytes)
        self._metrics.requests.labels("load").inc()
        return worker_pb2.LoadResponse(engine=status)

    async def Unload(
        self, request: worker_pb2.UnloadRequest, context: Context
    ) -> worker_pb2.UnloadResponse:
        assignment = Assignment(request.model, request.layer_start, request.layer_stop)
        await self._agent.unload(assignment, request.drain_ms / 1000)
        self._metrics.requests.labels("unload").inc()
        return worker_pb2.UnloadResponse()

    async def GetStatus(
        self, request: worker_pb2.GetStatusRequest, context: Context
    ) -> worker_pb2.GetStatusResponse:
        return worker_pb2.GetStatusResponse(beat=self._agent.beat())
