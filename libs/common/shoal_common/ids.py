"""Names of the things that travel: typed strings, and how new ones are made."""

from __future__ import annotations

import secrets
from typing import NewType

NodeId = NewType("NodeId", str)
RequestId = NewType("RequestId", str)
Incarnation = NewType("Incarnation", str)
PipelineId = NewType("PipelineId", str)
SequenceId = NewType("SequenceId", int)


def new_node_id() -> NodeId:
    """A name for a machine that has none yet; keep it on disk."""
    return NodeId(f"node-{secrets.token_hex(6)}")


def new_request_id() -> RequestId:
    return RequestId(f"req-{secrets.token_hex(12)}")


def new_incarnation() -> Incarnation:
    """One per process, so that a restarted node is not taken for the one that held the KV."""
    return Incarnation(secrets.token_hex(8))


def new_sequence_id() -> SequenceId:
    """64 random bits, never 0: 0 is protobuf's absent value."""
    return SequenceId(secrets.randbits(64) | 1)
