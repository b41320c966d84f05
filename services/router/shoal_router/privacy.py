"""Owns: how far from its driver a prompt may travel, and the proof that a plan keeps to it. Pure.

A worker of the driver's own machine (the same host id) is within every bound. Does not know: how
pipelines are found, who asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shoal.common.v1 import chat_pb2
from shoal.worker.v1 import pipeline_pb2 as pb
from shoal_router.network import Ends
from shoal_router.pipeline import Engine, Pipeline, missing_ranges

_REACHES: dict[int, frozenset[int]] = {
    chat_pb2.PRIVACY_LABEL_LOCAL: frozenset(),
    chat_pb2.PRIVACY_LABEL_POOL: frozenset({pb.REACH_UNSPECIFIED, pb.REACH_POOL}),
    chat_pb2.PRIVACY_LABEL_LAN: frozenset({pb.REACH_UNSPECIFIED, pb.REACH_POOL, pb.REACH_LAN}),
}
_WORDS = {
    chat_pb2.PRIVACY_LABEL_LOCAL: "local",
    chat_pb2.PRIVACY_LABEL_POOL: "pool",
    chat_pb2.PRIVACY_LABEL_LAN: "lan",
}


@dataclass(frozen=True, slots=True)
class Demand:
    """What a driver asks for. host_id: of its machine; "" when it does not say."""

    label: chat_pb2.PrivacyLabel = chat_pb2.PRIVACY_LABEL_UNSPECIFIED
    is_boomerang: bool = False
    host_id: str = ""

    @property
    def is_open(self) -> bool:
        """Every pipeline will do. A label of tomorrow, which nobody here knows, is not open."""
        is_public = self.label in (
            chat_pb2.PRIVACY_LABEL_UNSPECIFIED,
            chat_pb2.PRIVACY_LABEL_PUBLIC,
        )
        return is_public and not self.is_boomerang

    @property
    def ends(self) -> Ends:
        return Ends(self._is_local, self._is_local) if self.is_boomerang else Ends()

    def admits(self, engine: Engine) -> bool:
        """Whether an engine may see anything of the prompt."""
        if self.label in (chat_pb2.PRIVACY_LABEL_UNSPECIFIED, chat_pb2.PRIVACY_LABEL_PUBLIC):
            return True
        return self._is_local(engine) or engine.reach in _REACHES.get(self.label, ())

    def allows(self, pipeline: Pipeline) -> bool:
        if self.is_open:
            return True
        if not all(map(self.admits, pipeline.stages)):
            return False
        ends = (pipeline.stages[0], pipeline.stages[-1])
        return not self.is_boomerang or all(map(self._is_local, ends))

    def standbys(self, stage_index: int, stage_count: int, held: Iterable[Engine]) -> list[Engine]:
        """Those of `held` that may take a stage's place."""
        is_end = stage_index in (0, stage_count - 1)
        return [
            e
            for e in held
            if self.admits(e) and (not (self.is_boomerang and is_end) or self._is_local(e))
        ]

    def proof(self, pipeline: Pipeline) -> pb.PrivacyProof | None:
        """What the driver checks; None where nothing was asked for."""
        if self.is_open:
            return None
        return pb.PrivacyProof(
            label=self.label,
            is_boomerang=self.is_boomerang,
            stages=[
                pb.StagePrivacy(node_id=s.node_id, host_id=s.host_id, reach=s.reach)
                for s in pipeline.stages
            ],
        )

    def lack(self, engines: Sequence[Engine]) -> str:
        """Why no pipeline of these engines, which serve the model, does what is asked for."""
        if not self.host_id and (self.is_boomerang or self.label == chat_pb2.PRIVACY_LABEL_LOCAL):
            return "the driver does not say which machine is its own"
        layer_count = engines[0].layer_count
        inside = [e for e in engines if self.admits(e)]
        missing = missing_ranges((range(e.layer_start, e.layer_stop) for e in inside), layer_count)
        if missing:
            ranges = " and ".join(f"{r.start}:{r.stop}" for r in missing)
            word = _WORDS.get(self.label, "what was asked for")
            return f"layers {ranges} are held only by workers beyond '{word}'"
        if self.is_boomerang and not any(self._is_local(e) and not e.layer_start for e in inside):
            return "no worker on the driver's machine holds the first layer"
        if self.is_boomerang and not any(
            self._is_local(e) and e.layer_stop == layer_count for e in inside
        ):
            return "no worker on the driver's machine holds the last layer"
        return "the ranges held within it do not join"

    def _is_local(self, engine: Engine) -> bool:
        return bool(self.host_id) and engine.host_id == self.host_id
