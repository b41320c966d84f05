"""Streams this stage opens: to the next stage of a pipeline, and from its last stage.

Owns dialling, receipt deadlines and the matching of grants to attaches. Does not know what the
sequences are; losses and refusals go to a `LinkListener`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from shoal.worker.v1 import pipeline_pb2, stage_pb2, stage_pb2_grpc
from shoal_common.clock import Clock
from shoal_common.errors import ShoalError, StageFailed
from shoal_common.rpc import Dial, RpcChannel, translated
from shoal_worker_gpu.errors import refusal
from shoal_worker_gpu.link_times import LinkTime, LinkTimes
from shoal_worker_gpu.pipeline_name import stage_name
from shoal_worker_gpu.sequence import SequenceKey

log = logging.getLogger(__name__)

_QUEUE_MAX = 4096
_WATCH_INTERVAL_S = 0.25
# Pings carry no head: no frame's receipt is taken for one.
_NO_HEAD = ""


@dataclass(frozen=True)
class Speaker:
    """Who dials, and with what."""

    node_id: str
    incarnation: str
    token: str
    open_timeout_s: float
    ack_timeout_s: float
    dial: Dial = RpcChannel


class LinkListener(Protocol):
    """Hears what comes up a link."""

    def link_refused(self, refused: stage_pb2.SequenceRefused) -> None: ...

    def link_lost(self, stage: pipeline_pb2.PipelineStage, detail: str) -> None: ...


class DownstreamLink:
    """One stream to the engine behind this one; lost once, it never comes back.

    Frames are confirmed as they arrive. While nothing is heard the other side is pinged, so that
    one which hangs is found, and named, by the stage before it, whatever was on the way. Time is
    counted in looks at it: seconds in which this very process stood still are nobody's silence.
    """

    def __init__(
        self,
        stage: pipeline_pb2.PipelineStage,
        speaker: Speaker,
        listener: LinkListener,
        clock: Clock,
        time: LinkTime,
    ) -> None:
        """time: what receipts tell of the way to the stage's worker."""
        self.stage = stage
        self.time = time
        self.is_lost = False
        self._speaker = speaker
        self._listener = listener
        self._clock = clock
        self._channel = speaker.dial(stage.locator, token=speaker.token)
        self._outgoing: asyncio.Queue[stage_pb2.LinkRequest] = asyncio.Queue(_QUEUE_MAX)
        self._grants: dict[SequenceKey, asyncio.Future[stage_pb2.Granted]] = {}
        self._watch_interval_s = min(_WATCH_INTERVAL_S, speaker.ack_timeout_s / 4)
        self._looks = 0
        self._has_heard = True
        # What waits for a receipt, by head and step, with the look after which it was sent.
        self._unacked: dict[tuple[str, int], int] = {}
        # When it left this process, and its size in bytes.
        self._sent: dict[tuple[str, int], tuple[float, int]] = {}
        self._ready = asyncio.Event()
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._watch())]

    async def ready(self) -> None:
        """Wait until the other side has answered. Raises StageFailed."""
        try:
            async with asyncio.timeout(self._speaker.open_timeout_s):
                await self._ready.wait()
        except TimeoutError as err:
            self._lose(f"no answer within {self._speaker.open_timeout_s:g} s")
            raise StageFailed(self.stage.node_id, "it does not answer") from err
        if self.is_lost:
            raise StageFailed(self.stage.node_id, "it cannot be reached")

    def send(self, request: stage_pb2.LinkRequest) -> None:
        """Queue a message; a lost or overfull link drops it, its sequences are refused then."""
        if self.is_lost:
            return
        try:
            self._outgoing.put_nowait(request)
        except asyncio.QueueFull:
            self._lose(f"{_QUEUE_MAX} messages wait for it")
            return
        if request.HasField("frame"):
            frame = request.frame
            self._unacked[(frame.head_incarnation, frame.step_id)] = self._looks

    async def ask(
        self, key: SequenceKey, request: stage_pb2.LinkRequest, timeout_s: float
    ) -> stage_pb2.Granted:
        """Send an Attach or Grow and wait for its grant. Raises StageFailed, or what the stage
        refused the sequence for."""
        if self.is_lost:
            raise StageFailed(self.stage.node_id, "the link is lost")
        future: asyncio.Future[stage_pb2.Granted] = asyncio.get_running_loop().create_future()
        self._grants[key] = future
        self.send(request)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as err:
            raise StageFailed(self.stage.node_id, f"no grant within {timeout_s:g} s") from err
        finally:
            if self._grants.get(key) is future:
                del self._grants[key]

    async def close(self) -> None:
        """Let go of the stream without telling the listener. Idempotent."""
        self.is_lost = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    async def _requests(self) -> AsyncIterator[stage_pb2.LinkRequest]:
        yield stage_pb2.LinkRequest(
            hello=stage_pb2.LinkHello(
                node_id=self._speaker.node_id,
                incarnation=self._speaker.incarnation,
                expected_incarnation=self.stage.incarnation,
            )
        )
        while True:
            request = await self._outgoing.get()
            if request.HasField("frame"):
                frame = request.frame
                name = (frame.head_incarnation, frame.step_id)
                self._sent[name] = (self._clock.monotonic(), len(frame.payload))
            elif request.HasField("ping"):
                self._sent[(_NO_HEAD, request.ping.number)] = (self._clock.monotonic(), 0)
            yield request

    async def _read(self) -> None:
        stub = stage_pb2_grpc.StageServiceStub(self._channel.channel)
        detail = "it closed the link"
        try:
            with translated():
                async for response in stub.Link(self._requests()):
                    self._dispatch(response)
        except ShoalError as err:
            detail = str(err)
        finally:
            self._lose(detail)

    def _dispatch(self, response: stage_pb2.LinkResponse) -> None:
        self._has_heard = True
        kind = response.WhichOneof("message")
        if kind == "ready":
            self._ready.set()
        elif kind == "ack":
            self._arrived((response.ack.head_incarnation, response.ack.step_id))
        elif kind == "granted":
            key = SequenceKey(response.granted.key.sequence, response.granted.key.attempt)
            future = self._grants.get(key)
            if future is not None and not future.done():
                future.set_result(response.granted)
        elif kind == "refused":
            self._listener.link_refused(response.refused)
            self._refuse_grant(response.refused)

    def _arrived(self, name: tuple[str, int]) -> None:
        self._unacked.pop(name, None)
        sent = self._sent.pop(name, None)
        if sent is not None:
            sent_at, size_bytes = sent
            self.time.observe(self._clock.monotonic() - sent_at, size_bytes)

    def _refuse_grant(self, refused: stage_pb2.SequenceRefused) -> None:
        """Whoever waits for the sequence's grant need not wait until its time is up."""
        future = self._grants.get(SequenceKey(refused.key.sequence, refused.key.attempt))
        if future is not None and not future.done():
            future.set_exception(refusal(refused.node_id, refused.reason, refused.detail))

    async def _watch(self) -> None:
        """Lose the link when something has no receipt in time."""
        while True:
            await self._clock.sleep(self._watch_interval_s)
            self._looks += 1
            oldest = min(self._unacked.values(), default=self._looks)
            # One less: what was sent between two looks has waited for a part of the first.
            waited_s = (self._looks - oldest - 1) * self._watch_interval_s
            if waited_s >= self._speaker.ack_timeout_s:
                self._lose(f"no receipt within {self._speaker.ack_timeout_s:g} s")
                return
            if self._ready.is_set() and not self._has_heard and not self._unacked:
                self._ping()
            self._has_heard = False

    def _ping(self) -> None:
        self.send(stage_pb2.LinkRequest(ping=stage_pb2.Ping(number=self._looks)))
        self._unacked[(_NO_HEAD, self._looks)] = self._looks

    def _lose(self, detail: str) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        self._ready.set()
        error = StageFailed(self.stage.node_id, detail)
        for future in self._grants.values():
            if not future.done():
                future.set_exception(error)
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        log.warning(
            "link lost", extra={"diag": "link", "peer": self.stage.node_id, "detail": detail}
        )
        self._listener.link_lost(self.stage, detail)


class LinkPool:
    """At most one link to each engine process."""

    def __init__(self, speaker: Speaker, listener: LinkListener, clock: Clock) -> None:
        self._speaker = speaker
        self._listener = listener
        self._clock = clock
        self.times = LinkTimes()
        self._links: dict[tuple[str, str], DownstreamLink] = {}
        self._lost: set[asyncio.Task[None]] = set()

    async def get(self, stage: pipeline_pb2.PipelineStage) -> DownstreamLink:
        """The open link to `stage`, dialled if need be. Raises StageFailed."""
        self._retire_lost()
        link = self._links.get(stage_name(stage))
        if link is None:
            time = self.times.of(stage.node_id)
            link = DownstreamLink(stage, self._speaker, self._listener, self._clock, time)
            self._links[stage_name(stage)] = link
        await link.ready()
        return link

    def present(self, stage: pipeline_pb2.PipelineStage) -> DownstreamLink | None:
        """The link to `stage` if it is open now."""
        link = self._links.get(stage_name(stage))
        return None if link is None or link.is_lost else link

    async def close(self) -> None:
        links, self._links = list(self._links.values()), {}
        await asyncio.gather(*(link.close() for link in links), *self._lost)

    def _retire_lost(self) -> None:
        """Close what is lost, also where nobody will dial again."""
        for name, link in list(self._links.items()):
            if link.is_lost:
                del self._links[name]
                task = asyncio.create_task(link.close())
                self._lost.add(task)
                task.add_done_callback(self._lost.discard)


class ResultsReader:
    """The stream of token ids from a last stage to this head, whatever pipelines lead there.

    Its end tells that stage that the head needs nothing of it any more.
    """

    def __init__(
        self,
        stage: pipeline_pb2.PipelineStage,
        speaker: Speaker,
        on_step: Callable[[stage_pb2.StepResult], None],
        on_lost: Callable[[pipeline_pb2.PipelineStage, str], None],
    ) -> None:
        self._stage = stage
        self._speaker = speaker
        self._on_step = on_step
        self._on_lost = on_lost
        self._channel = speaker.dial(stage.locator, token=speaker.token)
        self._ready = asyncio.Event()
        self._is_lost = False
        self._task = asyncio.create_task(self._read())

    @property
    def is_lost(self) -> bool:
        return self._is_lost

    async def ready(self) -> None:
        """Wait until the last stage knows where results go. Raises StageFailed."""
        try:
            async with asyncio.timeout(self._speaker.open_timeout_s):
                await self._ready.wait()
        except TimeoutError as err:
            raise StageFailed(self._stage.node_id, "it does not answer") from err
        if self._is_lost:
            raise StageFailed(self._stage.node_id, "it cannot be reached")

    async def close(self) -> None:
        """Let go of the stream without telling anybody here. Idempotent."""
        self._is_lost = True
        self._ready.set()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()

    async def _read(self) -> None:
        stub = stage_pb2_grpc.StageServiceStub(self._channel.channel)
        request = stage_pb2.ResultsRequest(
            head_incarnation=self._speaker.incarnation,
            expected_incarnation=self._stage.incarnation,
        )
        detail = "it closed the stream of results"
        try:
            with translated():
                async for response in stub.Results(request):
                    if response.HasField("step"):
                        self._on_step(response.step)
                    elif response.HasField("ready"):
                        self._ready.set()
        except ShoalError as err:
            detail = str(err)
        if not self._is_lost:
            self._is_lost = True
            self._ready.set()
            self._on_lost(self._stage, detail)
