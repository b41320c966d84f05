"""What only the folder in the process does: its owner, crashes, room given back."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from shoal_common.clock import SystemClock
from shoal_common.testing import FakeClock
from shoal_common.testing.waiting import eventually
from shoal_entropy_drafter.cache import shard
from shoal_entropy_drafter.cache.base import Point
from shoal_entropy_drafter.cache.collection import Collection
from shoal_entropy_drafter.cache.edge import EdgeIndex
from shoal_entropy_drafter.errors import CacheStoreAway, CollectionInUse

from .conftest import SIZE, collection, point, unit

OWNER = """
import asyncio, sys
from pathlib import Path
import numpy as np
from shoal_common.clock import SystemClock
from shoal_entropy_drafter.cache.base import Point
from shoal_entropy_drafter.cache.collection import Collection
from shoal_entropy_drafter.cache.edge import EdgeIndex

async def main() -> None:
    wanted = Collection("answers", {size}, "all-MiniLM-L6-v2")
    index = EdgeIndex(Path(sys.argv[1]), wanted, SystemClock())
    await index.start()
    for number in range({count}):
        vector = np.eye({size}, dtype=np.float32)[number]
        id = f"00000000-0000-0000-0000-{{number:012d}}"
        await index.upsert(Point(id, vector, "scope", "tenant", "model", 100))
    print("written", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
COUNT = 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "qdrant" / "answers"


@pytest.fixture
async def index(folder: Path) -> AsyncIterator[EdgeIndex]:
    opened = index_of(folder)
    await opened.start()
    yield opened
    await opened.close()


def index_of(folder: Path, wanted: Collection | None = None) -> EdgeIndex:
    return EdgeIndex(folder, wanted or collection(), SystemClock())


def owner_of(folder: Path) -> subprocess.Popen[str]:
    """Another process that owns the folder and has written `COUNT` points."""
    program = OWNER.format(size=SIZE, count=COUNT)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    return process


async def test_a_killed_owner_loses_nothing_and_leaves_the_folder_free(folder: Path) -> None:
    process = owner_of(folder)
    try:
        second = index_of(folder)
        with pytest.raises(CollectionInUse, match=str(folder)):
            await second.start()
        await second.close()
    finally:
        process.kill()
        process.communicate()
    again = index_of(folder)
    await again.start()
    assert await again.count() == COUNT
    (found,) = await again.search(np.eye(SIZE, dtype=np.float32)[3], "scope", 4, 0.95)
    assert found.id.endswith("000003")
    await again.close()


async def test_a_second_owner_in_the_same_process_is_refused(
    folder: Path, index: EdgeIndex
) -> None:
    second = index_of(folder)
    with pytest.raises(CollectionInUse, match="qdrant_url"):
        await second.start()
    await second.close()
    await index.upsert(point(unit(1)))


def garbage_everywhere(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"\x00garbage" * 9)


def no_manifest_any_more(folder: Path) -> None:
    (folder / "collection.json").write_text("{")


def no_points_any_more(folder: Path) -> None:
    shutil.rmtree(folder / "points-1")


@pytest.mark.parametrize("harm", [garbage_everywhere, no_manifest_any_more, no_points_any_more])
async def test_a_broken_folder_is_moved_aside(
    folder: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    first = index_of(folder)
    await first.start()
    await first.upsert(point(unit(1)))
    await first.close()
    for _ in range(2):
        harm(folder)
        again = index_of(folder)
        await again.start()
        assert await again.count() == 0
        await again.upsert(point(unit(1)))
        await again.close()
    assert (folder.parent / "answers.broken").is_dir()
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert {path.name for path in folder.parent.iterdir()} == {
        "answers", "answers.broken", "answers.lock",
    }  # fmt: skip


async def test_a_folder_that_cannot_be_made_is_a_store_away(tmp_path: Path) -> None:
    (tmp_path / "qdrant").write_text("a file where a folder should be")
    index = index_of(tmp_path / "qdrant" / "answers")
    with pytest.raises(CacheStoreAway, match="answers"):
        await index.start()
    assert not index.is_started
    await index.close()


async def test_a_folder_of_another_form_is_made_anew(folder: Path) -> None:
    first = index_of(folder)
    await first.start()
    await first.upsert(point(unit(1)))
    await first.close()
    manifest = folder / "collection.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"form": 0}))
    again = index_of(folder)
    await again.start()
    assert await again.count() == 0
    await again.close()
    assert not (folder.parent / "answers.broken").exists()


async def test_neighbours_are_found_through_the_cells(index: EdgeIndex) -> None:
    """Through a search that reads few cells, as through one that reads all."""
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((200, SIZE)).astype(np.float32)
    points = [point(vector / np.linalg.norm(vector)) for vector in vectors]
    for one in points:
        await index.upsert(one)
    found = 0
    for one in points:
        near = one.vector + rng.standard_normal(SIZE).astype(np.float32) * 0.05
        exhaustive = [m for m in await index.search(near, "scope", 1) if m.similarity >= 0.95]
        by_cells = await index.search(near, "scope", 1, 0.95)
        assert by_cells in ([], exhaustive)
        found += by_cells == exhaustive
    assert found >= 190


async def churn(index: EdgeIndex, rounds: int, kept: Point) -> None:
    """Come and go, so that room is left behind."""
    await index.upsert(kept)
    for number in range(rounds):
        passing = [point(unit(0, 1, number / 7), scope="passing") for _ in range(8)]
        for one in passing:
            await index.upsert(one)
        await index.delete([one.id for one in passing])


async def test_room_of_deleted_points_is_given_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "FREED_LEAST", 20)
    monkeypatch.setattr(shard, "_COPY_COUNT", 4)
    clock = FakeClock()
    index = EdgeIndex(folder, collection(), clock)
    await index.start()
    kept = [point(unit(1, number / 9)) for number in range(10)]
    for one in kept:
        await index.upsert(one)
    await churn(index, 3, kept[0])
    tidying = asyncio.create_task(index.tidy())
    await eventually(lambda: clock.sleeper_count > 0)
    # Between two steps of the copy: one goes, one comes, one changes; all are found at once.
    late = point(unit(0, 0, 1))
    await index.delete([kept[1].id, kept[9].id])
    await index.upsert(late)
    await index.upsert(point(unit(0, 0, 0, 1), id=kept[2].id))
    assert await index.count() == 9
    while not tidying.done():
        await clock.advance(1)
        await index.count()
    await tidying
    assert [path.name for path in folder.glob("points-*")] == ["points-2"]
    for at in (index, None):
        if at is None:
            await index.close()
            at = index_of(folder)
            await at.start()
        found = {match.id for match in await at.search(unit(1), "scope", 100)}
        assert found == {one.id for one in kept} - {kept[1].id, kept[9].id} | {late.id}
        (changed,) = await at.search(unit(0, 0, 0, 1), "scope", 1, 0.99)
        assert changed.id == kept[2].id
    await at.close()


async def test_a_copy_that_was_not_finished_is_forgotten(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "FREED_LEAST", 5)
    monkeypatch.setattr(shard, "_COPY_COUNT", 1)
    clock = FakeClock()
    index = EdgeIndex(folder, collection(), clock)
    await index.start()
    kept = point(unit(1))
    await index.upsert(point(unit(1, 1)))
    await churn(index, 1, kept)
    tidying = asyncio.create_task(index.tidy())
    await eventually(lambda: clock.sleeper_count > 0)
    tidying.cancel()
    await asyncio.wait([tidying])
    await index.close()
    assert [path.name for path in folder.glob("points-*")] == ["points-1"]
    (folder / "points-2").mkdir()
    again = index_of(folder)
    await again.start()
    assert await again.count() == 2
    await again.close()


async def test_a_cancelled_call_leaves_the_index_usable(index: EdgeIndex) -> None:
    one = point(unit(1))
    calls = [asyncio.create_task(index.upsert(one)) for _ in range(5)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    await index.upsert(one)
    assert await index.count() == 1
