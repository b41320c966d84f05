"""When placements move, and that nothing is lost on the way."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_router.placement import Fit, Held, Links, Machine, ModelShape, PlacedRange, Room, gaps
from shoal_router.rebalance import Look, Move, MoveKind, RebalanceOptions, Rebalancer, wish_of

from .sites import fleet, held, machine, placed, real_shape, shape

OPTIONS = RebalanceOptions(load_bytes_per_s=1000.0)
TICK_S = 10.0


class World:
    """Machines that do as they are told: a load is ready, or an unload gone, at the next look."""

    def __init__(self, model: ModelShape, machines: list[Machine], **look: bool) -> None:
        self.model, self.machines, self.look = model, machines, look
        self.rebalancer = Rebalancer(OPTIONS)
        self.now_s = 0.0
        self.moves: list[Move] = []

    def tick(self) -> tuple[Move, ...]:
        """One look, after which what was loading before is ready."""
        moves = self.rebalancer.decide(
            Look(self.model, self.machines, Links(visit_us=0), **self.look), self.now_s
        )
        self.machines = [self._ready(each) for each in self.machines]
        for move in moves:
            self._apply(move)
        self.moves += moves
        self.now_s += TICK_S
        return moves

    def run(self, ticks: int) -> None:
        for _ in range(ticks):
            self.tick()

    def held(self, *, ready_only: bool = False) -> set[PlacedRange]:
        return {
            PlacedRange(m.node_id, h.layer_start, h.layer_stop)
            for m in self.machines
            for h in m.held
            if h.is_ready or not ready_only
        }

    def change(self, node_id: str, **values: object) -> None:
        self.machines = [
            replace(m, **values) if m.node_id == node_id else m  # type: ignore[arg-type]
            for m in self.machines
        ]

    def die(self, node_id: str) -> None:
        self.machines = [m for m in self.machines if m.node_id != node_id]

    def _ready(self, each: Machine) -> Machine:
        return replace(each, held=tuple(replace(h, is_ready=True) for h in each.held))

    def _apply(self, move: Move) -> None:
        (owner,) = [m for m in self.machines if m.node_id == move.placed.node_id]
        key = (move.placed.layer_start, move.placed.layer_stop)
        size_bytes = self.model.memory_bytes(*key)
        if move.kind is MoveKind.LOAD:
            assert Room(self.model, self.machines, Fit.INSTEAD).take([(owner, move.placed)])
            now = (*owner.held, Held(*key, memory_bytes=size_bytes, is_ready=False))
            self.change(owner.node_id, held=now, free_bytes=owner.free_bytes - size_bytes)
        else:
            (gone,) = [h for h in owner.held if (h.layer_start, h.layer_stop) == key]
            assert not owner.is_fixed
            now = tuple(h for h in owner.held if h is not gone)
            free_bytes = owner.free_bytes + gone.memory_bytes
            self.change(owner.node_id, held=now, free_bytes=free_bytes)


def pressed(*machines: Machine) -> World:
    return World(shape(), list(machines), is_pressed=True)


def calm(*machines: Machine) -> World:
    return World(shape(), list(machines))


def test_a_pressed_model_gets_more_machines_after_three_looks() -> None:
    world = pressed(machine("a", 0, held=held("0:12")), machine("b", 12))
    assert [world.tick() for _ in range(2)] == [(), ()]
    assert world.tick() == (Move(MoveKind.LOAD, PlacedRange("b", 0, 12)),)
    world.run(10)
    assert world.held() == placed("a@0:12 b@0:12")
    assert len(world.moves) == 1


def test_looks_that_disagree_begin_anew() -> None:
    world = pressed(machine("a", 0, held=held("0:12")), machine("b", 12))
    world.run(2)
    world.change("b", is_locked=True)
    world.run(1)
    world.change("b", is_locked=False)
    world.run(2)
    assert not world.moves
    world.run(1)
    assert len(world.moves) == 1


def test_a_calm_model_is_not_spread() -> None:
    world = calm(machine("a", 0, held=held("0:12")), machine("b", 12))
    world.run(10)
    assert not world.moves


def test_a_much_faster_machine_takes_over_once_it_is_ready() -> None:
    world = calm(machine("a", 0, held=held("0:12")), machine("b", 12, 100))
    world.run(3)
    assert world.moves == [Move(MoveKind.LOAD, PlacedRange("b", 0, 12))]
    assert world.held(ready_only=True) == placed("a@0:12")
    world.run(1)
    assert world.moves[1:] == []
    world.run(1)
    assert world.moves[1:] == [Move(MoveKind.UNLOAD, PlacedRange("a", 0, 12))]
    assert world.held() == placed("b@0:12")


@pytest.mark.parametrize(
    ("world", "why"),
    [
        pytest.param(
            calm(machine("a", 0, held=held("0:12")), machine("b", 12, 850)), "gain", id="too little"
        ),
        pytest.param(
            calm(machine("a", 0, held=held("0:12")), machine("b", 12, 800)),
            "guess",
            id="a guess must promise more",
        ),
        pytest.param(
            World(
                shape(), [machine("a", 0, held=held("0:12")), machine("b", 12, 100)], is_used=False
            ),
            "unused",
            id="nobody asks for it",
        ),
        pytest.param(
            calm(machine("a", 0, held=held("0:12", is_pinned=True)), machine("b", 12, 800)),
            "pinned",
            id="pinned",
        ),
        pytest.param(
            pressed(machine("a", 0, held=held("0:12")), machine("b", 12, is_locked=True)),
            "locked",
            id="nobody to help",
        ),
        pytest.param(
            World(
                shape(layer_bytes=100_000),
                [machine("a", 0, 1000, held=held("0:12")), machine("b", 12_000)],
                is_pressed=True,
            ),
            "horizon",
            id="loading takes longer than the gain lasts",
        ),
    ],
)
def test_what_does_not_pay_stays(world: World, why: str) -> None:
    world.run(8)
    assert not world.moves, why


def test_a_measured_machine_needs_half_the_gain_of_a_guess() -> None:
    world = calm(machine("a", 0, held=held("0:12")), machine("b", 12, 800, is_measured=True))
    world.run(8)
    assert world.held() == placed("b@0:12")


def test_layers_that_died_with_a_worker_are_loaded_elsewhere_even_for_pins() -> None:
    world = calm(
        machine("a", 0, held=held("0:6", is_pinned=True)),
        machine("b", 0, held=held("6:12", is_pinned=True)),
        machine("c", 6),
    )
    world.run(5)
    assert not world.moves
    world.die("b")
    world.run(2)
    assert not world.moves
    world.run(1)
    assert world.held() == placed("a@0:6 c@6:12")


@pytest.mark.parametrize(("is_pinned", "is_mended"), [(True, True), (False, False)])
def test_parts_that_nobody_uses_are_completed_only_beside_pins(
    is_pinned: bool, is_mended: bool
) -> None:
    machines = [machine("a", 0, held=held("0:6", is_pinned=is_pinned)), machine("b", 6)]
    world = World(shape(), machines, is_used=False)
    world.run(5)
    assert gaps(world.held(), 12) == ([] if is_mended else [range(6, 12)])


def test_thin_layers_are_thickened_after_a_worker_died() -> None:
    world = pressed(
        machine("a", 0, held=held("0:6")),
        machine("b", 0, held=held("0:6")),
        machine("c", 0, held=held("6:12")),
        machine("d", 0, held=held("6:12")),
        machine("e", 6),
    )
    world.die("d")
    world.run(4)
    assert world.held() == placed("a@0:6 b@0:6 c@6:12 e@6:12")


def test_after_a_move_a_model_rests_unless_layers_are_missing() -> None:
    world = pressed(machine("a", 0, held=held("0:12")), machine("b", 12), machine("c", 12))
    world.change("c", is_locked=True)
    world.run(5)
    world.change("c", is_locked=False)
    world.run(20)
    assert world.held() == placed("a@0:12 b@0:12")
    world.die("a")
    world.die("b")
    world.machines.append(machine("d", 0, held=held("0:6")))
    world.run(3)
    assert not gaps(world.held(), 12)


def test_when_the_rest_is_over_a_model_moves_again() -> None:
    world = pressed(machine("a", 0, held=held("0:12")), machine("b", 12))
    world.run(5)
    world.machines.append(machine("c", 12))
    world.run(round(OPTIONS.cooldown_s / TICK_S) + 3)
    assert world.held() == placed("a@0:12 b@0:12 c@0:12")


def test_a_machine_without_room_for_both_lets_go_first_where_others_hold_the_layers() -> None:
    world = pressed(
        machine("a", 0, held=held("0:12", is_pinned=True)), machine("b", 10, held=held("0:2"))
    )
    world.run(8)
    assert world.moves == [
        Move(MoveKind.UNLOAD, PlacedRange("b", 0, 2)),
        Move(MoveKind.LOAD, PlacedRange("b", 0, 12)),
    ]
    alone = pressed(machine("b", 10, held=held("0:2")), machine("c", 0, held=held("2:12")))
    alone.run(8)
    assert not alone.moves


def test_an_engine_that_adds_nothing_leaves_but_never_the_last_two() -> None:
    slow = machine("d", 0, 500_000, held=held("0:12"))
    others = [machine(name, 0, held=held("0:12")) for name in "ab"]
    world = calm(*others, slow)
    world.run(6)
    assert world.moves == [Move(MoveKind.UNLOAD, PlacedRange("d", 0, 12))]
    few = calm(others[0], slow)
    few.run(6)
    assert not few.moves


def test_a_move_whose_machine_fails_is_given_up() -> None:
    world = pressed(machine("a", 0, held=held("0:12")), machine("b", 12))
    world.run(3)
    world.change("b", held=())
    world.rebalancer.give_up("m", world.now_s)
    world.run(5)
    assert len(world.moves) == 1


def test_nodes_where_the_model_fails_get_nothing() -> None:
    look = Look(
        shape(),
        [machine("a", 0, held=held("0:12")), machine("b", 12)],
        Links(),
        is_pressed=True,
        failed=frozenset("b"),
    )
    assert wish_of(look, OPTIONS) is None


def test_a_model_that_nobody_holds_is_not_the_rebalancers_affair() -> None:
    assert wish_of(Look(shape(), [machine("a")], Links()), OPTIONS) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 10), st.booleans())
def test_whatever_moves_pins_stay_and_no_layer_is_ever_without_a_holder(
    seed: int, count: int, is_pressed: bool
) -> None:
    rng = random.Random(seed)
    world = World(real_shape(), fleet(seed, count, regions=2), is_pressed=is_pressed)
    world.rebalancer = Rebalancer(RebalanceOptions(cooldown_s=20.0))
    for _ in range(25):
        fixed = {m.node_id: m.held for m in world.machines if m.is_fixed}
        was_covered = not gaps(world.held(ready_only=True), 32)
        world.tick()
        assert all(m.held == fixed[m.node_id] for m in world.machines if m.node_id in fixed)
        assert all(m.free_bytes >= 0 or m.idle_bytes for m in world.machines)
        if was_covered:
            assert not gaps(world.held(ready_only=True), 32)
        if rng.random() < 0.05 and world.machines:
            world.die(rng.choice(world.machines).node_id)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 10), st.booleans())
def test_a_fleet_that_does_not_change_comes_to_rest(
    seed: int, count: int, is_pressed: bool
) -> None:
    world = World(real_shape(), fleet(seed, count, regions=2), is_pressed=is_pressed)
    world.rebalancer = Rebalancer(RebalanceOptions(cooldown_s=0.0))
    world.run(30)
    before = len(world.moves)
    world.run(10)
    assert len(world.moves) == before
