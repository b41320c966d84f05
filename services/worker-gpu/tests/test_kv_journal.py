"""What engines hold is told in order, and whole when something was missed."""

from __future__ import annotations

from shoal.worker.v1 import kv_pb2
from shoal_engine.blocks import BlockPool
from shoal_engine.shape import LayerRange
from shoal_worker_gpu.kv_journal import KvJournal, KvMirror
from shoal_worker_gpu.range_keys import RangeKeys

WHOLE = LayerRange(0, 6)


def fill(pool: BlockPool, name: str, count: int = 2, layers: LayerRange = WHOLE) -> list[bytes]:
    keys = [f"{name}{n}".ljust(16).encode() for n in range(count)]
    kv = pool.attach(count)
    kv.length = count * pool.block_size_tokens
    pool.detach(kv, RangeKeys(WHOLE).marked(keys, layers))
    return keys


def heard(told: list[kv_pb2.KvChanges]) -> kv_pb2.KvChanges:
    (changes,) = told
    changes.incarnation = "i"
    return changes


def test_the_first_answer_is_everything_and_the_next_only_what_changed() -> None:
    pool = BlockPool(4, 4)
    journal = KvJournal(pool, WHOLE)
    first = fill(pool, "a")
    changes = heard(journal.since(0))
    assert (changes.is_snapshot, changes.sequence, list(changes.stored)) == (True, 1, first)
    assert journal.since(1) == []
    second = fill(pool, "b", 4)
    changes = heard(journal.since(1))
    assert (changes.is_snapshot, changes.sequence) == (False, 2)
    assert (list(changes.stored), sorted(changes.forgotten)) == (second, first)


def test_a_reader_that_missed_something_gets_everything() -> None:
    pool = BlockPool(8, 4)
    journal = KvJournal(pool, WHOLE)
    journal.since(0)
    fill(pool, "a")
    assert heard(journal.since(1)).sequence == 2
    fill(pool, "b")
    changes = heard(journal.since(1))
    assert changes.is_snapshot
    assert len(changes.stored) == 4


def test_a_mirror_follows_its_engine_whatever_was_lost() -> None:
    pool = BlockPool(4, 4)
    journal, sent = KvJournal(pool, WHOLE), list[bytes]()
    mirror = KvMirror("node", sent.append)
    seen = 0
    for turn, name in enumerate("abcde"):
        fill(pool, name, 3)
        changes = heard(journal.since(seen))
        if turn == 2:
            continue  # Lost on the way: the reader asks again with what it has seen.
        seen = changes.sequence
        mirror.hear(changes)
        (engine,) = mirror.snapshot().engines
        assert sorted(engine.stored) == sorted(pool.remembered())
        assert (engine.node_id, engine.sequence, engine.is_snapshot) == ("node", seen, True)
    assert len(sent) == 4


def test_an_engine_that_is_gone_holds_nothing() -> None:
    pool = BlockPool(4, 4)
    fill(pool, "a")
    mirror = KvMirror("node", lambda _: None)
    mirror.hear(heard(KvJournal(pool, WHOLE).since(0)))
    mirror.forget("i")
    assert len(mirror.snapshot().engines) == 0


def test_parts_of_the_layers_are_told_of_and_counted_by_themselves() -> None:
    pool = BlockPool(12, 4)
    journal = KvJournal(pool, WHOLE)
    sent: list[bytes] = []
    mirror = KvMirror("node", sent.append)
    part = LayerRange(2, 4)
    told = journal.since(0)
    keys = fill(pool, "a", 2)
    told += journal.since(1)
    assert fill(pool, "a", 2, part) == keys
    told += journal.since(2)
    fill(pool, "b", 3, part)
    told += journal.since(3)
    counted = [(c.layer_start, c.layer_stop, c.sequence, c.is_snapshot) for c in told]
    assert counted == [(0, 6, 1, True), (0, 6, 2, False), (2, 4, 1, False), (2, 4, 2, False)]
    for changes in told:
        changes.incarnation = "i"
        mirror.hear(changes)
    whole, of_part = mirror.snapshot().engines
    assert (list(whole.stored), len(of_part.stored)) == (keys, 5)
    assert all(len(key) == 16 for key in of_part.stored)
    mirror.forget("i")
    assert not mirror.snapshot().engines


def test_a_snapshot_says_of_every_part_that_it_holds_nothing_any_more() -> None:
    pool = BlockPool(4, 4)
    journal = KvJournal(pool, WHOLE)
    part = LayerRange(0, 3)
    fill(pool, "a", 2, part)
    assert len(journal.since(0)) == 2
    fill(pool, "b", 4)
    told = {changes.layer_stop: list(changes.stored) for changes in journal.since(0)}
    assert (len(told[6]), told[3]) == (4, [])
