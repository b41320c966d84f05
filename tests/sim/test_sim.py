"""A few seeds of the simulation; `make sim SEEDS=500` runs more.

They run in a process of their own: the order of sets must not depend on who started the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.checks import Breaches, check_request
from tests.sim.clients import Seen
from tests.sim.scenario import Kind, scenario_of

ROOT = Path(__file__).resolve().parents[2]
SEED_COUNT = 8


def simulated(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.sim", "--jobs", "1", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(300)
def test_what_must_hold_holds_under_a_few_seeds() -> None:
    ran = simulated("--seeds", str(SEED_COUNT))
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.timeout(300)
def test_one_seed_has_one_history() -> None:
    """Alone, or after another in the same process."""
    alone = simulated("--seed", "1").stdout.splitlines()[-1]
    assert "turns" in alone
    assert alone in simulated("--seeds", "2", "--tell").stdout.splitlines()


def test_a_seed_means_one_scenario() -> None:
    assert scenario_of(7) == scenario_of(7)
    assert scenario_of(7) != scenario_of(8)
    assert {scenario_of(seed).kind for seed in range(30)} == set(Kind)


def seen(ids: tuple[int, ...] | None = None, *ends: str) -> Seen:
    """What the client of a calm seed's first request saw; without ids the right ones."""
    request = scenario_of(1, Kind.CALM).requests[0]
    found = Seen(request, ends=list(ends))
    found.ids = list(found.said if ids is None else ids)
    return found


def breaches_of(found: Seen) -> list[str]:
    breaches = Breaches()
    check_request(found, scenario_of(1, Kind.CALM), breaches)
    return breaches.found


def test_a_right_reply_breaks_nothing() -> None:
    assert breaches_of(seen()) == []


def test_wrong_doubled_and_missing_tokens_are_noticed() -> None:
    right = seen().said
    for wrong in ((*right[:-1], 0), (right[0], *right), right[1:], (*right, 12)):
        (breach,) = breaches_of(seen(wrong))
        assert "is wrong" in breach


def test_a_second_end_is_noticed() -> None:
    assert "ended 2 times" in breaches_of(seen(None, "finished length", "left"))[0]
