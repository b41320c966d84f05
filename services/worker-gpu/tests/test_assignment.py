"""What people write to say what a worker holds."""

from __future__ import annotations

import pytest

from shoal_common.errors import InvalidRequest
from shoal_worker_gpu.assignment import Assignment, parse_assignments


def test_ranges_and_whole_models_are_read() -> None:
    assert parse_assignments("heavyweight@0:3, drafter,other@4:") == (
        Assignment("heavyweight", 0, 3),
        Assignment("drafter"),
        Assignment("other", 4, 0),
    )


def test_the_same_assignment_twice_is_one() -> None:
    assert parse_assignments("a@0:3,a@0:3") == (Assignment("a", 0, 3),)


@pytest.mark.parametrize("text", ["a@3:3", "a@5:2", "a@x:y", "a@1", "@0:3"])
def test_a_bad_assignment_is_named(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is not an assignment"):
        parse_assignments(text)


@pytest.mark.parametrize("text", ["heavyweight@0:3", "drafter", "other@4:"])
def test_text_form_reads_back(text: str) -> None:
    (assignment,) = parse_assignments(text)
    assert str(assignment) == text
