"""The services behind a gateway, played by one process: router, shard store and one stage.

`python -m bench.gateway.fleet` prints their addresses and serves until its standard input ends. Its
stage says `max_tokens` tokens, one every `--pace-s` seconds when the request wants more than one
token, so that the gateway's own way from token ids to events can be measured without a model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from blake3 import blake3

from bench.fleets import ROOT
from bench.gateway.upstream import URL_MARK
from shoal.router.v1 import router_pb2, router_pb2_grpc
from shoal.shard_store.v1 import shard_store_pb2, shard_store_pb2_grpc
from shoal.worker.v1 import pipeline_pb2, stage_pb2, stage_pb2_grpc
from shoal_common.app import run_service
from shoal_common.rpc import RpcServer, locator
from shoal_common.tokens import ModelTokens
from shoal_common.tokens.model_tokens import FILE_NAMES

MODEL = "heavyweight"
_FOLDER = ROOT / "models" / MODEL
_REVISION = "r1"
_SAID = "The sea is wide and the whales are singing. "
_PART_BYTES = 65536


def _files(folder: Path) -> dict[str, bytes]:
    return {n: (folder / n).read_bytes() for n in FILE_NAMES if (folder / n).exists()}


class Store(shard_store_pb2_grpc.ShardStoreServiceServicer):
    """The text files of one model."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files
        self._blobs = {blake3(data).hexdigest(): data for data in files.values()}

    async def GetManifest(self, request: Any, context: Any) -> Any:
        entries = {
            name: {"digest": blake3(data).hexdigest(), "size_bytes": len(data)}
            for name, data in self._files.items()
        }
        manifest = json.dumps({"format": 1, "files": entries}).encode()
        return shard_store_pb2.GetManifestResponse(
            model=MODEL, revision=_REVISION, manifest_json=manifest
        )

    async def ReadBlob(self, request: Any, context: Any) -> AsyncIterator[Any]:
        data = self._blobs[request.digest]
        for start in range(0, len(data), _PART_BYTES):
            part = data[start : start + _PART_BYTES]
            yield shard_store_pb2.ReadBlobResponse(offset_bytes=start, data=part)


class Stage(stage_pb2_grpc.StageServiceServicer):
    """Says the same words again and again, one token a message."""

    def __init__(self, token_ids: list[int], pace_s: float) -> None:
        self._token_ids = token_ids
        self._pace_s = pace_s

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield stage_pb2.GenerateResponse(admitted=stage_pb2.Admitted())
        loop = asyncio.get_running_loop()
        began = loop.time()
        for position in range(request.max_tokens):
            if request.max_tokens > 1:
                await asyncio.sleep(began + (position + 1) * self._pace_s - loop.time())
            token_id = self._token_ids[position % len(self._token_ids)]
            token = stage_pb2.GeneratedToken(token_id=token_id)
            delta = stage_pb2.TokensDelta(first_position=position, tokens=[token])
            yield stage_pb2.GenerateResponse(tokens=delta)
        finished = stage_pb2.Finished(reason=stage_pb2.FINISH_REASON_LENGTH)
        yield stage_pb2.GenerateResponse(finished=finished)


class Router(router_pb2_grpc.RouterServiceServicer):
    """One model on one stage; every plan is given at once."""

    def __init__(self, stage_locator: str) -> None:
        stage = pipeline_pb2.PipelineStage(
            node_id="node-a", incarnation="i1", layer_stop=6, locator=stage_locator
        )
        pipeline = pipeline_pb2.Pipeline(
            pipeline_id="p1", model=MODEL, model_revision=_REVISION, stages=[stage]
        )
        plan = router_pb2.Plan(attempt=1, pipeline=pipeline)
        self._plan = router_pb2.PlanResponse(plan=plan)

    async def ListModels(self, request: Any, context: Any) -> Any:
        state = router_pb2.ModelState(
            model=MODEL,
            revision=_REVISION,
            layer_count=6,
            is_ready=True,
            context_length=4096,
            readiness=router_pb2.MODEL_READINESS_READY,
        )
        return router_pb2.ListModelsResponse(models=[state])

    async def Plan(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for _ in requests:
            yield self._plan


async def serve(pace_s: float) -> None:
    files = _files(_FOLDER)
    token_ids = ModelTokens.from_files(files).encode(_SAID)
    servers = [RpcServer("127.0.0.1:0", drain_timeout_s=0.1) for _ in range(3)]
    stage, store, router = servers
    stage.add(stage_pb2_grpc.add_StageServiceServicer_to_server, Stage(token_ids, pace_s))
    store.add(shard_store_pb2_grpc.add_ShardStoreServiceServicer_to_server, Store(files))
    stage_locator = locator(await stage.start())
    router.add(router_pb2_grpc.add_RouterServiceServicer_to_server, Router(stage_locator))
    addresses = {"router": await router.start(), "store": await store.start()}
    print(URL_MARK + json.dumps(addresses), flush=True)
    try:
        await asyncio.to_thread(sys.stdin.read)
    finally:
        for server in servers:
            await server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pace-s", type=float, default=0.05)
    chosen = parser.parse_args()
    run_service(lambda: serve(chosen.pace_s))


if __name__ == "__main__":
    main()
