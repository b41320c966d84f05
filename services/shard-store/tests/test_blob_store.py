"""Verified reads, atomic writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shoal_shard_store.blob_store import BlobStore
from shoal_shard_store.errors import CorruptBlob, UnknownBlob
from shoal_shard_store.manifest import BlobRef


def _put(store: BlobStore, data: bytes) -> BlobRef:
    with store.writer() as writer:
        writer.write(data)
        return store.keep(writer)


def _read(store: BlobStore, digest: str) -> bytes:
    descriptor = store.open(digest)
    try:
        return os.pread(descriptor, 1 << 20, 0)
    finally:
        os.close(descriptor)


def test_blob_comes_back_under_its_digest(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    ref = _put(store, b"shoal")
    assert _read(store, ref.digest) == b"shoal"
    assert store.has(ref)
    assert list(tmp_path.glob("*.tmp")) == []


def test_abandoned_blob_leaves_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    with store.writer() as writer:
        writer.write(b"half")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    (tmp_path / "dead.tmp").write_bytes(b"half")
    assert BlobStore(tmp_path).remove_unfinished() == 1
    assert list(tmp_path.iterdir()) == []


def test_blob_corrupted_after_its_first_read_is_quarantined(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    ref = _put(store, b"shoal")
    _read(store, ref.digest)
    path = store.path_of(ref.digest)
    path.write_bytes(b"shoaL")
    os.utime(path, ns=(1, 1))
    for _ in range(2):  # The second time it is in quarantine already.
        with pytest.raises(CorruptBlob, match="import the model again"):
            _read(store, ref.digest)
    assert not path.exists()
    assert path.with_name(f"{path.name}.quarantine").read_bytes() == b"shoaL"
    assert not store.has(ref)


def test_writing_again_heals_a_quarantined_blob(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    ref = _put(store, b"shoal")
    store.path_of(ref.digest).write_bytes(b"x")
    with pytest.raises(CorruptBlob):
        _read(store, ref.digest)
    _put(store, b"shoal")
    assert _read(store, ref.digest) == b"shoal"
    assert list(tmp_path.rglob("*.quarantine")) == []


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "0" * 63, "A" * 64, "0" * 64])
def test_what_is_no_digest_or_not_there_is_unknown(tmp_path: Path, digest: str) -> None:
    with pytest.raises(UnknownBlob):
        BlobStore(tmp_path).open(digest)
