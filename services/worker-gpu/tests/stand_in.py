"""A program that answers like an engine child, without its minutes of loading.

What it says of itself is read, at every question, from a file beside its ready file, named after
its model: `heavyweight.json` with fields of EngineStatus, and `links` as LinkTimes. Its weights are
as large as it may be.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from shoal.worker.v1 import pipeline_pb2, stage_pb2, stage_pb2_grpc
from shoal_common.app import die_with_parent, run_service, until_signal, write_ready_file
from shoal_common.clock import SystemClock
from shoal_common.rpc import RpcServer
from shoal_worker_gpu.order import Order

STAND_IN = (sys.executable, str(Path(__file__)))


class FastClock(SystemClock):
    """Twenty of its seconds are one, for tests that do not depend on how long a thing takes."""

    def monotonic(self) -> float:
        return 20 * super().monotonic()

    async def sleep(self, delay_s: float) -> None:
        await super().sleep(delay_s / 20)


class Engine(stage_pb2_grpc.StageServiceServicer):
    def __init__(self, order: Order) -> None:
        self._path = order.ready_file.with_name(f"{order.assignment.model}.json")
        self._model = order.assignment.model
        self._memory_max_bytes = order.memory_max_bytes or 0

    async def GetEngine(
        self, request: stage_pb2.GetEngineRequest, context: object
    ) -> stage_pb2.GetEngineResponse:
        fields: dict[str, Any] = {"state": "ENGINE_STATE_READY", "idle_ms": "3600000"}
        if self._path.exists():
            fields |= json.loads(self._path.read_text())
        links = [pipeline_pb2.LinkTime(**link) for link in fields.pop("links", [])]
        status = pipeline_pb2.EngineStatus(model=self._model, weight_bytes=self._memory_max_bytes)
        json_format.ParseDict(fields, status)
        return stage_pb2.GetEngineResponse(engine=status, links=links)


async def main(order: Order) -> None:
    server = RpcServer("127.0.0.1:0", token=order.token, drain_timeout_s=0)
    server.add(stage_pb2_grpc.add_StageServiceServicer_to_server, Engine(order))
    write_ready_file(order.ready_file, grpc=await server.start())
    await until_signal()
    await server.stop()


if __name__ == "__main__":
    order = Order.parse(Path(sys.argv[1]).read_text())
    die_with_parent(order.agent_pid)
    run_service(lambda: main(order))
