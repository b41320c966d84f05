"""gRPC on the engine child: translation between messages and the stage, nothing more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine

import grpc

from shoal.worker.v1 import kv_pb2, pipeline_pb2, stage_pb2, stage_pb2_grpc
from shoal_common.clock import Clock, SystemClock
from shoal_common.errors import InvalidRequest, ShoalError, StageFailed
from shoal_engine.grammar import CompiledGrammar
from shoal_engine.sampling import SamplingState
from shoal_engine.shape import LayerRange
from shoal_worker_gpu.admission import spec_from_wire
from shoal_worker_gpu.errors import EngineNotReady, KvExhausted, StaleAttempt, WrongEngine
from shoal_worker_gpu.grammars import Grammars, grammar_from_wire
from shoal_worker_gpu.head import Head
from shoal_worker_gpu.kv_journal import KvJournal
from shoal_worker_gpu.links import LinkPool
from shoal_worker_gpu.outlet import StageOutlet
from shoal_worker_gpu.sequence import SequenceKey, StageSequence
from shoal_worker_gpu.stage_core import StageCore
from shoal_worker_gpu.step_queue import WorkItem, WorkRow

log = logging.getLogger(__name__)

_REPLIES_MAX = 4096
_GRANT_TIMEOUT_S = 5.0
_F32_BYTES = 4

Context = grpc.aio.ServicerContext[object, object]


class Engine:
    """The parts of a loaded engine that the servicer needs."""

    def __init__(
        self,
        core: StageCore,
        head: Head,
        outlet: StageOutlet,
        links: LinkPool,
        grammars: Grammars,
    ) -> None:
        self.core = core
        self.head = head
        self.outlet = outlet
        self.links = links
        self.grammars = grammars
        layers = LayerRange(core.backend.layer_start, core.backend.layer_stop)
        self.journal = KvJournal(core.backend.pool, layers)


class StageRpc(stage_pb2_grpc.StageServiceServicer):
    """StageService. Before the engine is loaded only GetEngine answers."""

    def __init__(
        self,
        incarnation: str,
        status: Callable[[], pipeline_pb2.EngineStatus],
        clock: Clock | None = None,
    ) -> None:
        self._incarnation = incarnation
        self._status = status
        self._clock = clock or SystemClock()
        self._used_at_s = self._clock.monotonic()
        self.engine: Engine | None = None

    def _loaded(self) -> Engine:
        if self.engine is None:
            raise EngineNotReady("the engine is still loading; try again in a few seconds")
        return self.engine

    async def Generate(
        self, request: stage_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[stage_pb2.GenerateResponse]:
        try:
            async for response in self._loaded().head.generate(request):
                yield response
        finally:
            self._used_at_s = self._clock.monotonic()

    async def Results(
        self, request: stage_pb2.ResultsRequest, context: Context
    ) -> AsyncIterator[stage_pb2.ResultsResponse]:
        engine = self._loaded()
        self._check_incarnation(request.expected_incarnation)
        async for response in engine.outlet.results(request.head_incarnation):
            yield response

    async def Link(
        self, request_iterator: AsyncIterator[stage_pb2.LinkRequest], context: Context
    ) -> AsyncIterator[stage_pb2.LinkResponse]:
        engine = self._loaded()
        first = await anext(aiter(request_iterator), None)
        if first is None or not first.HasField("hello"):
            raise InvalidRequest("a link starts with a hello")
        self._check_incarnation(first.hello.expected_incarnation)
        async with asyncio.TaskGroup() as tasks:
            link = UpstreamLink(engine, tasks)
            reader = tasks.create_task(link.read(request_iterator))
            ready = stage_pb2.LinkReady(incarnation=self._incarnation)
            try:
                yield stage_pb2.LinkResponse(ready=ready)
                while (response := await link.next_reply(reader)) is not None:
                    yield response
            except GeneratorExit:
                # The other side reads no more. A task group would make an error of it.
                return
            finally:
                reader.cancel()
                link.closed()

    async def GetEngine(
        self, request: stage_pb2.GetEngineRequest, context: Context
    ) -> stage_pb2.GetEngineResponse:
        status = self._status()
        response = stage_pb2.GetEngineResponse(engine=status)
        if self.engine is None:
            return response
        response.sequence_count = len(self.engine.core.table)
        if response.sequence_count or status.running_count or status.waiting_count:
            self._used_at_s = self._clock.monotonic()
        response.engine.idle_ms = round((self._clock.monotonic() - self._used_at_s) * 1000)
        response.links.extend(self.engine.links.times.told())
        if request.HasField("kv_sequence_seen"):
            journal = self.engine.journal
            changes = journal.since(request.kv_sequence_seen)
            response.kv_ranges.extend(_named(part, status) for part in changes)
            response.kv_sequence = journal.sequence
        return response

    def _check_incarnation(self, expected: str) -> None:
        if expected != self._incarnation:
            raise WrongEngine("this engine has been restarted; ask for another plan")


class UpstreamLink:
    """One stream from the stage before: its messages in, our replies out.

    Its end frees every sequence that came in on it.
    """

    def __init__(self, engine: Engine, tasks: asyncio.TaskGroup) -> None:
        self._engine = engine
        self._core = engine.core
        self._tasks = tasks
        self._asks: set[asyncio.Task[None]] = set()
        self._replies: asyncio.Queue[stage_pb2.LinkResponse] = asyncio.Queue(_REPLIES_MAX)
        # Sequences that are not attached yet, because their grammar is not compiled.
        self._entering: set[SequenceKey] = set()

    async def read(self, requests: AsyncIterator[stage_pb2.LinkRequest]) -> None:
        async for request in requests:
            self._dispatch(request)

    async def next_reply(self, reader: asyncio.Task[None]) -> stage_pb2.LinkResponse | None:
        """The next message to send up; None when the other side is done."""
        getter = asyncio.ensure_future(self._replies.get())
        try:
            await asyncio.wait({getter, reader}, return_when=asyncio.FIRST_COMPLETED)
            return getter.result() if getter.done() else None
        finally:
            if not getter.done():
                getter.cancel()

    def closed(self) -> None:
        for ask in self._asks:
            ask.cancel()
        self._entering.clear()
        for entry in self._core.table:
            if entry.upstream is self:
                self._core.detach(entry.key)

    def refuse(self, key: SequenceKey, reason: str, detail: str, node_id: str) -> None:
        self._reply(
            stage_pb2.LinkResponse(
                refused=stage_pb2.SequenceRefused(
                    key=_wire_key(key), reason=reason, detail=detail, node_id=node_id
                )
            )
        )

    def _reply(self, response: stage_pb2.LinkResponse) -> None:
        try:
            self._replies.put_nowait(response)
        except asyncio.QueueFull:
            # The reader of this stream is stuck; without receipts it gives the link up.
            log.warning("replies dropped", extra={"queue_max": _REPLIES_MAX})

    def _dispatch(self, request: stage_pb2.LinkRequest) -> None:
        kind = request.WhichOneof("message")
        if kind == "frame":
            self._on_frame(request.frame)
        elif kind == "attach":
            self._start(self._on_attach(request.attach))
        elif kind == "grow":
            self._start(self._on_grow(request.grow))
        elif kind == "detach":
            key = _key(request.detach.key)
            self._entering.discard(key)
            self._core.detach(key, list(request.detach.block_hashes))
        elif kind == "lease":
            self._on_lease(request)
        elif kind == "ping":
            self._reply(stage_pb2.LinkResponse(ack=stage_pb2.Ack(step_id=request.ping.number)))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = self._tasks.create_task(work)
        self._asks.add(task)
        task.add_done_callback(self._asks.discard)

    def _on_frame(self, frame: stage_pb2.Frame) -> None:
        ack = stage_pb2.Ack(step_id=frame.step_id, head_incarnation=frame.head_incarnation)
        self._reply(stage_pb2.LinkResponse(ack=ack))
        rows = [
            WorkRow(_key(row.key), row.position, row.count, row.wants_token) for row in frame.rows
        ]
        problem = frame_problem(frame, self._core.backend.width)
        if problem is not None:
            for row in rows:
                self._core.refuse(row.key, InvalidRequest(problem))
            return
        item = WorkItem(
            step_id=frame.step_id,
            head_incarnation=frame.head_incarnation,
            rows=rows,
            activations=frame.payload,
            timings=list(frame.timings),
        )
        try:
            self._core.submit(item)
        except ShoalError as err:
            log.warning("frame refused", extra={"reason": err.reason})

    async def _on_attach(self, attach: stage_pb2.Attach) -> None:
        key = _key(attach.key)
        granted = held = 0
        total = self._core.backend.blocks_total
        try:
            self._check_attach(attach)
            self._core.check_computing()
            entry = await self._entered(attach, key)
            granted = attach.blocks_wanted
            held = self._core.backend.pool.blocks_for(entry.kv.length)
            if attach.route:
                behind = await self._attach_behind(attach, key)
                if self._core.table.get(key) is not entry:
                    # It left while the stage behind was being dialled, and that one not told.
                    self._detach_behind(attach.route[0], key)
                granted = min(granted, behind.blocks_granted)
                held = min(held, behind.blocks_held)
                total = min(total, behind.blocks_total)
        except KvExhausted:
            granted = 0
        except StageFailed as err:
            self._core.detach(key)
            self.refuse(key, err.reason, err.detail, err.node_id)
            return
        except ShoalError as err:
            self._core.detach(key)
            self.refuse(key, err.reason, str(err), self._core.node_id)
            return
        if granted < attach.blocks_wanted:
            self._core.detach(key)
            granted = 0
        self._granted(key, granted, total, held)

    def _check_attach(self, attach: stage_pb2.Attach) -> None:
        """Raises InvalidRequest for a range or route that makes no sense, WrongEngine for one that
        is another engine's."""
        backend = self._core.backend
        start, stop = attach.layer_start, attach.layer_stop
        if not 0 < start < stop:
            raise InvalidRequest(f"layers {start}:{stop} cannot follow another stage")
        if start < backend.layer_start or stop > backend.layer_stop:
            raise WrongEngine(
                f"this engine holds layers {backend.layer_start}:{backend.layer_stop}, not "
                f"{start}:{stop}"
            )
        ends_at = attach.route[0].layer_start if attach.route else backend.layer_count
        if stop != ends_at:
            raise InvalidRequest(f"layer {stop} does not come next on the route")

    async def _entered(self, attach: stage_pb2.Attach, key: SequenceKey) -> StageSequence:
        """Enter the sequence, with what that needs. A detach meanwhile ends the attaching."""
        self._entering.add(key)
        try:
            grammar = await self._grammar(attach)
            try:
                self._check_entering(key)
                return self._enter(attach, key, grammar)
            except KvExhausted:
                if not self._core.table.is_freeing:
                    raise
            await self._core.table.freed()
            self._check_entering(key)
            return self._enter(attach, key, grammar)
        finally:
            self._entering.discard(key)

    def _check_entering(self, key: SequenceKey) -> None:
        if key not in self._entering:
            raise StaleAttempt("its head has let go of it")

    async def _grammar(self, attach: stage_pb2.Attach) -> CompiledGrammar | None:
        """What the last stage holds the reply to."""
        if attach.route or not attach.sampling.HasField("grammar"):
            return None
        return await self._engine.grammars.compiled(grammar_from_wire(attach.sampling.grammar))

    def _enter(
        self, attach: stage_pb2.Attach, key: SequenceKey, grammar: CompiledGrammar | None
    ) -> StageSequence:
        sampling = None
        if not attach.route:
            state = attach.sampling
            spec = spec_from_wire(state.spec)
            constraint = grammar.state() if grammar is not None else None
            sampling = SamplingState(spec, state.prompt_ids, state.generated_ids, constraint)
        return self._core.table.attach(
            key,
            attach.blocks_wanted,
            head_incarnation=attach.head_incarnation,
            route=tuple(attach.route),
            upstream=self,
            sampling=sampling,
            lease_s=attach.lease_ms / 1000,
            keys=list(attach.prefix_block_hashes),
            token_count=max(1, attach.token_count),
            layers=LayerRange(attach.layer_start, attach.layer_stop),
        )

    async def _attach_behind(self, attach: stage_pb2.Attach, key: SequenceKey) -> stage_pb2.Granted:
        link = await self._engine.links.get(attach.route[0])
        onward = stage_pb2.Attach()
        onward.CopyFrom(attach)
        del onward.route[:]
        onward.route.extend(attach.route[1:])
        onward.layer_start = attach.route[0].layer_start
        onward.layer_stop = attach.route[0].layer_stop
        return await link.ask(key, stage_pb2.LinkRequest(attach=onward), _GRANT_TIMEOUT_S)

    def _detach_behind(self, stage: pipeline_pb2.PipelineStage, key: SequenceKey) -> None:
        link = self._engine.links.present(stage)
        if link is not None:
            link.send(stage_pb2.LinkRequest(detach=stage_pb2.Detach(key=_wire_key(key))))

    async def _on_grow(self, grow: stage_pb2.Grow) -> None:
        key = _key(grow.key)
        held = self._core.table.get(key)
        total = self._core.backend.blocks_total
        try:
            entry = await self._core.table.grow_when_free(key, grow.blocks_wanted)
            granted = len(entry.kv.blocks)
            if entry.route:
                link = await self._engine.links.get(entry.route[0])
                behind = await link.ask(key, stage_pb2.LinkRequest(grow=grow), _GRANT_TIMEOUT_S)
                granted = min(granted, behind.blocks_granted)
                total = min(total, behind.blocks_total)
        except KvExhausted:
            granted = len(held.kv.blocks) if held is not None else 0
        except StageFailed as err:
            self._core.refuse(key, err, node_id=err.node_id)
            return
        except ShoalError as err:
            self.refuse(key, err.reason, str(err), self._core.node_id)
            return
        self._granted(key, granted, total)

    def _granted(self, key: SequenceKey, blocks: int, total: int, held: int = 0) -> None:
        granted = stage_pb2.Granted(
            key=_wire_key(key), blocks_granted=blocks, blocks_held=held, blocks_total=total
        )
        self._reply(stage_pb2.LinkResponse(granted=granted))

    def _on_lease(self, request: stage_pb2.LinkRequest) -> None:
        """Renew here and pass it on to wherever this head's sequences go."""
        head = request.lease.head_incarnation
        self._core.table.renew(head)
        onward = {
            (entry.route[0].locator, entry.route[0].incarnation): entry.route[0]
            for entry in self._core.table
            if entry.head_incarnation == head and entry.route
        }
        for stage in onward.values():
            link = self._engine.links.present(stage)
            if link is not None:
                link.send(request)


def frame_problem(frame: stage_pb2.Frame, width: int) -> str | None:
    """Why a frame's payload cannot be the tensor its header announces; None when it can."""
    if frame.dtype != stage_pb2.TENSOR_DTYPE_F32 or frame.codec != stage_pb2.TENSOR_CODEC_RAW:
        return "this build reads raw float32 frames only"
    if frame.width != width:
        return f"the frame is {frame.width} wide, the model {width}"
    if not all(row.count for row in frame.rows):
        return "a row has no tokens"
    if len({row.key.sequence for row in frame.rows}) != len(frame.rows):
        return "two rows belong to one sequence"
    expected = sum(row.count for row in frame.rows) * width * _F32_BYTES
    if len(frame.payload) != expected:
        return f"the payload has {len(frame.payload)} bytes, its rows need {expected}"
    return None


def _named(changes: kv_pb2.KvChanges, status: pipeline_pb2.EngineStatus) -> kv_pb2.KvChanges:
    """The changes with the name of the engine they belong to."""
    changes.incarnation = status.incarnation
    changes.model = status.model
    changes.model_revision = status.revision
    changes.block_size_tokens = status.block_size_tokens
    return changes


def _key(key: stage_pb2.SequenceKey) -> SequenceKey:
    return SequenceKey(key.sequence, key.attempt)


def _wire_key(key: SequenceKey) -> stage_pb2.SequenceKey:
    return stage_pb2.SequenceKey(sequence=key.sequence, attempt=key.attempt)
