"""Several answers to one prompt at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from shoal_gateway.answers import Answer, Answers
from shoal_gateway.task import ChatTask, Event

# Events of one answer that may wait for a slow client.
_WAITING_MAX = 64


async def open_choices(answers: Answers, request_id: str, task: ChatTask) -> list[Answer]:
    """Prepare `task.choice_count` answers; each draws from a seed of its own."""
    if task.choice_count == 1:
        return [await answers.open(request_id, task)]
    # The prompt is made once for all of them.
    first = await answers.open(f"{request_id}-0", replace(task, choice_count=1))
    seed = task.sampling.seed
    others = range(1, task.choice_count)
    seeds = (None if seed is None else (seed + index) % 2**64 for index in others)
    return [first] + [
        first.again(f"{request_id}-{index}", other)
        for index, other in zip(others, seeds, strict=True)
    ]


async def merged(
    sources: Sequence[AsyncGenerator[Event, None]],
) -> AsyncGenerator[tuple[int, Event], None]:
    """The events of all sources as they come, each with its source's index.

    The first error ends all. Closing it closes every source.
    """
    if len(sources) == 1:
        async with aclosing(sources[0]) as source:
            async for event in source:
                yield 0, event
        return
    queue: asyncio.Queue[tuple[int, Event] | BaseException | None] = asyncio.Queue(_WAITING_MAX)
    tasks = [asyncio.create_task(_pump(index, s, queue)) for index, s in enumerate(sources)]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if item is None:
                left -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    index: int,
    source: AsyncGenerator[Event, None],
    queue: asyncio.Queue[tuple[int, Event] | BaseException | None],
) -> None:
    async with aclosing(source):
        try:
            async for event in source:
                await queue.put((index, event))
        # Whatever it is, the reader raises it.
        except Exception as err:
            await queue.put(err)
        else:
            await queue.put(None)
