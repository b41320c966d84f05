"""How far a prompt may travel: headers, what the router is asked, plans that are not believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from shoal.common.v1 import chat_pb2
from shoal.worker.v1 import pipeline_pb2
from shoal_common.driving import Privacy, PrivacyUnproven, check_proof
from shoal_common.errors import InvalidRequest
from shoal_common.host import host_id
from shoal_gateway.privacy import asked_privacy, require_open

from .conftest import KEY, FakeRouter, Fleet, StartFleet

HERE = "host-of-this-machine"
POOL = pipeline_pb2.REACH_POOL
LAN = pipeline_pb2.REACH_LAN
PUBLIC = pipeline_pb2.REACH_PUBLIC


@pytest.mark.parametrize(
    ("label", "boomerang", "default", "expected"),
    [
        (None, None, Privacy(), Privacy()),
        (None, None, Privacy("lan", True), Privacy("lan", True)),
        ("Local", None, Privacy("lan"), Privacy("local")),
        (" pool ", "TRUE", Privacy(), Privacy("pool", True)),
        (None, "false", Privacy("lan", True), Privacy("lan")),
    ],
)
def test_headers_go_before_the_houses_rule(
    label: str | None, boomerang: str | None, default: Privacy, expected: Privacy
) -> None:
    assert asked_privacy(label, boomerang, default) == expected


@pytest.mark.parametrize(
    ("label", "boomerang", "param"),
    [
        ("secret", None, "x-shoal-privacy"),
        ("", None, "x-shoal-privacy"),
        (None, "yes", "x-shoal-boomerang"),
    ],
)
def test_words_that_nobody_knows_are_refused(
    label: str | None, boomerang: str | None, param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked_privacy(label, boomerang, Privacy())
    assert caught.value.param == param


def pipeline(
    *stages: tuple[str, int], label: int = chat_pb2.PRIVACY_LABEL_POOL, boomerang: bool = False
) -> pipeline_pb2.Pipeline:
    """Stages by host and reach, with their proof."""
    made = pipeline_pb2.Pipeline()
    made.privacy.label = label  # type: ignore[assignment]
    made.privacy.is_boomerang = boomerang
    for index, (host, reach) in enumerate(stages):
        made.stages.add(node_id=f"n{index}")
        made.privacy.stages.add(node_id=f"n{index}", host_id=host, reach=reach)  # type: ignore[arg-type]
    return made


def test_proofs_that_hold_are_believed() -> None:
    local = chat_pb2.PRIVACY_LABEL_LOCAL
    check_proof(Privacy("pool"), pipeline(("far", POOL), (HERE, PUBLIC)), HERE)
    check_proof(Privacy("local"), pipeline((HERE, PUBLIC), label=local), HERE)
    there_and_back = pipeline(
        (HERE, POOL), ("far", PUBLIC), (HERE, POOL),
        label=chat_pb2.PRIVACY_LABEL_PUBLIC, boomerang=True,
    )  # fmt: skip
    check_proof(Privacy("public", True), there_and_back, HERE)
    check_proof(Privacy(), pipeline_pb2.Pipeline(), HERE)


def _nothing(made: pipeline_pb2.Pipeline) -> None:
    made.ClearField("privacy")


def _another_label(made: pipeline_pb2.Pipeline) -> None:
    made.privacy.label = chat_pb2.PRIVACY_LABEL_PUBLIC


def _a_stage_too_few(made: pipeline_pb2.Pipeline) -> None:
    del made.privacy.stages[1]


def _another_stage(made: pipeline_pb2.Pipeline) -> None:
    made.privacy.stages[1].node_id = "somebody"


def _one_from_afar(made: pipeline_pb2.Pipeline) -> None:
    made.privacy.stages[1].reach = LAN


def _no_stages(made: pipeline_pb2.Pipeline) -> None:
    del made.stages[:]
    del made.privacy.stages[:]


@pytest.mark.parametrize(
    "lie", [_nothing, _another_label, _a_stage_too_few, _another_stage, _one_from_afar, _no_stages]
)
def test_lies_are_not_believed(lie: Callable[[pipeline_pb2.Pipeline], None]) -> None:
    made = pipeline((HERE, POOL), ("far", POOL))
    check_proof(Privacy("pool"), made, HERE)
    lie(made)
    with pytest.raises(PrivacyUnproven):
        check_proof(Privacy("pool"), made, HERE)


@pytest.mark.parametrize("host", [HERE, ""])
def test_a_boomerang_that_ends_elsewhere_is_not_believed(host: str) -> None:
    made = pipeline((HERE, POOL), ("far", POOL), boomerang=True)
    with pytest.raises(PrivacyUnproven, match="sees text on another machine"):
        check_proof(Privacy("pool", True), made, host or HERE)
    with pytest.raises(PrivacyUnproven):
        check_proof(Privacy("pool", True), pipeline((host, POOL), boomerang=True), "")


def test_prompts_that_stay_at_home_go_to_no_provider() -> None:
    require_open(Privacy(), "cloud")
    with pytest.raises(InvalidRequest, match="answered by somebody else"):
        require_open(Privacy("pool"), "cloud")
    with pytest.raises(InvalidRequest) as caught:
        require_open(Privacy("public", True), "cloud")
    assert caught.value.param == "x-shoal-boomerang"


async def ask(fleet: Fleet, **headers: str) -> tuple[int, Any]:
    body = {"model": "heavyweight", "messages": [{"role": "user", "content": "say hello"}]}
    sent = {"Authorization": f"Bearer {KEY}"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{fleet.url}/v1/chat/completions", json=body, headers=sent) as response,
    ):
        return response.status, await response.json()


def proves(router: FakeRouter, host: str, reach: int) -> None:
    """The router adds a proof that matches what was asked, whatever that was."""
    plain = router._plan

    def plan(attempt: int) -> Any:
        response = plain(attempt)
        asked = router.opened[-1]
        proof = response.plan.pipeline.privacy
        proof.label, proof.is_boomerang = asked.privacy, asked.wants_boomerang
        proof.stages.add(node_id="node-a", host_id=host, reach=reach)
        return response

    router._plan = plan  # type: ignore[method-assign]


async def test_the_router_is_told_what_was_asked_and_a_proof_lets_the_prompt_go(
    start_fleet: StartFleet,
) -> None:
    async with start_fleet() as fleet:
        fleet.says("hello")
        proves(fleet.router, host_id(), PUBLIC)
        status, _ = await ask(fleet, x_shoal_privacy="local", x_shoal_boomerang="true")
        assert status == 200
        opened = fleet.router.opened[-1]
        assert opened.privacy == chat_pb2.PRIVACY_LABEL_LOCAL
        assert opened.wants_boomerang
        assert opened.driver_host_id == host_id() != ""


async def test_no_prompt_is_sent_on_a_plan_that_proves_nothing(start_fleet: StartFleet) -> None:
    async with start_fleet() as fleet:
        fleet.says("hello")
        status, body = await ask(fleet, x_shoal_privacy="lan")
        assert (status, fleet.stage.requests) == (502, [])
        assert "does not prove the privacy" in body["error"]["message"]
        proves(fleet.router, "elsewhere", PUBLIC)
        status, _ = await ask(fleet, x_shoal_privacy="lan")
        assert (status, fleet.stage.requests, fleet.router.lost) == (502, [], [])


async def test_the_houses_rule_holds_where_no_header_speaks(start_fleet: StartFleet) -> None:
    async with start_fleet(privacy="pool", encrypted_pipeline=True) as fleet:
        fleet.says("hello")
        proves(fleet.router, host_id(), POOL)
        status, _ = await ask(fleet)
        opened = fleet.router.opened[-1]
        assert (status, opened.wants_boomerang) == (200, True)
        assert opened.privacy == chat_pb2.PRIVACY_LABEL_POOL


async def test_a_bad_header_is_a_bad_request(start_fleet: StartFleet) -> None:
    async with start_fleet() as fleet:
        status, body = await ask(fleet, x_shoal_privacy="mine")
        assert (status, body["error"]["param"]) == (400, "x-shoal-privacy")
        assert not fleet.router.opened


async def test_a_private_prompt_for_somebody_elses_model_is_refused_here(
    start_fleet: StartFleet,
) -> None:
    async with start_fleet(
        cloud_models={"heavyweight-far": {"base_url": "http://127.0.0.1:9/v1"}}
    ) as fleet:
        body = {
            "model": "heavyweight-far",
            "messages": [{"role": "user", "content": "say hello"}],
        }
        headers = {"Authorization": f"Bearer {KEY}", "x-shoal-privacy": "pool"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"{fleet.url}/v1/chat/completions", json=body, headers=headers
            ) as response,
        ):
            assert response.status == 400
            assert "answered by somebody else" in (await response.json())["error"]["message"]
