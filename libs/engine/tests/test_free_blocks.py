"""Free blocks are given so that sequences stay consecutive."""

import random

import pytest

from shoal_engine.free_blocks import FreeBlocks


def test_the_first_sequence_starts_at_the_beginning() -> None:
    assert FreeBlocks(8).take(3) == [0, 1, 2]


def test_a_new_sequence_leaves_room_on_both_sides() -> None:
    free = FreeBlocks(100)
    free.take(10)
    assert free.take(10) == list(range(50, 60))


def test_growth_takes_what_lies_behind_and_then_something_else() -> None:
    free = FreeBlocks(8)
    free.take(8)
    free.add([3, 4, 6])
    assert free.take(3, after=2) == [3, 4, 6]
    assert len(free) == 0


def test_a_request_longer_than_any_run_is_pieced_together() -> None:
    free = FreeBlocks(8)
    free.take(8)
    free.add([0, 3, 4, 7])
    assert sorted(free.take(4)) == [0, 3, 4, 7]


def test_giving_back_a_free_block_is_a_programmer_error() -> None:
    free = FreeBlocks(4)
    with pytest.raises(AssertionError, match="block 2 is free"):
        free.add([2])


def test_random_use_gives_no_block_twice() -> None:
    seed = 3
    rng = random.Random(seed)
    free = FreeBlocks(50)
    held: set[int] = set()
    for _ in range(2000):
        if rng.random() < 0.5 and len(free):
            after = rng.choice([None, rng.randrange(50)])
            taken = free.take(rng.randint(1, len(free)), after)
            assert not held & set(taken), f"seed {seed}"
            held |= set(taken)
        elif held:
            back = rng.sample(sorted(held), rng.randint(1, len(held)))
            free.add(back)
            held -= set(back)
        assert len(free) == 50 - len(held)
        assert all((block in free) != (block in held) for block in range(50))
