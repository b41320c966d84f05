"""Owns: when a placement that is held becomes another one, and in which steps.

Pure decisions with a memory: `Rebalancer.decide` is shown one model at every tick and answers with
moves. A move is made only when it was wanted at several looks in a row and pays for what must be
loaded; new ranges are ready before old ones leave, unless memory forbids it and others hold the
layers meanwhile. Pinned ranges and locked machines are never touched. Does not know: the wire.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from shoal_router.placement import (
    Candidate,
    Fit,
    Goal,
    Held,
    Links,
    Machine,
    ModelShape,
    PlacedRange,
    Room,
    gaps,
    place,
    step_us,
    tokens_per_s,
)

log = logging.getLogger(__name__)

# What is lost where a range leaves as superfluous, at most.
_LOSS_MAX = 0.02

Ranges = frozenset[PlacedRange]


@dataclass(frozen=True, slots=True)
class RebalanceOptions:
    gain: float = 0.2
    """A placement must be better by this share of what there is."""
    horizon_s: float = 600.0
    """In this time the gain must pay for the loading; a move that takes longer is given up."""
    ticks: int = 3
    """Looks in a row that must agree before anything moves."""
    cooldown_s: float = 300.0
    """Rest after a move, but for models that lack layers."""
    load_bytes_per_s: float = 100e6
    """How fast a machine is expected to fetch and load weights."""
    replicas_min: int = 2
    """Engines that must hold a layer before one more counts as superfluous."""


@dataclass(frozen=True, slots=True)
class Look:
    """One model at one tick.

    is_used: somebody has asked for it lately. is_pressed: more is asked of it than it gives.
    failed: nodes on which an engine of this model fails; nothing new goes there.
    """

    shape: ModelShape
    machines: Sequence[Machine]
    links: Links
    is_used: bool = True
    is_pressed: bool = False
    failed: frozenset[str] = frozenset()

    def held(self) -> Iterator[tuple[Machine, Held, PlacedRange]]:
        for machine in self.machines:
            for held in machine.held:
                yield machine, held, PlacedRange(machine.node_id, held.layer_start, held.layer_stop)

    def step_us(self, ranges: Iterable[PlacedRange]) -> float:
        by_id = {machine.node_id: machine for machine in self.machines}
        return step_us(self.shape, by_id, list(ranges), self.links)

    def tokens_per_s(self, ranges: Iterable[PlacedRange]) -> float:
        by_id = {machine.node_id: machine for machine in self.machines}
        return tokens_per_s(self.shape, by_id, list(ranges), self.links)


class MoveKind(Enum):
    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True, slots=True)
class Move:
    kind: MoveKind
    placed: PlacedRange


@dataclass(frozen=True, slots=True)
class Wish:
    """What should be held instead of what is, and why."""

    ranges: Ranges
    reason: str


@dataclass(slots=True)
class _Course:
    """One model over time. target: what is being moved to."""

    wanted: Ranges | None = None
    seen_count: int = 0
    target: Ranges | None = None
    deadline_s: float = 0.0
    rests_until_s: float = field(default=float("-inf"))


class Rebalancer:
    """Invariant: at most one move of a model is under way."""

    def __init__(self, options: RebalanceOptions) -> None:
        self._options = options
        self._courses: dict[str, _Course] = {}

    def decide(self, look: Look, now_s: float) -> tuple[Move, ...]:
        """What is to be done for a model now; called once per tick with what is held by then."""
        course = self._courses.setdefault(look.shape.model, _Course())
        if course.target is not None:
            moves = self._pursue(course, course.target, look, now_s)
            if moves is not None:
                return moves
        lacks = bool(gaps((each for _, _, each in look.held()), look.shape.layer_count))
        wish = None if now_s < course.rests_until_s and not lacks else wish_of(look, self._options)
        if wish is None or wish.ranges != course.wanted:
            course.wanted, course.seen_count = wish.ranges if wish else None, 0
        if wish is None:
            return ()
        course.seen_count += 1
        if course.seen_count < self._options.ticks:
            return ()
        course.target, course.wanted = wish.ranges, None
        course.deadline_s = now_s + self._options.horizon_s
        log.info("rebalance begins", extra={"model": look.shape.model, "reason": wish.reason})
        return self._pursue(course, wish.ranges, look, now_s) or ()

    def give_up(self, model: str, now_s: float) -> None:
        """A move did not work out: what is there by now stays."""
        course = self._courses.get(model)
        if course is not None and course.target is not None:
            self._rest(course, now_s)
            log.warning("rebalance given up", extra={"model": model})

    def forget(self, models: Iterable[str]) -> None:
        """Drops what is remembered of all models but these."""
        known = set(models)
        self._courses = {model: c for model, c in self._courses.items() if model in known}

    def _rest(self, course: _Course, now_s: float) -> None:
        course.target, course.wanted, course.seen_count = None, None, 0
        course.rests_until_s = now_s + self._options.cooldown_s

    def _pursue(
        self, course: _Course, target: Ranges, look: Look, now_s: float
    ) -> tuple[Move, ...] | None:
        """The next moves towards a target; None when there is nothing left of it to pursue."""
        if now_s >= course.deadline_s or not _is_possible(target, look):
            self.give_up(look.shape.model, now_s)
            return None
        held = {each for _, _, each in look.held()}
        ready = {each for _, held, each in look.held() if held.is_ready}
        moves = (*_loads(target - held, look), *_unloads(target, ready, look))
        if not moves and target <= ready:
            self._rest(course, now_s)
            log.info("rebalance done", extra={"model": look.shape.model})
            return None
        return moves


def wish_of(look: Look, options: RebalanceOptions) -> Wish | None:
    """What a model's placement should become, were one look enough; None where it may stay."""
    held = [each for _, _, each in look.held()]
    if not held:
        return None
    if gaps(held, look.shape.layer_count):
        # Parts that leave because nobody uses them must not call the others back.
        is_meant = look.is_used or any(each.is_pinned for _, each, _ in look.held())
        return _mended(look) if is_meant else None
    if look.is_pressed:
        return _spread(look, held, options)
    quicker = _quicker(look, held, options) if look.is_used else None
    return quicker or _lighter(look, options)


def _mended(look: Look) -> Wish | None:
    chosen = place(look.shape, look.machines, look.links, Goal.ONE_WAY, look.failed).chosen
    if chosen is None or _uses_failed(chosen, look) or chosen.fit is Fit.LEAST:
        return None
    return Wish(frozenset(chosen.ranges), "layers are missing")


def _spread(look: Look, held: Sequence[PlacedRange], options: RebalanceOptions) -> Wish | None:
    chosen = place(look.shape, look.machines, look.links, Goal.SPREAD, look.failed).chosen
    if chosen is None:
        return None
    ratio = chosen.tokens_per_s / max(look.tokens_per_s(held), 1e-9)
    if not _pays(ratio, chosen, look, options):
        return None
    return Wish(frozenset(chosen.ranges), f"carries {ratio:.2f} times as much")


def _quicker(look: Look, held: Sequence[PlacedRange], options: RebalanceOptions) -> Wish | None:
    """One way that is quicker than all there are, beside what is pinned."""
    bare = [
        replace(machine, held=machine.held if machine.is_fixed else ()) for machine in look.machines
    ]
    chosen = place(look.shape, bare, look.links, Goal.ONE_WAY, look.failed).chosen
    if chosen is None or chosen.fit is not Fit.BESIDE or _uses_failed(chosen, look):
        return None
    ratio = look.step_us(held) / max(chosen.step_us, 1e-9)
    if not _pays(ratio, chosen, look, options):
        return None
    return Wish(frozenset(chosen.ranges), f"steps are {ratio:.2f} times as fast")


def _lighter(look: Look, options: RebalanceOptions) -> Wish | None:
    """Without one range that adds nothing: others hold its layers often enough."""
    counts: Counter[int] = Counter()
    for _, _, each in look.held():
        counts.update(range(each.layer_start, each.layer_stop))
    everything = {each for _, _, each in look.held()}
    flow, time_us = look.tokens_per_s(everything), look.step_us(everything)
    for machine, held, each in sorted(look.held(), key=lambda h: (-h[0].layer_us, h[2].node_id)):
        layers = range(each.layer_start, each.layer_stop)
        is_spare = all(counts[layer] > options.replicas_min for layer in layers)
        if machine.is_fixed or not held.is_ready or not is_spare:
            continue
        rest = everything - {each}
        is_as_good = look.tokens_per_s(rest) >= flow * (1 - _LOSS_MAX)
        if is_as_good and look.step_us(rest) <= time_us * (1 + _LOSS_MAX):
            return Wish(frozenset(rest), f"layers on {each.node_id} add nothing")
    return None


def _pays(ratio: float, chosen: Candidate, look: Look, options: RebalanceOptions) -> bool:
    """Whether what is won over the horizon is more than what loading costs.

    While machines load, the fleet is taken to serve nothing: the worst case. What machines would do
    that have not run this model is a guess, so that twice the gain is asked for.
    """
    held = {each for _, _, each in look.held()}
    measured = {machine.node_id for machine in look.machines if machine.is_measured}
    on_node: Counter[str] = Counter()
    for each in chosen.ranges:
        if each not in held:
            on_node[each.node_id] += look.shape.stored_bytes(each.layer_start, each.layer_stop)
    cost_s = max(on_node.values(), default=0) / options.load_bytes_per_s
    gain = options.gain if measured >= on_node.keys() else 2 * options.gain
    is_better = bool(on_node) and ratio >= 1 + gain
    return is_better and (ratio - 1) * (options.horizon_s - cost_s) > cost_s


def _uses_failed(chosen: Candidate, look: Look) -> bool:
    held = {each for _, _, each in look.held()}
    return any(each.node_id in look.failed for each in chosen.ranges if each not in held)


def _is_possible(target: Ranges, look: Look) -> bool:
    """False once a machine that the target needs is gone, locked, or fails to load."""
    by_id = {machine.node_id: machine for machine in look.machines}
    held = {each for _, _, each in look.held()}
    for each in target - held:
        machine = by_id.get(each.node_id)
        if machine is None or machine.is_fixed or each.node_id in look.failed:
            return False
    return True


def _loads(missing: Iterable[PlacedRange], look: Look) -> list[Move]:
    """What finds room beside what is still there."""
    by_id = {machine.node_id: machine for machine in look.machines}
    room = Room(look.shape, look.machines, Fit.INSTEAD)
    order = sorted(missing, key=lambda r: (r.layer_start, r.layer_stop, r.node_id))
    return [Move(MoveKind.LOAD, each) for each in order if room.take([(by_id[each.node_id], each)])]


def _unloads(target: Ranges, ready: set[PlacedRange], look: Look) -> list[Move]:
    """What may go now: all that is not wanted once the target stands; before, only what stands in
    the way of it; and never the last to hold a layer."""
    standing = set(ready)
    held = {each for _, _, each in look.held()}
    room = Room(look.shape, look.machines, Fit.INSTEAD)
    by_id = {machine.node_id: machine for machine in look.machines}
    blocked = {
        each.node_id
        for each in target - held
        if room.needed_bytes(each.layer_start, each.layer_stop)
        > room.left_bytes(by_id[each.node_id])
    }
    moves = []
    for machine, _, each in sorted(look.held(), key=lambda h: (h[2].node_id, h[2].layer_start)):
        if machine.is_fixed or each in target:
            continue
        if not (target <= ready or each.node_id in blocked):
            continue
        if gaps(standing - {each}, look.shape.layer_count):
            continue
        standing.discard(each)
        moves.append(Move(MoveKind.UNLOAD, each))
    return moves
