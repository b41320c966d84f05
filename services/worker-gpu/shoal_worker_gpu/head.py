"""The head of pipelines: admission, the step loop, and the end of every generation.

Owns waiting and running generations, continuous batching, preemption of the youngest when KV runs
out, and deadlines. Its own stage computes through `StageCore`; the stages behind it are reached
through `Pipelines`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass

from shoal.worker.v1 import pipeline_pb2, stage_pb2
from shoal_common.clock import Clock
from shoal_common.errors import ShoalError, StageFailed
from shoal_common.ids import new_sequence_id
from shoal_engine.grammar import CompiledGrammar
from shoal_worker_gpu.admission import SamplingPlan, check_request, read_sampling
from shoal_worker_gpu.errors import EngineNotReady, KvExhausted, QueueFull, refusal
from shoal_worker_gpu.generation import ALIVE, Generation, Phase, has_ended, youngest
from shoal_worker_gpu.grammars import Grammars
from shoal_worker_gpu.links import LinkPool, Speaker
from shoal_worker_gpu.metrics import EngineMetrics
from shoal_worker_gpu.pipeline import PipelineRun
from shoal_worker_gpu.pipeline_name import PipelineName, stage_name
from shoal_worker_gpu.pipelines import Pipelines
from shoal_worker_gpu.progress import NO_PROGRESS
from shoal_worker_gpu.reservation import Grant, Reservations
from shoal_worker_gpu.scheduler import StepLimits, choose_rows
from shoal_worker_gpu.sequence import SequenceKey
from shoal_worker_gpu.stage_core import StageCore
from shoal_worker_gpu.step_queue import WorkItem, WorkRow
from shoal_worker_gpu.step_times import step_times

log = logging.getLogger(__name__)

_ADMIT_AGAIN_S = 0.1
_REFUSAL_COMES_S = 1.0
_WATCH_INTERVAL_S = 0.25


@dataclass(frozen=True)
class HeadLimits:
    """Bounds of one head; tokens, sequences and seconds.

    prefill_step_factor: how much longer than a step without prompt tokens one with them may take.
    """

    running_max: int
    waiting_max: int
    prefill_tokens_max: int
    prefill_step_factor: float
    prompts_per_step_max: int
    lease_s: float


class Head:
    """Drives generations whose first stage is this engine."""

    def __init__(
        self,
        core: StageCore,
        links: LinkPool,
        speaker: Speaker,
        clock: Clock,
        metrics: EngineMetrics,
        limits: HeadLimits,
        reservations: Reservations,
        grammars: Grammars,
    ) -> None:
        self._core = core
        self._reservations = reservations
        self._grammars = grammars
        self._clock = clock
        self._metrics = metrics
        self._limits = limits
        self._waiting: deque[Generation] = deque()
        self._live: dict[int, Generation] = {}
        self._pipelines = Pipelines(links, speaker, clock, self.step_landed, self.stage_lost)
        self._plans: dict[int, SamplingPlan] = {}
        self._admission = asyncio.Event()
        self._asks: set[asyncio.Task[None]] = set()
        self.is_draining = False

    @property
    def running_count(self) -> int:
        return sum(1 for g in self._live.values() if g.phase is Phase.RUNNING)

    @property
    def waiting_count(self) -> int:
        return len(self._waiting)

    async def generate(
        self, request: stage_pb2.GenerateRequest
    ) -> AsyncIterator[stage_pb2.GenerateResponse]:
        """Tokens of one request, in order. Leaving the iteration frees its KV on every stage.

        Raises ShoalError: InvalidRequest and its kin before anything is held, StageFailed when
        a stage dies, DeadlineExceeded, KvExhausted.
        """
        preparing = asyncio.create_task(self._grammars.prepared(request))
        try:
            while not await has_ended(preparing, request.keep_alive_ms):
                yield ALIVE
        finally:
            preparing.cancel()
        generation = self._enter(request, preparing.result())
        outcome = "cancelled"
        try:
            while True:
                event = await generation.next_event(self._clock)
                if isinstance(event, ShoalError):
                    outcome = event.reason.lower()
                    raise event
                yield event
                if event.HasField("finished"):
                    outcome = "finished"
                    return
        finally:
            self._leave(generation)
            self._metrics.requests.labels(outcome).inc()
            self._metrics.duration.observe(self._clock.monotonic() - generation.arrived_at)

    def _enter(
        self, request: stage_pb2.GenerateRequest, grammar: CompiledGrammar | None
    ) -> Generation:
        if self.is_draining:
            raise EngineNotReady("the engine is draining; ask for another plan")
        self._core.check_computing()
        check_request(request, self._core.backend, self._core.incarnation)
        plan = read_sampling(request, grammar)
        generation = self._generation(request)
        if generation.end_if_complete():
            return generation
        if len(self._waiting) >= self._limits.waiting_max:
            raise QueueFull(self._limits.waiting_max)
        self._live[generation.sequence] = generation
        self._plans[generation.sequence] = plan
        self._waiting.append(generation)
        self._admission.set()
        self._gauge()
        return generation

    def _generation(self, request: stage_pb2.GenerateRequest) -> Generation:
        now = self._clock.monotonic()
        prompt = list(request.token_ids.ids)
        stop_ids = frozenset(request.stop_token_ids)
        if not request.ignore_eos:
            stop_ids |= self._core.backend.eos_token_ids
        return Generation(
            sequence=new_sequence_id(),
            attempt=max(1, request.attempt),
            request=request,
            ids=prompt + list(request.generated.ids),
            prompt_count=len(prompt),
            first_new=len(request.generated.ids),
            max_tokens=request.max_tokens,
            stop_ids=stop_ids,
            arrived_at=now,
            deadline_at=now + request.remaining_ms / 1000 if request.remaining_ms else None,
            keys=self._reservations.prefix_keys(request),
        )

    def _leave(self, generation: Generation) -> None:
        """Free everything the generation holds, on every stage."""
        generation.phase = Phase.ENDED
        self._live.pop(generation.sequence, None)
        self._plans.pop(generation.sequence, None)
        if generation in self._waiting:
            self._waiting.remove(generation)
        self._detach(generation)
        self._admission.set()
        self._gauge()
        run = self._pipelines.get(generation.pipeline)
        if run is not None:
            run.prune(self._is_running)
            self._launch(run)

    def _detach(self, generation: Generation) -> None:
        """Free its KV on every stage; what is computed stays findable by its prefix."""
        self._core.detach(generation.key, generation.block_keys(generation.computed))

    def _is_running(self, key: SequenceKey) -> bool:
        generation = self._live.get(key.sequence)
        return (
            generation is not None and generation.key == key and generation.phase is Phase.RUNNING
        )

    def _gauge(self) -> None:
        self._metrics.in_flight.set(self.running_count)
        self._metrics.waiting.set(len(self._waiting))
        self._metrics.kv_blocks_free.set(self._core.backend.blocks_free)

    async def run(self) -> None:
        """Admit, watch and renew leases until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._admit_forever())
                tasks.create_task(self._pipelines.watch())
                tasks.create_task(self._watch_own_stage())
                tasks.create_task(
                    self._pipelines.renew_leases(self._core.incarnation, self._limits.lease_s)
                )
        finally:
            await self._pipelines.close()

    async def _admit_forever(self) -> None:
        while True:
            await self._admission.wait()
            self._admission.clear()
            while self._waiting and self._may_admit():
                generation = self._waiting[0]
                if not await self._admit(generation):
                    break

    def _may_admit(self) -> bool:
        """Whoever cannot go on without more KV comes before whoever has not begun.

        Else one that was put back takes its blocks again before the other has grown, for ever.
        """
        running = [g for g in self._live.values() if g.phase is Phase.RUNNING]
        return len(running) < self._limits.running_max and not any(
            self._reservations.is_starved(g) for g in running
        )

    async def _admit(self, generation: Generation) -> bool:
        """Attach the oldest waiting generation; False when it must wait for room."""
        generation.phase = Phase.ATTACHING
        grant = Grant(0, 0)
        exhausted: ShoalError | None = None
        plan = self._plans[generation.sequence]
        try:
            run = await self._pipeline(generation.request.pipeline)
            if generation.phase is Phase.ENDED:  # Its driver left while a stage was dialled.
                self._drop_waiting(generation)
                return True
            grant = await self._reservations.attach(generation, run, plan, self)
        except KvExhausted as err:
            exhausted = err
        except ShoalError as err:
            self._drop_waiting(generation)
            generation.fail(err)
            return True
        if generation.phase is Phase.ENDED:
            self._drop_waiting(generation)
            self._core.detach(generation.key)
            return True
        room = grant.block_count * self._core.backend.block_size_tokens
        if room < len(generation.ids):
            self._core.detach(generation.key)
            generation.put_back()
            if self.running_count:
                return False
            if self._reservations.may_fit_later(generation, run):
                # Sequences of other heads hold it; nobody tells when they leave.
                self._start(self._admit_later())
                return False
            self._drop_waiting(generation)
            wanted = self._reservations.blocks_for(generation)
            generation.fail(
                exhausted or KvExhausted(wanted, grant.block_count, self._core.backend.blocks_total)
            )
            return True
        self._drop_waiting(generation)
        self._note_prefix(generation, grant.cached_token_count)
        generation.admitted(self._clock.monotonic(), room, grant.cached_token_count)
        self._gauge()
        self._launch(run)
        return True

    async def _admit_later(self) -> None:
        await self._clock.sleep(_ADMIT_AGAIN_S)
        self._admission.set()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._asks.add(task)
        task.add_done_callback(self._asks.discard)

    def _note_prefix(self, generation: Generation, cached_count: int) -> None:
        self._metrics.prompt_tokens.labels("reused").inc(cached_count)
        self._metrics.prompt_tokens.labels("computed").inc(len(generation.ids) - cached_count)

    def _drop_waiting(self, generation: Generation) -> None:
        if generation in self._waiting:
            self._waiting.remove(generation)

    async def _pipeline(self, pipeline: pipeline_pb2.Pipeline) -> PipelineRun:
        used = {g.pipeline for g in self._live.values()}
        return await self._pipelines.opened(pipeline, used)

    def _launch(self, run: PipelineRun) -> None:
        """Start the pipeline's next step if there is room and work for one."""
        if not run.has_room:
            return
        running = self._running(run)
        for generation in running:
            self._grow_if_needed(generation, run)
        running = self._running(run)
        rows = choose_rows([g.as_candidate() for g in running], self._step_limits(run))
        if not rows:
            return
        lasts = {self._live[row.sequence].key: row.position + row.count - 1 for row in rows}
        decode_rows = sum(self._live[row.sequence].is_decoding for row in rows)
        prompt_tokens = sum(row.count for row in rows) - decode_rows
        step_id = run.launch(lasts, decode_rows=decode_rows, prompt_tokens=prompt_tokens)
        token_ids: list[int] = []
        work: list[WorkRow] = []
        for row in rows:
            generation = self._live[row.sequence]
            generation.is_in_flight = True
            token_ids.extend(generation.ids[row.position : row.position + row.count])
            work.append(WorkRow(generation.key, row.position, row.count, row.wants_token))
        item = WorkItem(step_id, self._core.incarnation, work, token_ids=token_ids)
        item.pipeline = run.name
        try:
            self._core.submit(item)
        except ShoalError:
            # Every row was refused already; its generation has ended with the error.
            run.prune(self._is_running)

    def _step_limits(self, run: PipelineRun) -> StepLimits:
        limits = self._limits
        factor = limits.prefill_step_factor
        return StepLimits(
            rows_max=limits.running_max,
            depth=run.depth,
            prefill_tokens_max=limits.prefill_tokens_max,
            prompt_budget=lambda rows, waiting: run.cost.prompt_tokens_within(
                rows, factor, waiting
            ),
            prompts_max=limits.prompts_per_step_max,
        )

    def _running(self, run: PipelineRun) -> list[Generation]:
        return [
            generation
            for generation in self._live.values()
            if generation.phase is Phase.RUNNING and generation.pipeline == run.name
        ]

    def left_head(self, name: PipelineName, step_id: int) -> None:
        """This engine's layers are done with a step that goes on down the pipeline."""
        run = self._pipelines.get(name)
        if run is not None:
            run.left_head(step_id)
            self._launch(run)

    def step_landed(self, result: stage_pb2.StepResult) -> None:
        """A step's tokens have come back, those of sequences that were in it and still run."""
        run = self._pipelines.of_step(result.step_id)
        step = run.landed(result.step_id, result.timings) if run is not None else None
        if run is None or step is None:
            return
        times = step_times(result.timings, self._clock.monotonic() - step.sent_at)
        for row in result.rows:
            key = SequenceKey(row.key.sequence, row.key.attempt)
            if not self._is_running(key) or step.rows.get(key) != row.position:
                continue
            generation = self._live[key.sequence]
            generation.times.add(times)
            generation.accept(row)
            self._metrics.tokens.inc(row.HasField("token"))
            if not self._is_running(key):
                self._detach(generation)
                self._admission.set()
        answered = {SequenceKey(row.key.sequence, row.key.attempt) for row in result.rows}
        for key in step.rows.keys() - answered:
            if self._is_running(key):
                self._start(self._stray(key, run.stages[-1]))
        self._launch(run)

    async def _stray(self, key: SequenceKey, stage: pipeline_pb2.PipelineStage) -> None:
        """A step came back without a sequence: the reason comes another way, or never."""
        await self._clock.sleep(_REFUSAL_COMES_S)
        if self._is_running(key):
            generation = self._live[key.sequence]
            self._detach(generation)
            generation.fail(StageFailed(stage.node_id, "it dropped the sequence without a word"))

    def _grow_if_needed(self, generation: Generation, run: PipelineRun) -> None:
        """Ask for a lump of blocks before the sequence reaches the end of its room."""
        if generation.is_growing or generation.phase is not Phase.RUNNING:
            return
        if not self._reservations.is_short(generation):
            return
        wanted = self._reservations.blocks_for(generation)
        try:
            self._core.table.grow(generation.key, wanted)
        except KvExhausted as err:
            if self._reservations.is_starved(generation):
                self._make_room(generation, run, err)
            return
        if not run.route:
            self._has_grown(generation, wanted)
            return
        generation.is_growing = True
        self._start(self._grow_behind(generation, run, wanted))

    def _make_room(self, generation: Generation, run: PipelineRun, error: KvExhausted) -> None:
        """Another makes way for one that cannot go on, unless blocks are being freed anyway."""
        if self._core.table.is_freeing:
            # The step at whose end they are free may be another pipeline's.
            self._start(self._launch_when_freed(run))
            return
        self._preempt(run, error)
        self._grow_if_needed(generation, run)

    async def _launch_when_freed(self, run: PipelineRun) -> None:
        await self._core.table.freed()
        self._launch(run)

    async def _grow_behind(self, generation: Generation, run: PipelineRun, wanted: int) -> None:
        key = generation.key
        try:
            blocks = await self._reservations.grow_behind(generation, run, wanted)
        except StageFailed as err:
            if generation.key == key:  # Else it was put back, and starts anew.
                generation.fail(err)
            return
        if generation.key != key or generation.phase is not Phase.RUNNING:
            return
        generation.is_growing = False
        self._has_grown(generation, blocks)
        if blocks < wanted and self._reservations.is_starved(generation):
            self._preempt(run, KvExhausted(wanted, blocks, self._core.backend.blocks_total))
        self._launch(run)

    def _has_grown(self, generation: Generation, block_count: int) -> None:
        room = block_count * self._core.backend.block_size_tokens
        generation.room = max(generation.room, room)
        self._admission.set()

    def _preempt(self, run: PipelineRun, error: KvExhausted) -> None:
        """Put the youngest back to the front of the queue; alone, it ends with `error`."""
        victim = youngest(self._running(run))
        assert victim is not None
        self._detach(victim)
        holding = (Phase.RUNNING, Phase.ATTACHING)
        is_alone = not any(g is not victim and g.phase in holding for g in self._live.values())
        if not is_alone or (run.route and self._reservations.may_fit_later(victim, run)):
            self._requeue(victim, run)
        else:
            victim.fail(error)

    def _requeue(self, generation: Generation, run: PipelineRun) -> None:
        """Back to the front of the queue: it will be replayed behind what it has generated."""
        self._metrics.preemptions.inc()
        generation.put_back()
        run.prune(self._is_running)
        self._waiting.appendleft(generation)
        self._admission.set()
        log.info(
            "sequence preempted", extra={"diag": "queue", "generated": generation.generated_count}
        )

    def refuse(self, key: SequenceKey, reason: str, detail: str, node_id: str) -> None:
        """A stage, this one or one behind it, cannot go on with a sequence."""
        generation = self._live.get(key.sequence)
        if generation is None or generation.key != key:
            return
        run = self._pipelines.get(generation.pipeline)
        if reason == KvExhausted.reason and run is not None and generation.may_reuse:
            # Its stages disagreed on the prefix and one has no room for what it must give up.
            generation.may_reuse = False
            self._core.detach(key)
            self._requeue(generation, run)
            return
        generation.fail(refusal(node_id, reason, detail))

    def stage_lost(self, stage: pipeline_pb2.PipelineStage, detail: str) -> None:
        """A stage is gone, or hangs: every generation that leads there ends."""
        self._pipelines.drop(stage)
        gone = stage_name(stage)
        self._end(
            [g for g in self._live.values() if gone in g.pipeline[2]],
            StageFailed(stage.node_id, detail),
        )

    async def _watch_own_stage(self) -> None:
        """End everything while a step of this engine hangs, what waits as well. Never returns."""
        while True:
            await self._clock.sleep(_WATCH_INTERVAL_S)
            if self._live and self._core.is_hung:
                error = StageFailed(self._core.node_id, NO_PROGRESS)
                self._end(list(self._live.values()), error)

    def _end(self, generations: Sequence[Generation], error: ShoalError) -> None:
        for generation in generations:
            self._drop_waiting(generation)
            self._detach(generation)
            generation.fail(error)
        self._admission.set()
