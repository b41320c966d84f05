"""What shard-stores say is checked, and believed as long as they go on to say it."""

from __future__ import annotations

import pytest

from shoal_common.testing import FakeClock
from shoal_router.announcements import Announcements, parse_announcement
from shoal_router.errors import MalformedAnnouncement
from shoal_router.testing import MODEL, announcement


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"\xff no protobuf", "not a ModelAnnouncement"),
        (b"\0" * 5000, "5000 bytes"),
        (announcement(store_id="").SerializeToString(), "lacks a store"),
        (announcement("m" * 257).SerializeToString(), "one too long"),
        (announcement(revision="").SerializeToString(), "lacks a store, model or revision"),
        (announcement(layer_count=0).SerializeToString(), "0 layers"),
    ],
)
def test_what_no_store_would_send_is_refused(payload: bytes, problem: str) -> None:
    with pytest.raises(MalformedAnnouncement, match=problem):
        parse_announcement(payload)


def test_a_model_is_forgotten_when_its_store_falls_silent() -> None:
    clock = FakeClock()
    heard = Announcements(clock, timeout_s=7)
    assert heard.hear(announcement())
    clock.jump(5)
    assert not heard.hear(announcement())
    clock.jump(6.9)
    assert heard.models() == (MODEL,)
    clock.jump(0.2)
    assert (heard.models(), heard.get(MODEL)) == ((), None)


def test_two_stores_do_not_take_turns() -> None:
    clock = FakeClock()
    heard = Announcements(clock, timeout_s=7)
    heard.hear(announcement())
    assert not heard.hear(announcement(store_id="other", revision="r2"))
    found = heard.get(MODEL)
    assert found is not None
    assert found.revision == "r1"
    assert heard.hear(announcement(revision="r3"))
    clock.jump(8)
    assert heard.hear(announcement(store_id="other", revision="r2"))


def test_beyond_their_bound_models_are_not_taken_in() -> None:
    heard = Announcements(FakeClock(), timeout_s=7, model_count_max=1)
    assert heard.hear(announcement())
    assert not heard.hear(announcement("one-too-many"))
    assert heard.models() == (MODEL,)
