"""The fleet's own models as a backend."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from shoal.common.v1 import chat_pb2
from shoal_common.errors import Unavailable, UnknownModel
from shoal_gateway.completion import Completer
from shoal_gateway.errors import NoModelReady
from shoal_gateway.models import ModelDirectory
from shoal_gateway.prompt import Prepared, Prompts
from shoal_gateway.reply import Reply
from shoal_gateway.sampling import random_seed
from shoal_gateway.task import ChatTask, Event


@dataclass(frozen=True)
class LocalAnswer:
    """One generation on the fleet."""

    prepared: Prepared
    completer: Completer

    @property
    def model(self) -> str:
        return self.prepared.model

    @property
    def fingerprint(self) -> str:
        return f"fp_{self.prepared.revision[:12]}"

    def events(self) -> AsyncGenerator[Event, None]:
        return self.completer.run(self.prepared)

    def events_behind(self, reply: Reply) -> AsyncGenerator[Event, None]:
        """The same, going on from what there is of the answer already."""
        return self.completer.run(self.prepared, reply)

    def again(self, request_id: str, seed: int | None) -> LocalAnswer:
        return replace(self, prepared=drawn_anew(self.prepared, request_id, seed))


def drawn_anew(prepared: Prepared, request_id: str, seed: int | None) -> Prepared:
    """The same request under another id, drawn from that seed; None: from any."""
    sampling = chat_pb2.SamplingSpec()
    sampling.CopyFrom(prepared.sampling)
    sampling.seed = random_seed() if seed is None else seed
    return replace(prepared, request_id=request_id, sampling=sampling)


class LocalBackend:
    """Answers for every model that the router knows."""

    def __init__(self, directory: ModelDirectory, prompts: Prompts, completer: Completer) -> None:
        self.directory = directory
        self.prompts = prompts
        self.completer = completer

    async def serves(self, model: str) -> bool:
        """By what the router said within the last second: models of providers must not cost a
        question to it, nor fail with it. A newer model is still found by the last in line."""
        try:
            if not model:
                await self.directory.find(model)
                return True
            return any(state.model == model for state in await self.directory.states())
        except (NoModelReady, UnknownModel, Unavailable):
            return False

    async def open(self, request_id: str, task: ChatTask) -> LocalAnswer:
        return LocalAnswer(await self.prompts.prepare(request_id, task), self.completer)

    async def count_tokens(self, task: ChatTask) -> int:
        return await self.prompts.count_tokens(task)

    async def require_images(self, task: ChatTask) -> None:
        await self.prompts.require_images(task)
