"""KV room for generations on every stage of a pipeline.

Owns what is asked of the stages: blocks to start with, blocks to grow into, and from where a
prompt must be computed. Does not decide who is admitted or put back; the head does.
"""

from __future__ import annotations

from dataclasses import dataclass

from shoal.worker.v1 import stage_pb2
from shoal_common.prefix import PrefixKeys, prefix_root
from shoal_engine.shape import LayerRange
from shoal_worker_gpu.admission import SamplingPlan
from shoal_worker_gpu.errors import KvExhausted
from shoal_worker_gpu.generation import Generation
from shoal_worker_gpu.pipeline import PipelineRun
from shoal_worker_gpu.sequence import StageSequence, Upstream
from shoal_worker_gpu.stage_core import StageCore


@dataclass(frozen=True)
class ReservationLimits:
    """grow_blocks: blocks asked for beyond what is needed now. grant_timeout_s: for the stages
    behind to answer. has_prefix_cache: prompts may start behind what the stages remember, within
    one tenant or, if so set, across tenants."""

    grow_blocks: int
    grant_timeout_s: float
    lease_s: float
    has_prefix_cache: bool
    are_prefixes_tenants_own: bool


@dataclass(frozen=True)
class Grant:
    """The least that any stage gives: blocks, and tokens that need no computing."""

    block_count: int
    cached_token_count: int


class Reservations:
    """Asks this stage and the stages behind it for KV."""

    def __init__(self, core: StageCore, limits: ReservationLimits) -> None:
        self._core = core
        self._limits = limits

    def prefix_keys(self, request: stage_pb2.GenerateRequest) -> PrefixKeys | None:
        """The chain by which a request's prefixes are found; None without a prefix cache."""
        if not self._limits.has_prefix_cache:
            return None
        backend = self._core.backend
        tenant = request.tenant if self._limits.are_prefixes_tenants_own else ""
        root = prefix_root(
            request.pipeline.model_revision, backend.kv_format, request.adapter_id, tenant
        )
        return PrefixKeys(root, backend.block_size_tokens)

    def blocks_for(self, generation: Generation) -> int:
        """Blocks for all known ids and a lump to grow into, within the context."""
        size = self._core.backend.block_size_tokens
        last = min(self.last_position(generation), len(generation.ids) + self._lump * size)
        return -(-max(last, len(generation.ids)) // size)

    def may_fit_later(self, generation: Generation, run: PipelineRun) -> bool:
        """Its stages have room for what is known of it, once others have left."""
        needed = -(-len(generation.ids) // self._core.backend.block_size_tokens)
        return needed <= run.blocks_total

    def last_position(self, generation: Generation) -> int:
        """Positions that the generation can reach."""
        return min(
            self._core.backend.context_length, generation.prompt_count + generation.max_tokens
        )

    def is_short(self, generation: Generation) -> bool:
        """It comes near the end of its room, and may go beyond."""
        margin = self._core.backend.block_size_tokens // 2
        return self._needs_room(generation, margin)

    def is_starved(self, generation: Generation) -> bool:
        """It is at the end of its room, and may go beyond."""
        return self._needs_room(generation, 0)

    def _needs_room(self, generation: Generation, margin: int) -> bool:
        is_near_end = len(generation.ids) + margin >= generation.room
        return is_near_end and generation.room < self.last_position(generation)

    @property
    def _lump(self) -> int:
        return self._limits.grow_blocks

    async def attach(
        self, generation: Generation, run: PipelineRun, plan: SamplingPlan, upstream: Upstream
    ) -> Grant:
        """Attach on every stage. Raises KvExhausted, StageFailed."""
        run.blocks_total = run.blocks_total or self._core.backend.blocks_total
        wanted = self.blocks_for(generation)
        keys = generation.block_keys(len(generation.ids)) if generation.may_reuse else []
        try:
            entry = self._attach_here(generation, run, plan, upstream, wanted, keys)
        except KvExhausted:
            if not self._core.table.is_freeing:
                raise
            await self._core.table.freed()
            entry = self._attach_here(generation, run, plan, upstream, wanted, keys)
        held = entry.kv.length
        if not run.route:
            return Grant(wanted, held)
        granted = await self._ask(
            generation, run, attach=self._attach_message(generation, run, plan, wanted, keys)
        )
        held_behind = granted.blocks_held * self._core.backend.block_size_tokens
        return Grant(min(wanted, granted.blocks_granted), min(held, held_behind))

    def _attach_here(
        self,
        generation: Generation,
        run: PipelineRun,
        plan: SamplingPlan,
        upstream: Upstream,
        wanted: int,
        keys: list[bytes],
    ) -> StageSequence:
        return self._core.table.attach(
            generation.key,
            wanted,
            head_incarnation=self._core.incarnation,
            route=run.route,
            upstream=upstream,
            sampling=None if run.route else plan.state(generation),
            lease_s=float("inf"),
            keys=keys,
            token_count=len(generation.ids),
            layers=LayerRange(run.stages[0].layer_start, run.stages[0].layer_stop),
        )

    def _attach_message(
        self,
        generation: Generation,
        run: PipelineRun,
        plan: SamplingPlan,
        wanted: int,
        keys: list[bytes],
    ) -> stage_pb2.Attach:
        return stage_pb2.Attach(
            key=_wire_key(generation),
            head_incarnation=self._core.incarnation,
            route=run.route[1:],
            layer_start=run.route[0].layer_start,
            layer_stop=run.route[0].layer_stop,
            model_revision=generation.request.pipeline.model_revision,
            prefix_block_hashes=keys,
            blocks_wanted=wanted,
            sampling=plan.message(generation),
            lease_ms=int(self._limits.lease_s * 1000),
            token_count=len(generation.ids),
        )

    async def grow_behind(self, generation: Generation, run: PipelineRun, wanted: int) -> int:
        """Blocks that every stage behind holds for the generation now. Raises StageFailed."""
        grow = stage_pb2.Grow(key=_wire_key(generation), blocks_wanted=wanted)
        granted = await self._ask(generation, run, grow=grow)
        return min(wanted, granted.blocks_granted)

    async def _ask(
        self,
        generation: Generation,
        run: PipelineRun,
        *,
        attach: stage_pb2.Attach | None = None,
        grow: stage_pb2.Grow | None = None,
    ) -> stage_pb2.Granted:
        assert run.link is not None
        request = stage_pb2.LinkRequest(attach=attach, grow=grow)
        granted = await run.link.ask(generation.key, request, self._limits.grant_timeout_s)
        run.blocks_total = min(self._core.backend.blocks_total, granted.blocks_total)
        return granted


def _wire_key(generation: Generation) -> stage_pb2.SequenceKey:
    return stage_pb2.SequenceKey(sequence=generation.sequence, attempt=generation.attempt)
