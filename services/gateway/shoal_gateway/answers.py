"""Who answers a task: this fleet, or a provider. Callers see one Answer either way."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from shoal_gateway.images import ImageUrls
from shoal_gateway.task import ChatTask, Event


class Answer(Protocol):
    """A task that is ready to be answered, once. `model` is the name of who answers."""

    @property
    def model(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Changes when the same seed may draw other tokens; "" where nobody knows."""
        ...

    def events(self) -> AsyncGenerator[Event, None]:
        """Ends after Finished, or raises ShoalError. Close it to give up."""
        ...

    def again(self, request_id: str, seed: int | None) -> Answer:
        """Another answer to the same task, drawn from that seed; None: from any."""
        ...


class Backend(Protocol):
    """Answers tasks for some models."""

    async def serves(self, model: str) -> bool:
        """Whether tasks for that model are this backend's; "" means the default model."""
        ...

    async def open(self, request_id: str, task: ChatTask) -> Answer:
        """Check and prepare. Raises InvalidRequest for what the caller must change."""
        ...

    async def count_tokens(self, task: ChatTask) -> int:
        """Tokens of the task's prompt. Raises as `open` does."""
        ...

    async def require_images(self, task: ChatTask) -> None:
        """Raises as `open` does where the task's model is known to read no images."""
        ...


class Meter(Protocol):
    """Counts what answers use."""

    def metered(self, request_id: str, task: ChatTask, answer: Answer) -> Answer:
        """The same answer, counted."""
        ...


class Answers:
    """The first backend that serves a model answers for it; the last one refuses by name."""

    def __init__(
        self,
        backends: Sequence[Backend],
        images: ImageUrls | None = None,
        meter: Meter | None = None,
    ) -> None:
        """Without `images`, those that a task names by URL are refused."""
        assert backends
        self._backends = tuple(backends)
        self._images = images or ImageUrls(is_on=False)
        self._meter = meter

    async def open(self, request_id: str, task: ChatTask) -> Answer:
        """Raises UnknownModel and whatever the backend finds wrong."""
        backend = await self._backend(task.model)
        answer = await backend.open(request_id, await self._with_images(backend, task))
        return answer if self._meter is None else self._meter.metered(request_id, task, answer)

    async def count_tokens(self, task: ChatTask) -> int:
        """Tokens of the task's prompt."""
        backend = await self._backend(task.model)
        return await backend.count_tokens(await self._with_images(backend, task))

    async def _with_images(self, backend: Backend, task: ChatTask) -> ChatTask:
        """Nothing is fetched for a model that would not look at it."""
        if not any(image.url for message in task.messages for image in message.images):
            return task
        await backend.require_images(task)
        return await self._images.fetched(task)

    async def _backend(self, model: str) -> Backend:
        for backend in self._backends[:-1]:
            if await backend.serves(model):
                return backend
        return self._backends[-1]
