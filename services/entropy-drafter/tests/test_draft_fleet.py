"""Drafts of a fleet model: what is asked of router and head, and what makes a draft fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from shoal.common.v1 import chat_pb2
from shoal.drafter.v1 import drafter_pb2
from shoal.worker.v1 import pipeline_pb2
from shoal_common.errors import InvalidGrammar, PlanUnavailable, ShoalError
from shoal_common.host import host_id
from shoal_common.rpc import to_shoal_error

from .fleet_fakes import SURE, Fleet, request_of, running_fleet, task_of


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with running_fleet(tmp_path) as fleet:
        fleet.stage.script = [SURE] * 5
        yield fleet


async def last(fleet: Fleet, request: Any) -> tuple[str, str]:
    judgement = (await fleet.answer(request))[-1].judgement
    return drafter_pb2.Verdict.Name(judgement.verdict)[8:], judgement.reason


async def refusal(fleet: Fleet, request: Any) -> ShoalError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await fleet.answer(request)
    return to_shoal_error(caught.value)


ACCEPTED, FAILED = ("ACCEPT", ""), ("ESCALATE", "error")


async def test_the_head_is_asked_for_candidates_of_the_first_attempt(fleet: Fleet) -> None:
    assert await last(fleet, request_of()) == ACCEPTED
    asked = fleet.stage.requests[0]
    assert asked.pipeline == fleet.router.pipeline
    assert (asked.attempt, asked.request_id) == (1, "q1")
    assert list(asked.token_ids.ids) == [5, 6, 7]
    assert (asked.sampling.logprobs, asked.sampling.logprob_count) == (True, 20)
    assert fleet.router.opened[0].driver_host_id == host_id()
    assert fleet.router.opened[0].prompt_token_count == 3


async def test_a_caller_may_ask_for_more_candidates_than_the_gate_reads(fleet: Fleet) -> None:
    request = request_of()
    sampling = request.fleet_draft.generate.sampling
    sampling.logprobs, sampling.logprob_count = True, 25
    assert await last(fleet, request) == ACCEPTED
    assert fleet.stage.requests[0].sampling.logprob_count == 25


@pytest.mark.parametrize("wanted_count", [None, 0, 2])
async def test_tokens_show_the_candidates_that_were_asked_for(
    fleet: Fleet, wanted_count: int | None
) -> None:
    request = request_of()
    sampling = request.fleet_draft.generate.sampling
    sampling.logprobs = wanted_count is not None
    sampling.logprob_count = wanted_count or 0
    events = await fleet.answer(request)
    tokens = [token for event in events for token in event.draft.tokens]
    assert [token.HasField("logprob") for token in tokens] == [wanted_count is not None] * 5
    assert all(len(token.top) == (wanted_count or 0) for token in tokens)
    assert all(event.draft.entropy_bits[0] < 0.01 for event in events if event.HasField("draft"))


async def test_places_in_the_queue_are_waited_for(fleet: Fleet) -> None:
    fleet.router.queue = asyncio.Event()
    answering = asyncio.create_task(last(fleet, request_of()))
    await fleet.router.is_queued.wait()
    fleet.router.queue.set()
    assert await answering == ACCEPTED


async def test_no_plan_is_escalated(fleet: Fleet) -> None:
    fleet.router.refusal = PlanUnavailable("no worker holds layers 0 to 6")
    assert await last(fleet, request_of()) == FAILED


async def test_router_that_is_down_is_escalated(fleet: Fleet) -> None:
    await fleet.router_server.stop()
    assert await last(fleet, request_of()) == FAILED


async def test_head_that_is_down_is_escalated(fleet: Fleet) -> None:
    await fleet.stage_server.stop()
    assert await last(fleet, request_of()) == FAILED
    await fleet.router.is_closed.wait()


async def test_what_the_head_refuses_the_heavyweight_may_answer(fleet: Fleet) -> None:
    fleet.stage.refusal = InvalidGrammar("too complex")
    assert await last(fleet, request_of()) == FAILED


async def test_stream_that_ends_without_a_finish_is_no_draft(fleet: Fleet) -> None:
    fleet.stage.ends_mute = True
    assert await last(fleet, request_of()) == FAILED


async def test_head_that_speaks_text_is_no_use(fleet: Fleet) -> None:
    fleet.stage.speaks_text = True
    assert await last(fleet, request_of()) == FAILED


async def test_gap_in_the_positions_is_a_failure(fleet: Fleet) -> None:
    fleet.stage.first_position = 1
    assert await last(fleet, request_of()) == FAILED


async def test_ids_never_go_to_another_model(fleet: Fleet) -> None:
    fleet.router.pipeline.model = "other"
    assert await last(fleet, request_of()) == FAILED
    assert not fleet.stage.requests


async def test_ids_never_go_to_another_revision(fleet: Fleet) -> None:
    request = request_of()
    request.fleet_draft.generate.pipeline.model_revision = "r0"
    assert await last(fleet, request) == FAILED
    assert not fleet.stage.requests
    request.fleet_draft.generate.pipeline.model_revision = "r1"
    assert await last(fleet, request) == ACCEPTED


async def test_plan_without_stages_is_a_failure(fleet: Fleet) -> None:
    del fleet.router.pipeline.stages[:]
    assert await last(fleet, request_of()) == FAILED


def with_label(label: chat_pb2.PrivacyLabel, **plan: Any) -> Any:
    request = request_of()
    request.fleet_draft.plan.privacy = label
    for name, value in plan.items():
        setattr(request.fleet_draft.plan, name, value)
    return request


def proof_of(label: chat_pb2.PrivacyLabel, reach: pipeline_pb2.Reach, host: str) -> Any:
    stage = pipeline_pb2.StagePrivacy(node_id="node-a", reach=reach, host_id=host)
    return pipeline_pb2.PrivacyProof(label=label, stages=[stage])


async def test_prompt_stays_where_its_label_is_not_proven(fleet: Fleet) -> None:
    request = with_label(chat_pb2.PRIVACY_LABEL_POOL)
    assert await last(fleet, request) == FAILED
    proof = proof_of(chat_pb2.PRIVACY_LABEL_POOL, pipeline_pb2.REACH_PUBLIC, "")
    fleet.router.pipeline.privacy.CopyFrom(proof)
    assert await last(fleet, request) == FAILED
    assert not fleet.stage.requests


async def test_prompt_goes_where_its_label_is_proven(fleet: Fleet) -> None:
    proof = proof_of(chat_pb2.PRIVACY_LABEL_POOL, pipeline_pb2.REACH_POOL, "")
    fleet.router.pipeline.privacy.CopyFrom(proof)
    assert await last(fleet, with_label(chat_pb2.PRIVACY_LABEL_POOL)) == ACCEPTED


async def test_local_to_a_gateway_elsewhere_is_not_local_here(fleet: Fleet) -> None:
    proof = proof_of(chat_pb2.PRIVACY_LABEL_LOCAL, pipeline_pb2.REACH_POOL, host_id())
    fleet.router.pipeline.privacy.CopyFrom(proof)
    label = chat_pb2.PRIVACY_LABEL_LOCAL
    assert await last(fleet, with_label(label, driver_host_id="elsewhere")) == FAILED
    assert await last(fleet, with_label(label, driver_host_id=host_id())) == ACCEPTED


async def test_request_without_a_fleet_draft_is_invalid(fleet: Fleet) -> None:
    request = drafter_pb2.AnswerRequest(request_id="q1", task=task_of())
    error = await refusal(fleet, request)
    assert error.reason == "INVALID_REQUEST"
    assert "fleet_draft" in str(error)


@pytest.mark.parametrize("wrong", ["model", "prompt", "vocabulary"])
async def test_fleet_draft_that_cannot_be_run_is_invalid(fleet: Fleet, wrong: str) -> None:
    request = request_of()
    if wrong == "model":
        request.fleet_draft.plan.model = "heavyweight"
    elif wrong == "prompt":
        request.fleet_draft.generate.ClearField("token_ids")
    else:
        request.fleet_draft.vocabulary_size = 1
    assert (await refusal(fleet, request)).reason == "INVALID_REQUEST"
    assert not fleet.router.opened


async def test_nobody_drafts_where_there_is_no_drafter(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, drafter_provider="none") as fleet:
        error = await refusal(fleet, request_of())
        assert error.reason == "NOBODY_DRAFTS"
        assert "drafter_provider" in str(error)
