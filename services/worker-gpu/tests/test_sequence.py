"""Attempts, blocks and leases of the sequences on one stage."""

from __future__ import annotations

import pytest

from shoal_common.testing import FakeClock
from shoal_worker_gpu.errors import KvExhausted, StaleAttempt
from shoal_worker_gpu.sequence import SequenceKey, SequenceTable, StageSequence
from shoal_worker_gpu.testing import HashBackend

BLOCK_COUNT = 8
LEASE_S = 10.0


class Nobody:
    """An upstream that must not be asked."""

    def refuse(self, key: SequenceKey, reason: str, detail: str, node_id: str) -> None:
        raise AssertionError(f"{key} refused: {reason} {detail}")


class Table(SequenceTable):
    """A table over eight blocks with short arguments."""

    def __init__(self) -> None:
        self.backend = HashBackend(block_count=BLOCK_COUNT)
        self.clock = FakeClock()
        super().__init__(self.backend, self.clock)

    def enter(self, key: SequenceKey, block_count: int = 2, head: str = "head") -> StageSequence:
        return self.attach(
            key,
            block_count,
            head_incarnation=head,
            route=(),
            upstream=Nobody(),
            sampling=None,
            lease_s=LEASE_S,
        )

    @property
    def free(self) -> int:
        return self.backend.blocks_free


@pytest.fixture
def table() -> Table:
    return Table()


def test_a_higher_attempt_evicts_a_lower_one(table: Table) -> None:
    table.enter(SequenceKey(1, 1), 3)
    entry = table.enter(SequenceKey(1, 2), 4)
    assert table.get(SequenceKey(1, 1)) is None
    assert table.get(SequenceKey(1, 2)) is entry
    assert (len(table), table.free) == (1, BLOCK_COUNT - 4)
    assert entry.next_position == 0


def test_a_lower_attempt_is_stale_and_changes_nothing(table: Table) -> None:
    entry = table.enter(SequenceKey(1, 2), 3)
    with pytest.raises(StaleAttempt, match="attempt 2 replaced 1"):
        table.enter(SequenceKey(1, 1), 1)
    assert table.get(SequenceKey(1, 2)) is entry
    assert table.free == BLOCK_COUNT - 3


def test_the_same_attempt_again_takes_nothing_more(table: Table) -> None:
    entry = table.enter(SequenceKey(1, 1), 3)
    assert table.enter(SequenceKey(1, 1), 5) is entry
    assert table.free == BLOCK_COUNT - 3


def test_too_little_kv_takes_nothing(table: Table) -> None:
    table.enter(SequenceKey(1, 1), 5)
    with pytest.raises(KvExhausted, match=r"4 KV blocks are needed, 3 of 8"):
        table.enter(SequenceKey(2, 1), 4)
    assert (len(table), table.free) == (1, 3)


def test_growing_is_idempotent_and_never_shrinks(table: Table) -> None:
    key = SequenceKey(1, 1)
    table.enter(key, 2)
    for wanted in (4, 4, 3):
        assert len(table.grow(key, wanted).kv.blocks) == 4
    with pytest.raises(KvExhausted):
        table.grow(key, 9)
    assert table.free == BLOCK_COUNT - 4
    with pytest.raises(StaleAttempt, match="not attached"):
        table.grow(SequenceKey(1, 2), 1)


def test_detaching_twice_or_by_another_attempt_is_nothing_to_do(table: Table) -> None:
    table.enter(SequenceKey(1, 2), 3)
    assert table.detach(SequenceKey(1, 1)) is None
    assert table.free == BLOCK_COUNT - 3
    assert table.detach(SequenceKey(1, 2)) is not None
    assert table.detach(SequenceKey(1, 2)) is None
    assert table.free == BLOCK_COUNT


def test_blocks_of_a_sequence_that_leaves_during_a_step_are_free_after_it(table: Table) -> None:
    """Else another sequence could be given blocks that the compute thread still reads."""
    computing, idle = SequenceKey(1, 1), SequenceKey(2, 1)
    table.enter(computing, 3)
    table.enter(idle, 2)
    table.begin_step([computing])
    table.detach(computing)
    table.detach(idle)
    assert table.get(computing) is None
    assert table.free == BLOCK_COUNT - 3
    table.end_step()
    assert table.free == BLOCK_COUNT


def test_an_eviction_during_a_step_keeps_the_old_blocks_until_its_end(table: Table) -> None:
    table.enter(SequenceKey(1, 1), 3)
    table.begin_step([SequenceKey(1, 1)])
    entry = table.enter(SequenceKey(1, 2), 3)
    assert table.free == BLOCK_COUNT - 6
    table.end_step()
    assert table.get(SequenceKey(1, 2)) is entry
    assert table.free == BLOCK_COUNT - 3


async def test_a_lease_ends_unless_its_head_renews_it(table: Table) -> None:
    alive = table.enter(SequenceKey(1, 1), head="alive")
    silent = table.enter(SequenceKey(2, 1), head="silent")
    await table.clock.advance(LEASE_S * 0.9)
    assert table.expired() == []
    table.renew("alive")
    await table.clock.advance(LEASE_S * 0.2)
    assert table.expired() == [silent]
    await table.clock.advance(LEASE_S)
    assert table.expired() == [alive, silent]
