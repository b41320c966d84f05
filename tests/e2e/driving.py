"""What a driver does, without the gateway: a plan from the router, ids from the head."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from shoal.common.v1 import chat_pb2
from shoal.router.v1 import router_pb2, router_pb2_grpc
from shoal.worker.v1 import pipeline_pb2, stage_pb2, stage_pb2_grpc
from shoal_common.rpc import RpcChannel, address_of

SUITE = json.loads(
    (Path(__file__).resolve().parents[2] / "models" / "suite" / "prompts.json").read_text()
)


def prompt_ids(folder: Path, prompt: dict[str, Any]) -> list[int]:
    """The suite's prompt through the model's template, by transformers."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    text = tokenizer.apply_chat_template(
        prompt["messages"], tools=prompt.get("tools"), tokenize=False, add_generation_prompt=True
    )
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


class Driver:
    """Router and engines of one fleet."""

    def __init__(self, router_address: str, token: str) -> None:
        self._router_address = router_address
        self._token = token
        self._channels: dict[str, RpcChannel] = {}

    def _channel(self, where: str) -> RpcChannel:
        address = address_of(where)
        if address not in self._channels:
            self._channels[address] = RpcChannel(address, token=self._token)
        return self._channels[address]

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()

    @contextlib.asynccontextmanager
    async def plan(self, model: str) -> AsyncIterator[pipeline_pb2.Pipeline]:
        """A pipeline, held for as long as the context lasts."""
        stub = router_pb2_grpc.RouterServiceStub(self._channel(self._router_address).channel)
        call = stub.Plan()
        opening = router_pb2.PlanOpen(request_id="test", model=model, prompt_token_count=16)
        await call.write(router_pb2.PlanRequest(open=opening))
        try:
            while True:
                response = await call.read()
                assert response, "the router ended the plan"
                if response.HasField("plan"):
                    break
            yield response.plan.pipeline
        finally:
            call.cancel()

    async def generate(
        self,
        model: str,
        ids: Sequence[int],
        count: int,
        sampling: chat_pb2.SamplingSpec | None = None,
    ) -> list[int]:
        """`count` tokens behind `ids`, end-of-turn ids included."""
        async with self.plan(model) as pipeline:
            stub = stage_pb2_grpc.StageServiceStub(
                self._channel(pipeline.stages[0].locator).channel
            )
            request = stage_pb2.GenerateRequest(
                request_id="test",
                pipeline=pipeline,
                attempt=1,
                token_ids=stage_pb2.TokenIds(ids=ids),
                sampling=sampling,
                max_tokens=count,
                ignore_eos=True,
            )
            tokens: list[int] = []
            async for response in stub.Generate(request):
                for token in response.tokens.tokens:
                    assert response.tokens.first_position == len(tokens)
                    tokens.append(token.token_id)
            return tokens

    async def fleet(self) -> router_pb2.GetFleetResponse:
        stub = router_pb2_grpc.RouterServiceStub(self._channel(self._router_address).channel)
        response: router_pb2.GetFleetResponse = await stub.GetFleet(router_pb2.GetFleetRequest())
        return response

    async def readiness(self) -> dict[str, router_pb2.ModelReadiness]:
        """What a request for each model would meet."""
        stub = router_pb2_grpc.RouterServiceStub(self._channel(self._router_address).channel)
        response = await stub.ListModels(router_pb2.ListModelsRequest())
        return {model.model: model.readiness for model in response.models}

    async def sequence_counts(self) -> list[int]:
        """Sequences with KV, engine by engine."""
        counts = []
        for worker in (await self.fleet()).workers:
            for engine in worker.beat.engines:
                stub = stage_pb2_grpc.StageServiceStub(self._channel(engine.locator).channel)
                response = await stub.GetEngine(stage_pb2.GetEngineRequest())
                counts.append(response.sequence_count)
        return counts

    async def until_free(self, timeout_s: float = 5) -> None:
        """Wait until no stage holds a sequence any more."""
        async with asyncio.timeout(timeout_s):
            # Each round asks every engine, which is pause enough.
            while any(await self.sequence_counts()):
                pass
