"""The calls beside Answer, and what is counted of them all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shoal.drafter.v1 import drafter_pb2 as pb
from shoal_common.errors import ShoalError
from shoal_common.rpc import to_shoal_error
from shoal_entropy_drafter.errors import EmbedderMissing, EmbeddingFailed
from shoal_entropy_drafter.peers import AbsentEmbedder

from .fleet_fakes import SURE, TORN, Fleet, request_of, running_fleet, side_page, task_of


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with running_fleet(tmp_path, metrics_enabled=True) as fleet:
        yield fleet


async def refusal(call: Any) -> ShoalError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return to_shoal_error(caught.value)


async def test_it_describes_what_it_drafts_and_embeds(fleet: Fleet) -> None:
    said = await fleet.stub.Describe(pb.DescribeRequest())
    assert (said.kind, said.model, said.timeout_ms) == (pb.DRAFTER_KIND_FLEET, "drafter", 30000)
    assert (said.threshold, said.window_size, said.early_exit_count) == (1.0, 4, 4)
    assert (said.candidate_count, said.statistic, said.estimate) == (20, "mean", "renormalised")
    assert said.soft_threshold_mult == pytest.approx(0.8)
    assert said.is_speculative
    assert (said.has_cache, said.keeps_heavyweight) == (False, False)
    assert (said.embedding_model, said.embedding_dimensions) == ("fake", 2)
    assert said.embeds_itself
    again = await fleet.stub.Describe(pb.DescribeRequest())
    assert said.incarnation == again.incarnation != ""


async def test_without_an_embedding_model_it_names_none_and_drafts(tmp_path: Path) -> None:
    absent = AbsentEmbedder("m", 2, EmbedderMissing("m", "is not installed"))
    async with running_fleet(tmp_path, absent) as fleet:
        said = await fleet.stub.Describe(pb.DescribeRequest())
        assert (said.embedding_model, said.embedding_dimensions) == ("", 0)
        error = await refusal(fleet.stub.Embed(pb.EmbedRequest(texts=["a"])))
        assert error.reason == "EMBEDDER_MISSING"
        assert "pip install" in str(error)
        fleet.stage.script = [SURE] * 5
        assert len(await fleet.answer(request_of())) == 8


async def test_one_that_only_embeds_says_so(tmp_path: Path) -> None:
    options = {"drafter_provider": "none", "redis_url": "redis://127.0.0.1:1/0"}
    async with running_fleet(tmp_path, **options) as fleet:
        said = await fleet.stub.Describe(pb.DescribeRequest())
        assert (said.kind, said.model, said.window_size) == (pb.DRAFTER_KIND_NONE, "", 0)
        assert not said.has_cache
        assert len((await fleet.stub.Embed(pb.EmbedRequest(texts=["a"]))).embeddings) == 1


async def test_cache_that_is_off_says_so_and_keeps_nothing(fleet: Fleet) -> None:
    assert await fleet.stub.GetCache(pb.GetCacheRequest()) == pb.GetCacheResponse()
    request = pb.RememberRequest(request_id="q1", task=task_of(), text="a", answered_by="drafter")
    assert not (await fleet.stub.Remember(request)).is_kept
    assert (await fleet.stub.Forget(pb.ForgetRequest())).forgotten_count == 0


async def test_cache_is_off_by_its_option_too(tmp_path: Path) -> None:
    options = {"redis_url": "redis://127.0.0.1:1/0", "cache_enabled": False}
    async with running_fleet(tmp_path, **options) as fleet:
        assert not (await fleet.stub.GetCache(pb.GetCacheRequest())).is_enabled
        assert not (await fleet.stub.Describe(pb.DescribeRequest())).has_cache


async def test_texts_become_vectors(fleet: Fleet) -> None:
    said = await fleet.stub.Embed(pb.EmbedRequest(texts=["a", "b" * 50]))
    assert (said.token_count, said.model) == (2, "fake")
    wanted = [[np.cos(0.01), np.sin(0.01)], [np.cos(0.5), np.sin(0.5)]]
    assert np.allclose([list(row.values) for row in said.embeddings], wanted)


async def test_no_texts_are_an_invalid_request(fleet: Fleet) -> None:
    assert (await refusal(fleet.stub.Embed(pb.EmbedRequest()))).reason == "INVALID_REQUEST"


async def test_errors_of_the_embedder_reach_the_caller(fleet: Fleet) -> None:
    fleet.embedder.refusal = EmbeddingFailed("fake", "it is away")
    error = await refusal(fleet.stub.Embed(pb.EmbedRequest(texts=["a"])))
    assert (error.reason, error.retryable) == ("EMBEDDING_FAILED", True)


def figures(page: str) -> dict[str, float]:
    """Samples of this service by name and labels in their order, those of buckets left out."""
    body = page.split("\r\n\r\n", 1)[1]
    return {
        " ".join([sample.name.removeprefix("shoal_entropy_drafter_"), *sample.labels.values()]): (
            sample.value
        )
        for family in text_string_to_metric_families(body)
        for sample in family.samples
        if sample.name.startswith("shoal_entropy_drafter_") and "le" not in sample.labels
    }


async def test_drafts_and_their_tokens_are_counted(fleet: Fleet) -> None:
    fleet.stage.script = [SURE] * 5
    await fleet.answer(request_of("q1"))
    fleet.stage.script = [SURE] * 4 + [TORN] * 4
    await fleet.answer(request_of("q2"))
    await fleet.stub.Embed(pb.EmbedRequest(texts=["a", "b"]))
    counted = figures(await fleet.metrics())
    wanted = {
        "drafts_total accepted ": 1,
        "drafts_total escalated window": 1,
        "drafted_tokens_total": 10,
        "wasted_tokens_total escalated": 5,
        "token_entropy_bits_count": 10,
        "verdicts_total  accept": 1,
        "verdicts_total window escalate": 1,
        "verdict_statistic_bits_count escalate": 1,
        "time_to_verdict_seconds_count accept": 1,
        "answers_in_flight": 0,
        "requests_total Answer OK": 2,
        "embeddings_total OK client": 1,
        "embedded_texts_total client": 2,
    }
    assert {name: counted.get(name) for name in wanted} == wanted
    assert counted["verdict_statistic_bits_sum escalate"] == pytest.approx(4.32 / 4, rel=0.01)


async def test_caller_that_has_its_answer_has_not_given_it_up(fleet: Fleet) -> None:
    fleet.stage.script = [SURE] * 5
    call = fleet.stub.Answer(request_of())
    while not (await call.read()).HasField("judgement"):
        pass
    call.cancel()
    assert figures(await fleet.metrics())["requests_total Answer OK"] == 1


async def test_nothing_is_counted_where_metrics_are_off(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, metrics_enabled=False) as fleet:
        fleet.stage.script = [SURE] * 5
        await fleet.answer(request_of())
        page = await fleet.metrics()
        assert page.startswith("HTTP/1.1 200")
        assert page.split("\r\n\r\n", 1)[1].strip() == ""


async def test_it_is_ready_once_it_serves(fleet: Fleet) -> None:
    page = await side_page(fleet.drafter.side_address, "/readyz")
    assert page.startswith("HTTP/1.1 200")
