"""What the router is told of a request when its plan is opened."""

from __future__ import annotations

from shoal.router.v1 import router_pb2
from shoal_common.prefix import PrefixKeys, prefix_root
from shoal_gateway.prompt import Prepared

# Blocks whose keys are sent: at 16 tokens a block the first 16 Ki tokens of a prompt, 16 KiB on the
# wire and some 2 ms of hashing. What follows decides little about where a prompt goes.
PREFIX_BLOCKS_MAX = 1024


def plan_open(prepared: Prepared, host_id: str, wait_s: float) -> router_pb2.PlanOpen:
    """host_id: of this machine. wait_s: how long the request waits for its first plan."""
    task = prepared.task
    return router_pb2.PlanOpen(
        request_id=prepared.request_id,
        model=prepared.model,
        prompt_token_count=len(prepared.prompt_ids),
        max_tokens=prepared.max_tokens,
        tenant=task.tenant,
        session_id=task.session_id,
        privacy=task.privacy.wire_label,
        prefix_block_hashes=prefix_keys(prepared),
        driver_host_id=host_id,
        wants_boomerang=task.privacy.is_boomerang,
        adapter_id=task.adapter_id,
        remaining_ms=round(wait_s * 1000),
    )


def prefix_keys(prepared: Prepared) -> list[bytes]:
    """Keys of the prompt's first blocks, as a head would compute them; none where it has none."""
    state = prepared.state
    if state is None or not state.kv_format or not state.block_size_tokens:
        return []
    tenant = "" if state.shares_prefixes else prepared.task.tenant
    root = prefix_root(prepared.revision, state.kv_format, prepared.task.adapter_id, tenant)
    size = state.block_size_tokens
    return PrefixKeys(root, size).of(prepared.prompt_ids[: PREFIX_BLOCKS_MAX * size])
