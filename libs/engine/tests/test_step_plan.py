"""Plans address the right slots, keys and masks."""

import pytest
import torch

from shoal_engine.blocks import TILE_TOKENS, SequenceKv
from shoal_engine.step_plan import AttentionForm, KeySpan, plan_step

FORM = AttentionForm(1, False, True, torch.float32, torch.device("cpu"))
GROUPED = AttentionForm(2, True, False, torch.float32, torch.device("cpu"))


def span_of(
    blocks: list[int], position: int, count: int, window: int | None, form: AttentionForm = FORM
) -> KeySpan:
    kv = SequenceKv(blocks, position, 4)
    return plan_step([(kv, position, count)], count, form).rows[0].key_span(window)


def test_slots_follow_the_blocks_of_every_row() -> None:
    rows = [
        (SequenceKv([5, 2, 9], 0, 4), 2, 7),
        (SequenceKv([1], 3, 4), 3, 1),
    ]
    plan = plan_step(rows, 10, FORM)
    assert plan.slots.tolist() == [22, 23, 8, 9, 10, 11, 36, 7]
    assert plan.position_ids.tolist() == [2, 3, 4, 5, 6, 7, 8, 3, 0, 0]
    assert plan.token_count == 8
    assert [(row.token_start, row.token_stop) for row in plan.rows] == [(0, 7), (7, 8)]


def test_consecutive_blocks_are_viewed_and_others_gathered() -> None:
    (viewed,) = span_of([3, 4, 5], 9, 1, None).pieces
    assert (viewed.first_slot, viewed.blocks) == (12, None)
    (gathered,) = span_of([3, 5, 4], 9, 1, None).pieces
    assert gathered.first_slot is None
    assert gathered.blocks is not None
    assert gathered.blocks.tolist() == [3, 5, 4]


def test_one_token_needs_no_mask_and_a_whole_prompt_is_causal() -> None:
    assert span_of([0, 1], 6, 1, None).mask is None
    whole = span_of([0, 1], 0, 6, None)
    assert whole.is_causal
    assert whole.mask is None
    assert not span_of([0, 1], 0, 6, None, GROUPED).is_causal


@pytest.mark.parametrize(("position", "count"), [(0, 6), (5, 3), (9, 1), (6, 6)])
@pytest.mark.parametrize("window", [None, 1, 4, 7, 100])
def test_spans_and_masks_show_exactly_what_a_token_may_see(
    position: int, count: int, window: int | None
) -> None:
    span = span_of([7, 1, 3], position, count, window, GROUPED)
    for group in range(2):
        for index in range(count):
            here = position + index
            expected = {key for key in range(here + 1) if window is None or key > here - window}
            start = position + count - sum(piece.count for piece in span.pieces)
            seen = set(range(start, position + count))
            if span.mask is not None:
                row = span.mask[group * count + index]
                seen = {start + key for key in range(row.shape[0]) if row[key] == 0}
            assert seen == expected


def test_windows_that_hide_nothing_share_a_span() -> None:
    row = plan_step([(SequenceKv([0, 1], 3, 4), 3, 2)], 2, FORM).rows[0]
    assert row.key_span(None) is row.key_span(5)
    assert row.key_span(4) is not row.key_span(None)


def test_a_single_token_reads_tiles_whose_cuts_depend_on_its_position_alone() -> None:
    blocks = [*range(128, 256), *range(128), *range(300, 310)]
    pieces = span_of(blocks, 2 * TILE_TOKENS + 3, 1, None).pieces
    assert [piece.count for piece in pieces] == [TILE_TOKENS, TILE_TOKENS, 4]
    assert [piece.first_slot for piece in pieces] == [512, 0, 1200]
    windowed = span_of(blocks, 2 * TILE_TOKENS + 3, 1, 10).pieces
    assert [piece.count for piece in windowed] == [6, 4]
    assert len(span_of(blocks, 2 * TILE_TOKENS, 2, None).pieces) == 1
    assert len(span_of(blocks, 2 * TILE_TOKENS, 1, None, GROUPED).pieces) == 1
