"""Frames that cannot be right end the sequences they name, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shoal.worker.v1 import stage_pb2, stage_pb2_grpc
from shoal_common.rpc import RpcChannel
from shoal_worker_gpu.rpc import frame_problem
from shoal_worker_gpu.testing import HashBackend, expected_tokens

from .conftest import LAYER_COUNT, Node, Pipeline

Make = Callable[..., Awaitable[Pipeline[HashBackend]]]
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
CUT = 3
KEY = stage_pb2.SequenceKey(sequence=77, attempt=1)
BLOCKS = 2  # of 4 positions


def frame(*rows: tuple[int, int], **changes: Any) -> stage_pb2.Frame:
    """A frame of rows (position, count) of KEY that is right but for `changes`."""
    found = stage_pb2.Frame(
        step_id=1,
        head_incarnation="rogue",
        rows=[
            stage_pb2.FrameRow(key=KEY, position=position, count=count, wants_token=True)
            for position, count in rows
        ],
        dtype=stage_pb2.TENSOR_DTYPE_F32,
        codec=stage_pb2.TENSOR_CODEC_RAW,
        width=1,
        payload=bytes(4 * sum(count for _, count in rows)),
    )
    for name, value in changes.items():
        setattr(found, name, value)
    return found


BAD_SHAPES = [
    pytest.param(frame((0, 2), width=2), "2 wide, the model 1", id="wrong width"),
    pytest.param(frame((0, 2), payload=bytes(7)), "7 bytes, its rows need 8", id="short payload"),
    pytest.param(frame((0, 2), payload=bytes(12)), "12 bytes, its rows need 8", id="long payload"),
    pytest.param(frame((0, 2), payload=b""), "0 bytes, its rows need 8", id="no payload"),
    pytest.param(frame((0, 2), dtype=stage_pb2.TENSOR_DTYPE_F16), "float32", id="wrong dtype"),
    pytest.param(frame((0, 2), dtype=0), "float32", id="no dtype"),
    pytest.param(
        frame((0, 2), codec=stage_pb2.TENSOR_CODEC_INT8_BLOCK32), "float32", id="wrong codec"
    ),
    pytest.param(frame((0, 2), (2, 0)), "no tokens", id="empty row"),
    pytest.param(frame((0, 1), (1, 1)), "one sequence", id="sequence twice"),
]
BAD_PLACES = [
    pytest.param(frame((3, 1)), id="position ahead"),
    pytest.param(frame((0, 4 * BLOCKS + 1)), id="beyond its blocks"),
]


def test_a_right_frame_has_no_problem() -> None:
    assert frame_problem(frame((0, 2)), width=1) is None


@pytest.mark.parametrize(("bad", "problem"), BAD_SHAPES)
def test_a_wrong_frame_is_told_what_is_wrong(bad: stage_pb2.Frame, problem: str) -> None:
    assert problem in (frame_problem(bad, width=1) or "")


class Rogue:
    """A head that speaks the protocol by hand."""

    def __init__(self, node: Node[HashBackend], channel: RpcChannel) -> None:
        hello = stage_pb2.LinkHello(
            node_id="rogue", incarnation="rogue", expected_incarnation=node.incarnation
        )
        self._call = stage_pb2_grpc.StageServiceStub(channel.channel).Link()
        self._hello = stage_pb2.LinkRequest(hello=hello)

    async def open(self) -> None:
        """A link on which KEY is attached."""
        attach = stage_pb2.Attach(
            key=KEY,
            head_incarnation="rogue",
            layer_start=CUT,
            layer_stop=LAYER_COUNT,
            blocks_wanted=BLOCKS,
            lease_ms=60_000,
            token_count=8,
        )
        await self._call.write(self._hello)
        await self.hear("ready")
        await self._call.write(stage_pb2.LinkRequest(attach=attach))
        assert (await self.hear("granted")).blocks_granted == BLOCKS

    async def send(self, frame: stage_pb2.Frame) -> None:
        await self._call.write(stage_pb2.LinkRequest(frame=frame))
        assert (await self.hear("ack")).step_id == frame.step_id

    async def hear(self, kind: str) -> Any:
        async with asyncio.timeout(20):
            response = await self._call.read()
        assert response.WhichOneof("message") == kind, response
        return getattr(response, kind)

    def close(self) -> None:
        self._call.cancel()


@asynccontextmanager
async def rogue_at(node: Node[HashBackend]) -> AsyncIterator[Rogue]:
    channel = RpcChannel(node.server.address)
    rogue = Rogue(node, channel)
    try:
        await rogue.open()
        yield rogue
    finally:
        rogue.close()
        await channel.close()


async def first_tokens(events: AsyncIterator[stage_pb2.GenerateResponse]) -> list[int]:
    async for event in events:
        if event.HasField("tokens"):
            return [token.token_id for token in event.tokens.tokens]
    raise AssertionError("no tokens")


async def check_neighbour_is_left_alone(
    pipeline: Pipeline[HashBackend], bad: stage_pb2.Frame, reason: str
) -> None:
    """Send a bad frame in the middle of another head's generation."""
    node = pipeline.nodes[1]
    events = pipeline.events(pipeline.request(PROMPT, 60))
    tokens = await first_tokens(events)
    async with rogue_at(node) as rogue:
        await rogue.send(bad)
        refused = await rogue.hear("refused")
        assert (refused.key, refused.reason) == (KEY, reason)
        assert refused.node_id == node.name
        await rogue.send(frame((0, 1), step_id=2))  # The link lives on.
    tokens += [token.token_id async for event in events for token in event.tokens.tokens]
    assert tokens == expected_tokens(PROMPT, 60)
    await pipeline.until_free()


@pytest.mark.parametrize(("bad", "_"), BAD_SHAPES)
async def test_a_malformed_frame_ends_only_its_own_sequence(
    make_pipeline: Make, bad: stage_pb2.Frame, _: str
) -> None:
    await check_neighbour_is_left_alone(await make_pipeline((CUT,)), bad, "INVALID_REQUEST")


@pytest.mark.parametrize("bad", BAD_PLACES)
async def test_a_misplaced_frame_ends_only_its_own_sequence(
    make_pipeline: Make, bad: stage_pb2.Frame
) -> None:
    await check_neighbour_is_left_alone(await make_pipeline((CUT,)), bad, "STALE_ATTEMPT")


async def test_a_link_that_ends_frees_what_came_in_on_it(make_pipeline: Make) -> None:
    pipeline = await make_pipeline((CUT,))
    async with rogue_at(pipeline.nodes[1]):
        assert pipeline.nodes[1].backend.blocks_free == 64 - BLOCKS
    await pipeline.until_free()


async def test_a_stage_refuses_layers_it_does_not_hold(make_pipeline: Make) -> None:
    pipeline = await make_pipeline((CUT,))
    async with rogue_at(pipeline.nodes[1]) as rogue:
        attach = stage_pb2.Attach(
            key=stage_pb2.SequenceKey(sequence=5, attempt=1), layer_start=1, layer_stop=CUT
        )
        await rogue._call.write(stage_pb2.LinkRequest(attach=attach))
        assert (await rogue.hear("refused")).reason == "WRONG_ENGINE"
    await pipeline.until_free()
