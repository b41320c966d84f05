"""Which model answers a request that names none."""

from __future__ import annotations

import pytest

from shoal.router.v1 import router_pb2
from shoal_common.driving import PlanStream
from shoal_common.testing import FakeClock
from shoal_gateway.errors import NoModelReady
from shoal_gateway.models import ModelDirectory


class FixedRouter:
    def __init__(self, states: dict[str, str]) -> None:
        self._states = tuple(
            router_pb2.ModelState(
                model=model, is_ready=state == "ready", is_loadable=state == "loadable"
            )
            for model, state in states.items()
        )

    async def list_models(self) -> tuple[router_pb2.ModelState, ...]:
        return self._states

    def open_plan(self, request: router_pb2.PlanOpen) -> PlanStream:
        raise AssertionError("nobody asks for a plan here")


@pytest.mark.parametrize(
    ("states", "default_model", "found"),
    [
        ({"a": "loadable", "b": "ready", "c": "ready"}, "", "b"),
        ({"a": "none", "b": "loadable", "c": "loadable"}, "", "b"),
        ({"a": "loadable", "b": "ready"}, "a", "a"),
        ({"a": "none"}, "", None),
    ],
)
async def test_auto_takes_the_default_then_what_is_ready_then_what_can_be_loaded(
    states: dict[str, str], default_model: str, found: str | None
) -> None:
    directory = ModelDirectory(FixedRouter(states), FakeClock(), default_model)
    if found is None:
        with pytest.raises(NoModelReady):
            await directory.find("")
    else:
        assert (await directory.find("")).model == found


async def test_the_default_model_is_listed_first() -> None:
    directory = ModelDirectory(FixedRouter({"a": "ready", "b": "none"}), FakeClock(), "b")
    assert [state.model for state in await directory.states()] == ["b", "a"]
