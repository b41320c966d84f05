"""The heads of pipelines as a driver sees them: one call for each attempt at a generation.

Errors come out as ShoalError; a head that is silent for too long counts as lost.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from shoal.worker.v1 import stage_pb2, stage_pb2_grpc
from shoal_common.driving.asking import asking
from shoal_common.driving.errors import StageSilent
from shoal_common.driving.silence import Silence
from shoal_common.rpc import Dial, RpcChannel, address_of

STAGE_CHANNELS_MAX = 64


class Stages(Protocol):
    def generate(
        self, locator: str, request: stage_pb2.GenerateRequest
    ) -> AsyncGenerator[stage_pb2.GenerateResponse, None]:
        """Events of one attempt; closing the iterator cancels it on every stage."""
        ...


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
        with asking("a worker"):
            return await call.read()
    except asyncio.CancelledError as err:
        task = asyncio.current_task()
        if silence.exceeded_s is None or (task is not None and task.cancelling()):
            raise
        raise StageSilent(silence.exceeded_s) from err
