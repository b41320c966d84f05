from __future__ import annotations

import random

import pytest

from shoal.worker.v1 import pipeline_pb2 as pb
from shoal_router.beats import BYTES_MAX, parse_beat
from shoal_router.errors import MalformedBeat
from shoal_router.testing import beat, status, subject


def test_a_good_beat_comes_through_unchanged() -> None:
    sent = beat("a", status("a", "0:3"))
    assert parse_beat(subject("a"), sent.SerializeToString()) == sent


def test_an_engine_that_loads_may_not_know_its_range_yet() -> None:
    sent = beat("a", pb.EngineStatus(model="m", state=pb.ENGINE_STATE_FETCHING))
    assert parse_beat(subject("a"), sent.SerializeToString()) == sent


def _changed(**fields: object) -> pb.EngineStatus:
    changed = status("a")
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(beat(""), id="no node id"),
        pytest.param(beat("a", incarnation=""), id="no incarnation"),
        pytest.param(beat("b"), id="another node's subject"),
        pytest.param(beat("a", *[status("a")] * 65), id="too many engines"),
        pytest.param(beat("a", _changed(model="")), id="no model"),
        pytest.param(beat("a", _changed(model="m" * 257)), id="long model"),
        pytest.param(beat("a", _changed(layer_stop=7)), id="more layers than there are"),
        pytest.param(beat("a", _changed(layer_start=6)), id="empty range"),
        pytest.param(beat("a", _changed(layer_count=100_000)), id="huge model"),
        pytest.param(beat("a", _changed(revision="")), id="no revision"),
        pytest.param(beat("a", _changed(incarnation="")), id="no engine incarnation"),
        pytest.param(beat("a", _changed(locator="http://a")), id="strange locator"),
    ],
)
def test_a_beat_that_no_worker_sends_is_malformed(sent: pb.WorkerBeat) -> None:
    with pytest.raises(MalformedBeat):
        parse_beat(subject("a"), sent.SerializeToString())


def test_a_beat_over_the_size_limit_is_not_parsed() -> None:
    with pytest.raises(MalformedBeat, match="bytes"):
        parse_beat(subject("a"), b"\0" * (BYTES_MAX + 1))


def test_noise_is_malformed_or_parsed_but_never_another_error() -> None:
    noise = random.Random(7)
    refused = 0
    for _ in range(500):
        try:
            parse_beat(subject("a"), noise.randbytes(noise.randint(0, 60)))
        except MalformedBeat:
            refused += 1
    assert refused == 500
