"""What engines hold is told in order, and whole when something was missed."""

from __future__ import annotations

from shoal.worker.v1 import kv_pb2
from shoal_engine.blocks import BlockPool
from shoal_worker_gpu.kv_journal import KvJournal, KvMirror


def fill(pool: BlockPool, name: str, count: int = 2) -> list[bytes]:
    keys = [f"{name}{n}".encode() for n in range(count)]
    kv = pool.attach(count)
    kv.length = count * pool.block_size_tokens
    pool.detach(kv, keys)
    return keys


def heard(changes: kv_pb2.KvChanges | None) -> kv_pb2.KvChanges:
    assert changes is not None
    changes.incarnation = "i"
    return changes


def test_the_first_answer_is_everything_and_the_next_only_what_changed() -> None:
    pool = BlockPool(4, 4)
    journal = KvJournal(pool)
    first = fill(pool, "a")
    changes = heard(journal.since(0))
    assert (changes.is_snapshot, changes.sequence, list(changes.stored)) == (True, 1, first)
    assert journal.since(1) is None
    second = fill(pool, "b", 4)
    changes = heard(journal.since(1))
    assert (changes.is_snapshot, changes.sequence) == (False, 2)
    assert (list(changes.stored), sorted(changes.forgotten)) == (second, first)


def test_a_reader_that_missed_something_gets_everything() -> None:
    pool = BlockPool(8, 4)
    journal = KvJournal(pool)
    journal.since(0)
    fill(pool, "a")
    assert heard(journal.since(1)).sequence == 2
    fill(pool, "b")
    changes = heard(journal.since(1))
    assert changes.is_snapshot
    assert len(changes.stored) == 4


def test_a_mirror_follows_its_engine_whatever_was_lost() -> None:
    pool = BlockPool(4, 4)
    journal, sent = KvJournal(pool), list[bytes]()
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
    mirror.hear(heard(KvJournal(pool).since(0)))
    mirror.forget("i")
    assert len(mirror.snapshot().engines) == 0
