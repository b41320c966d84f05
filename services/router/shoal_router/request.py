"""Owns: what a driver asks for when it opens a plan, free of the wire. Nothing in it changes."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.common.v1 import chat_pb2
from shoal_router.privacy import Demand


@dataclass(frozen=True, slots=True)
class Request:
    """One generation, as policy and admission see it; fields are those of `PlanOpen`."""

    request_id: str
    model: str
    tenant: str = ""
    prompt_token_count: int = 0
    max_tokens: int = 0
    session_id: str = ""
    privacy: chat_pb2.PrivacyLabel = chat_pb2.PRIVACY_LABEL_UNSPECIFIED
    prefix_block_hashes: tuple[bytes, ...] = ()
    driver_host_id: str = ""
    wants_boomerang: bool = False
    adapter_id: str = ""
    remaining_s: float | None = None
    """What was left of its time when it came; None for no limit."""

    @property
    def demand(self) -> Demand:
        """How far its prompt may travel."""
        return Demand(self.privacy, self.wants_boomerang, self.driver_host_id)
