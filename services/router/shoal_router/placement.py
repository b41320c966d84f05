"""Owns: which machine a model is loaded on, as a pure function of what workers say of themselves.

Does not know: time, requests, the wire. A model goes to one machine as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from shoal.worker.v1 import pipeline_pb2 as pb


@dataclass(frozen=True, slots=True)
class Machine:
    """A worker that takes orders. idle_bytes: what it would free by unloading idle engines."""

    node_id: str
    locator: str
    free_bytes: int
    idle_bytes: int = 0

    @property
    def room_bytes(self) -> int:
        return self.free_bytes + self.idle_bytes


@dataclass(frozen=True, slots=True)
class Need:
    """Memory of a model: expected with its weights as stored, and the least that it could do with.

    The number format is the worker's own affair: half of what is stored may do, never less than a
    byte for each parameter.
    """

    wanted_bytes: int
    least_bytes: int


def machine_of(beat: pb.WorkerBeat, promised_bytes: int = 0) -> Machine | None:
    """What a worker has to offer, less what was promised to loads on their way to it.

    None for one that cannot be spoken to.
    """
    if not beat.agent_locator:
        return None
    idle = (e.memory_bytes or e.weight_bytes for e in beat.engines if _may_leave(e))
    free_bytes = max(0, beat.memory_free_bytes - promised_bytes)
    return Machine(beat.node_id, beat.agent_locator, free_bytes, sum(idle))


def _may_leave(engine: pb.EngineStatus) -> bool:
    is_idle = engine.running_count == engine.waiting_count == 0
    return engine.state == pb.ENGINE_STATE_READY and is_idle and not engine.is_pinned


def choose(machines: Sequence[Machine], need: Need, avoid: Collection[str] = ()) -> Machine | None:
    """The machine for a model; None when none could hold it.

    In this order: the one with the most free memory, if the model fits beside all that is loaded;
    the one with the most room, if idle engines leave; the one with the most room of those that
    could hold it in a smaller number format. Nodes to `avoid` come after all others.
    """

    def rank(machine: Machine) -> tuple[bool, bool, bool, int, str]:
        fits_beside = machine.free_bytes >= need.wanted_bytes
        fits = machine.room_bytes >= need.wanted_bytes
        room_bytes = machine.free_bytes if fits_beside else machine.room_bytes
        return (
            machine.node_id in avoid,
            not fits_beside,
            not fits,
            -room_bytes,
            machine.node_id,
        )

    return min((m for m in machines if m.room_bytes >= need.least_bytes), key=rank, default=None)
