from __future__ import annotations

import logging

import pytest

from shoal_common.testing import FakeClock
from shoal_entropy_drafter.cache.outage import FAILURES_MAX, RETRY_AFTER_S, Outage


def broken(clock: FakeClock) -> Outage:
    outage = Outage("redis", clock)
    for _ in range(FAILURES_MAX):
        outage.failed("refused")
    return outage


def test_a_store_that_keeps_failing_is_left_alone() -> None:
    outage = Outage("redis", FakeClock())
    for _ in range(FAILURES_MAX):
        assert outage.may_ask()
        assert not outage.is_on
        outage.failed("refused")
    assert outage.is_on
    assert not outage.may_ask()


def test_failures_in_between_answers_are_no_outage() -> None:
    outage = Outage("redis", FakeClock())
    for _ in range(5 * FAILURES_MAX):
        outage.failed("refused")
        outage.answered()
    assert outage.may_ask()


def test_one_call_in_a_while_tries_it_again() -> None:
    clock = FakeClock()
    outage = broken(clock)
    for _ in range(3):
        clock.jump(RETRY_AFTER_S - 0.001)
        assert not outage.may_ask()
        clock.jump(0.001)
        assert [outage.may_ask() for _ in range(3)] == [True, False, False]
        outage.failed("refused")
    clock.jump(RETRY_AFTER_S)
    assert outage.may_ask()
    outage.answered()
    assert [outage.may_ask() for _ in range(3)] == [True, True, True]


def test_an_outage_is_told_once_at_its_beginning_and_once_at_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock = FakeClock()
    outage = broken(clock)
    for _ in range(20):
        clock.jump(RETRY_AFTER_S)
        outage.may_ask()
        outage.failed("refused")
    outage.answered()
    outage.answered()
    assert [(r.levelname, r.message) for r in caplog.records] == [
        ("WARNING", "cache store is away, requests go on without it"),
        ("INFO", "cache store is back"),
    ]
