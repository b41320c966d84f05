"""`shoal status` and `shoal plan` against a router that speaks real gRPC."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from shoal.router.v1 import router_pb2 as pb
from shoal.router.v1 import router_pb2_grpc
from shoal.worker.v1 import pipeline_pb2
from shoal_cli import fleet_tables, pids, plan
from shoal_cli import status as view
from shoal_cli.errors import NotRunning
from shoal_cli.fleet_rows import FleetRows, ModelRow
from shoal_common.errors import UnknownModel
from shoal_common.host import host_id
from shoal_common.rpc import RpcServer

TOKEN = "t" * 32
STAGES = [("a", 0, 3), ("b", 3, 6)]


def pipeline(*stages: tuple[str, int, int]) -> pipeline_pb2.Pipeline:
    return pipeline_pb2.Pipeline(
        pipeline_id=f"pipe-{stages[0][0]}",
        model="heavyweight",
        stages=[
            pipeline_pb2.PipelineStage(node_id=node, layer_start=start, layer_stop=stop)
            for node, start, stop in stages
        ],
    )


def worker(node_id: str, layers: tuple[int, int], **more: Any) -> pb.FleetWorker:
    engine = pipeline_pb2.EngineStatus(
        model="heavyweight",
        layer_start=layers[0],
        layer_stop=layers[1],
        state=pipeline_pb2.ENGINE_STATE_READY,
        layer_time_us=500,
        block_size_tokens=16,
        kv_blocks_total=100,
        kv_blocks_free=75,
        running_count=2,
        running_max=32,
        waiting_count=1,
    )
    beat = pipeline_pb2.WorkerBeat(
        node_id=node_id,
        region="attic",
        host_id="0123456789abcdef",
        device="cpu",
        memory_free_bytes=3 << 30,
        memory_total_bytes=8 << 30,
        engines=[engine],
        links=[pipeline_pb2.LinkTime(node_id="z", rtt_us=1500, bytes_per_s=50 << 20)],
    )
    return pb.FleetWorker(beat=beat, **more)


class FakeRouter(router_pb2_grpc.RouterServiceServicer):
    """Two workers, one silent; one pipeline; `problem` is what stands against a plan."""

    def __init__(self) -> None:
        self.problem = ""
        self.openings: list[Any] = []
        self.looks = 0

    async def GetFleet(self, request: Any, context: Any) -> pb.GetFleetResponse:
        self.looks += 1
        return pb.GetFleetResponse(
            workers=[
                worker("b", (3, 6), is_alive=False, silent_ms=4200),
                worker("a", (0, 3), is_alive=True),
            ],
            pipelines=[pipeline(*STAGES)],
            uses=[
                pb.PipelineUse(
                    pipeline_id="pipe-a",
                    predicted_step_us=12_300,
                    tokens_per_s=81.3,
                    weight=1.0,
                    in_flight_count=2,
                )
            ],
            queues=[pb.TierQueue(tier=tier, waiting_count=tier) for tier in (4, 3, 2, 1)],
            waiting_max=512,
        )

    async def ListModels(self, request: Any, context: Any) -> pb.ListModelsResponse:
        state = pb.ModelState(
            model="heavyweight",
            layer_count=6,
            context_length=512,
            is_ready=True,
            readiness=pb.MODEL_READINESS_READY,
            pipeline_count=1,
            waiting_count=10,
            in_flight_count=2,
        )
        return pb.ListModelsResponse(models=[state])

    async def ExplainPlan(self, request: Any, context: Any) -> pb.ExplainPlanResponse:
        if request.open.model != "heavyweight":
            raise UnknownModel(request.open.model, ("heavyweight",))
        self.openings.append(request.open)
        response = pb.ExplainPlanResponse(tier=pb.TIER_GOLD, problem=self.problem)
        if not self.problem:
            for nodes, is_chosen, reason in (
                (STAGES, True, "costs least"),
                ([("slow", 0, 6)], False, "costs 3.00 times the chosen one"),
            ):
                response.candidates.add(
                    pipeline=pipeline(*nodes),
                    predicted_step_us=12_300,
                    tokens_per_s=46.8,
                    cost_us=9_920_000,
                    is_chosen=is_chosen,
                    reason=reason,
                )
        placement = response.placements.add(name="best single machine", reason="too small")
        placement.ranges.add(
            node_id="a", layers=pipeline_pb2.LayerRange(layer_start=0, layer_stop=6)
        )
        return response


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[FakeRouter]:
    """A fleet on `tmp_path` that consists of a router."""
    fake = FakeRouter()
    server = RpcServer("127.0.0.1:0", token=TOKEN, drain_timeout_s=0.1)
    server.add(router_pb2_grpc.add_RouterServiceServicer_to_server, fake)
    async with server:
        claim(tmp_path, server.address)
        yield fake


def claim(folder: Path, router_address: str) -> None:
    pids.claim(folder, "http://127.0.0.1:1")
    (folder / "run").mkdir()
    (folder / "run" / "router.ready.json").write_text(json.dumps({"grpc": router_address}))
    (folder / "fleet_token").write_text(TOKEN)


async def shoal(folder: Path, *argv: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error of the real command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shoal_cli", *argv, "--data-dir", folder, stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def cells(text: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    return [row for row in rows if row]


async def test_status_shows_the_whole_fleet_in_80_columns(
    tmp_path: Path, router: FakeRouter
) -> None:
    code, out, err = await shoal(tmp_path, "status")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80
    rows = cells(out)
    assert ["a", "attic", "01234567", "alive", "cpu", "3.0 of 8.0"] in rows
    assert ["b", "attic", "01234567", "silent 4.2 s", "cpu", "3.0 of 8.0"] in rows
    assert ["a", "heavyweight", "0:3", "ready", "667", "2 of 32 +1", "1200 of 1600"] in rows
    assert ["a", "z", "1.5 ms", "50"] in rows
    assert ["pipe-a", "heavyweight", "a@0:3", "12.3 ms", "81.3", "100%", "2"] in rows
    assert ["heavyweight", "ready", "6", "512", "1", "2", "10"] in rows
    assert ["4", "3", "2", "1"] in rows
    assert "Queue: 10 of 512 places" in out


async def test_status_as_json_has_everything_by_name(tmp_path: Path, router: FakeRouter) -> None:
    code, out, _ = await shoal(tmp_path, "status", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["problem"] == ""
    fleet = told["fleet"]
    assert [(w["node_id"], w["is_alive"]) for w in fleet["workers"]] == [("a", True), ("b", False)]
    assert fleet["engines"][0]["kv_tokens_free"] == 1200
    assert fleet["pipelines"][0]["stages"] == ["a@0:3", "b@3:6"]
    assert fleet["queue"][0] == {"tier": "platinum", "waiting_count": 4}


async def test_status_without_a_router_says_so_and_shows_the_rest(
    tmp_path: Path, unused_port: int
) -> None:
    claim(tmp_path, f"127.0.0.1:{unused_port}")
    code, out, _ = await shoal(tmp_path, "status")
    assert code == 0
    assert "Processes" in out
    assert "router does not answer" in " ".join(out.split())


async def watched(folder: Path, is_terminal: bool) -> str:
    """Three looks, after which the fleet is gone."""
    console = Console(file=io.StringIO(), width=80, height=200, force_terminal=is_terminal)
    looks = 0

    async def look() -> view.Snapshot:
        nonlocal looks
        looks += 1
        if looks > 3:
            raise NotRunning(folder)
        return await view.look(folder)

    with pytest.raises(NotRunning):
        await view.watch(look, console, lambda: asyncio.sleep(0))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_names_that_begin_alike_stay_apart_in_a_narrow_window() -> None:
    names = ("qwen2.5-0.5b-instruct-q4_0", "qwen2.5-0.5b-instruct-q8_0")
    models = tuple(ModelRow(name, "ready", (), 0, 24, 32768, 1, 2, 0, 0) for name in names)
    console = Console(file=io.StringIO(), width=80)
    for table in fleet_tables.tables(FleetRows((), (), (), (), models, (), 512)):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    rows = cells(console.file.getvalue())
    assert "".join(row[0] for row in rows if len(row) == 7).endswith("".join(names))


async def test_watching_on_a_terminal_goes_back_to_where_it_began(
    tmp_path: Path, router: FakeRouter
) -> None:
    text = await watched(tmp_path, is_terminal=True)
    assert text.count("\x1b[1A") > 20
    assert router.looks == 3


async def test_watching_into_a_file_has_no_control_codes(
    tmp_path: Path, router: FakeRouter
) -> None:
    text = await watched(tmp_path, is_terminal=False)
    assert "\x1b" not in text
    assert text.count("Queue: 10 of 512") == 3


async def test_plan_names_the_chosen_way_and_why_others_lost(
    tmp_path: Path, router: FakeRouter
) -> None:
    code, out, err = await shoal(
        tmp_path, "plan", "heavyweight", "--prompt-tokens", "900", "--privacy", "local"
    )
    assert (code, err) == (0, "")
    assert out.startswith("heavyweight would go to a@0:3 > b@3:6, 12.3 ms a token (gold tier)")
    rows = cells(out)
    assert ["*", "a@0:3", "12.3 ms", "46.8", "0", "9.92 s", "costs least"] in rows
    assert ["", "slow@0:6", "12.3 ms", "46.8", "0", "9.92 s", "costs 3.00 times the chosen"] in rows
    assert ["", "best single machine", "a@0:6", "-", "-", "too small"] in rows
    assert all(line[-1] in "┓┩│┘" for line in out.splitlines() if line[0] in "┏┡│└")
    assert max(map(len, out.splitlines())) <= 80
    (opening,) = router.openings
    assert (opening.prompt_token_count, opening.privacy) == (900, 1)
    assert opening.driver_host_id == host_id()


async def test_plan_as_json(tmp_path: Path, router: FakeRouter) -> None:
    code, out, _ = await shoal(tmp_path, "plan", "heavyweight", "--json")
    told = json.loads(out)
    assert code == 0
    assert [c["is_chosen"] for c in told["candidates"]] == [True, False]
    assert told["placements"][0]["ranges"] == ["a@0:6"]


def test_a_plan_that_waits_says_what_for() -> None:
    console = Console(file=io.StringIO(), width=80)
    waiting = pb.ExplainPlanResponse(tier=pb.TIER_SILVER, waiting_count=3)
    for each in plan.rendered("m", waiting):
        console.print(each)
    waiting.candidates.add(pipeline=pipeline(*STAGES), reason="full")
    for each in plan.rendered("m", waiting):
        console.print(each)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "m would be loaded first" in text
    assert "m would wait for a slot (silver tier; 3 wait already)" in text


async def test_a_model_without_a_plan_fails_with_the_routers_words(
    tmp_path: Path, router: FakeRouter
) -> None:
    router.problem = "no ready worker holds layers 3:6 of 'heavyweight'"
    code, out, err = await shoal(tmp_path, "plan", "heavyweight")
    assert code == 1
    assert out.startswith("heavyweight has no plan now")
    assert err.startswith(
        "error: a request for 'heavyweight' would be refused now: no ready worker"
    )


@pytest.mark.parametrize(
    ("argv", "status", "says"),
    [
        (["other"], 1, "error: model 'other' does not exist; known: heavyweight"),
        (["heavyweight", "--privacy", "secret"], 2, "Usage: "),
    ],
)
async def test_plan_asked_wrongly(
    tmp_path: Path, router: FakeRouter, argv: list[str], status: int, says: str
) -> None:
    code, _, err = await shoal(tmp_path, "plan", *argv)
    assert (code, err[: len(says)]) == (status, says)


async def test_plan_without_a_fleet(tmp_path: Path) -> None:
    code, _, err = await shoal(tmp_path, "plan", "heavyweight")
    assert (code, err.startswith("error: no fleet is running on")) == (1, True)
