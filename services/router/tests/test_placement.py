"""Which machine takes a model, case by case."""

from __future__ import annotations

import pytest

from shoal.worker.v1 import pipeline_pb2 as pb
from shoal_router.placement import Machine, Need, choose, machine_of
from shoal_router.testing import beat, status

NEED = Need(wanted_bytes=100, least_bytes=40)


def machine(node_id: str, free: int, idle: int = 0) -> Machine:
    return Machine(node_id, f"grpc:{node_id}:2", free, idle)


@pytest.mark.parametrize(
    ("machines", "avoid", "chosen"),
    [
        pytest.param([], (), None, id="no worker"),
        pytest.param([machine("a", 39)], (), None, id="below the least"),
        pytest.param([machine("a", 200), machine("b", 300)], (), "b", id="most free memory"),
        pytest.param([machine("a", 100), machine("b", 99, 500)], (), "a", id="beside, not instead"),
        pytest.param([machine("a", 20, 90), machine("b", 20, 95)], (), "b", id="most room"),
        pytest.param([machine("a", 99), machine("b", 0, 100)], (), "b", id="idle ones count"),
        pytest.param([machine("a", 40), machine("b", 60)], (), "b", id="smaller number format"),
        pytest.param([machine("b", 200), machine("a", 200)], (), "a", id="equal: by name"),
        pytest.param([machine("a", 300), machine("b", 50)], ("a",), "b", id="avoided come last"),
        pytest.param([machine("a", 300), machine("b", 9)], ("a",), "a", id="avoided come too"),
    ],
)
def test_choice(machines: list[Machine], avoid: tuple[str, ...], chosen: str | None) -> None:
    found = choose(machines, NEED, avoid)
    assert (found and found.node_id) == chosen


@pytest.mark.parametrize(
    ("engine", "idle_bytes"),
    [
        pytest.param({"weight_bytes": 7}, 7, id="idle"),
        pytest.param({"weight_bytes": 7, "memory_bytes": 9}, 9, id="as measured"),
        pytest.param({"weight_bytes": 7, "is_pinned": True}, 0, id="pinned"),
        pytest.param({"weight_bytes": 7, "running_count": 1}, 0, id="running"),
        pytest.param({"weight_bytes": 7, "waiting_count": 1}, 0, id="waiting"),
        pytest.param({"weight_bytes": 7, "state": pb.ENGINE_STATE_LOADING}, 0, id="loading"),
    ],
)
def test_what_idle_engines_would_free(engine: dict[str, int], idle_bytes: int) -> None:
    said = status("a")
    said.MergeFrom(pb.EngineStatus(**engine))  # type: ignore[arg-type]
    found = machine_of(beat("a", said, free_bytes=50))
    assert found is not None
    assert (found.free_bytes, found.idle_bytes) == (50, idle_bytes)


def test_memory_that_was_promised_is_not_free() -> None:
    found = machine_of(beat("a", free_bytes=50), promised_bytes=60)
    assert found is not None
    assert found.free_bytes == 0


def test_a_worker_without_an_agent_takes_nothing() -> None:
    said = beat("a", free_bytes=50)
    said.agent_locator = ""
    assert machine_of(said) is None
