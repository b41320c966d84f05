from __future__ import annotations

from collections.abc import Sequence

import pytest

from shoal.common.v1 import chat_pb2
from shoal.router.v1 import router_pb2
from shoal_common.prefix import PrefixKeys, prefix_root
from shoal_common.tokens import ModelTokens
from shoal_gateway.opening import PREFIX_BLOCKS_MAX, plan_open
from shoal_gateway.prompt import Prepared
from shoal_gateway.shape import PLAIN
from shoal_gateway.task import ChatTask


def prepared(
    tokens: ModelTokens,
    prompt_ids: Sequence[int],
    *,
    kv_format: str = "f32",
    block_size_tokens: int = 16,
    shares_prefixes: bool = False,
) -> Prepared:
    return Prepared(
        request_id="req",
        task=ChatTask("heavyweight", (), tenant="one", session_id="talk", adapter_id="style"),
        model="heavyweight",
        revision="r1",
        tokens=tokens,
        reading=PLAIN,
        prompt_ids=tuple(prompt_ids),
        sampling=chat_pb2.SamplingSpec(),
        grammar=None,
        max_tokens=32,
        state=router_pb2.ModelState(
            kv_format=kv_format,
            block_size_tokens=block_size_tokens,
            shares_prefixes=shares_prefixes,
        ),
    )


@pytest.mark.parametrize(("shares", "tenant"), [(False, "one"), (True, "")])
def test_keys_are_those_a_head_computes(
    demo_tokens: ModelTokens, shares: bool, tenant: str
) -> None:
    ids = list(range(40))
    opening = plan_open(prepared(demo_tokens, ids, shares_prefixes=shares), "here", 60.0)
    root = prefix_root("r1", "f32", "style", tenant)
    assert list(opening.prefix_block_hashes) == PrefixKeys(root, 16).of(ids)
    assert len(opening.prefix_block_hashes) == 2


def test_who_asks_is_told(demo_tokens: ModelTokens) -> None:
    opening = plan_open(prepared(demo_tokens, range(3)), "here", 1.5)
    assert (opening.tenant, opening.session_id, opening.adapter_id) == ("one", "talk", "style")
    assert (opening.driver_host_id, opening.remaining_ms) == ("here", 1500)
    assert (opening.prompt_token_count, opening.max_tokens) == (3, 32)
    assert opening.privacy == chat_pb2.PRIVACY_LABEL_PUBLIC


def test_a_fleet_without_prefixes_gets_no_keys(demo_tokens: ModelTokens) -> None:
    for request in (
        prepared(demo_tokens, range(64), kv_format=""),
        prepared(demo_tokens, range(64), block_size_tokens=0),
    ):
        assert not plan_open(request, "here", 1.0).prefix_block_hashes


def test_no_more_keys_are_sent_than_help(demo_tokens: ModelTokens) -> None:
    request = prepared(demo_tokens, [1] * (PREFIX_BLOCKS_MAX + 9), block_size_tokens=1)
    assert len(plan_open(request, "here", 1.0).prefix_block_hashes) == PREFIX_BLOCKS_MAX
