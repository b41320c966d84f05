"""Round trips come from small messages, rates from large ones."""

from __future__ import annotations

import pytest

from shoal.worker.v1 import pipeline_pb2
from shoal_worker_gpu.link_times import LINKS_MAX, LinkTime, LinkTimes, nearest


def told(node_id: str, rtt_us: int, bytes_per_s: int = 0) -> pipeline_pb2.LinkTime:
    return pipeline_pb2.LinkTime(node_id=node_id, rtt_us=rtt_us, bytes_per_s=bytes_per_s)


def test_small_messages_tell_the_round_trip_and_large_ones_the_rate() -> None:
    link = LinkTime()
    for _ in range(3):
        link.observe(0.010, 4_000)
        link.observe(0.110, 1_000_000)
    assert link.rtt_s == pytest.approx(0.010)
    assert link.bytes_per_s == pytest.approx(1e7)
    assert link.one_way_us(100_000) == pytest.approx(15_000, abs=1)


def test_a_round_trip_seen_through_large_messages_only_is_corrected_at_once() -> None:
    link = LinkTime()
    link.observe(0.5, 1_000_000)
    link.observe(0.3, 1_000_000)
    assert (link.rtt_s, link.bytes_per_s) == (0.3, 0.0)
    link.observe(0.010, 100)
    assert link.rtt_s == 0.010


def test_one_late_receipt_moves_little() -> None:
    link = LinkTime()
    link.observe(0.010, 0)
    link.observe(10.0, 0)
    assert link.rtt_s == pytest.approx(0.012)


def test_nothing_is_said_of_links_that_were_not_measured_and_the_number_is_bounded() -> None:
    times = LinkTimes()
    times.of("silent")
    times.of("near").observe(0.002, 0)
    assert times.told() == [told("near", 2000)]
    for number in range(LINKS_MAX):
        times.of(f"w{number}").observe(0.001, 0)
    assert len(times.told()) == LINKS_MAX
    assert "near" not in {link.node_id for link in times.told()}


def test_a_link_that_is_dialled_again_goes_on_from_what_was_known() -> None:
    times = LinkTimes()
    times.of("a").observe(0.010, 0)
    assert times.of("a").rtt_s == 0.010


def test_of_what_several_engines_measured_the_best_counts_and_oneself_does_not() -> None:
    links = [told("a", 900, 5), told("me", 1), told("b", 70), told("a", 800, 4)]
    assert nearest(links, "me") == [told("a", 800, 5), told("b", 70)]
    assert len(nearest([told(f"w{n}", 1) for n in range(100)], "me")) == LINKS_MAX
