"""What a person sees of a real fleet: its status, an explained plan, the way of a reply."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.e2e.fleet import Fleet, fleet_up

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

MODEL = "heavyweight"
MESSAGES: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
STAGE_TIMES = re.compile(
    r"queue;dur=\d+"
    r'(, s\d-queue;dur=[\d.]+;desc="worker-\d@\d:\d"'
    r", s\d-compute;dur=[\d.]+, s\d-wire;dur=[\d.]+){2}"
)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with fleet_up(folder, models=(MODEL,), workers=2, split=True, timeout_s=240) as fleet:
        yield fleet


async def shoal(fleet: Fleet, *argv: str) -> tuple[int, dict[str, Any], str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shoal_cli", *argv, "--json",
        "--data-dir", fleet.data_dir, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(out or "{}"), err.decode()


async def test_status_knows_the_layers_the_links_and_the_queue(fleet: Fleet) -> None:
    code, told, _ = await shoal(fleet, "status")
    assert code == 0
    seen = told["fleet"]
    assert {e["layers"] for e in seen["engines"] if e["state"] == "ready"} == {"0:3", "3:6"}
    assert all(w["is_alive"] and w["host_id"] for w in seen["workers"])
    assert [p["stages"] for p in seen["pipelines"]] == [["worker-1@0:3", "worker-2@3:6"]]
    assert seen["waiting_max"] == 512
    assert {s["state"] for s in told["services"]} == {"up"}


async def test_a_plan_is_explained_with_its_placements(fleet: Fleet) -> None:
    code, told, _ = await shoal(fleet, "plan", MODEL, "--prompt-tokens", "200")
    assert code == 0
    (way,) = told["candidates"]
    assert (way["is_chosen"], way["stages"]) == (True, ["worker-1@0:3", "worker-2@3:6"])
    assert any(p["is_chosen"] for p in told["placements"])


async def test_a_plan_that_nobody_may_serve_says_why(fleet: Fleet) -> None:
    code, _, err = await shoal(fleet, "plan", "nothing")
    assert code == 1
    assert "model 'nothing' does not exist" in err


async def test_a_reply_names_its_machines_and_the_time_of_each(
    fleet: Fleet, client: AsyncOpenAI
) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model=MODEL, messages=MESSAGES, max_tokens=8
    )
    route = raw.headers["x-shoal-route"]
    assert re.fullmatch(r"[0-9a-f]{16};worker-1@0:3;worker-2@3:6", route)
    assert STAGE_TIMES.fullmatch(raw.headers["server-timing"])
    stream = await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=8, stream=True
    )
    assert [chunk async for chunk in stream]
