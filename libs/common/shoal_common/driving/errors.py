"""What can go wrong for whoever drives a generation, besides shoal_common's tree.

Unavailable
├── PeerRefused        another service does not take our fleet token
├── PeerUnreachable    another service's connection broke, or was never there
└── StageSilent        nothing came from the head for too long
ShoalError
└── PrivacyUnproven    a plan that does not show that the prompt stays where it was asked to
"""

from __future__ import annotations

import grpc

from shoal_common.errors import ShoalError, Unavailable


class PeerRefused(Unavailable):
    """The fleet's services do not share one token: its operator must act, not the client."""

    reason = "PEER_REFUSED"
    retryable = False

    def __init__(self, peer: str) -> None:
        super().__init__(f"{peer} refused the caller's fleet token; tell the fleet's operator")


class PeerUnreachable(Unavailable):
    """No connection to another service."""

    reason = "PEER_UNREACHABLE"

    def __init__(self, peer: str) -> None:
        super().__init__(f"{peer} cannot be reached now; try again")


class StageSilent(Unavailable):
    """No delta within the idle limit."""

    reason = "STAGE_SILENT"
    grpc_code = grpc.StatusCode.DEADLINE_EXCEEDED
    http_status = 504

    def __init__(self, idle_timeout_s: float) -> None:
        super().__init__(f"the workers sent nothing for {idle_timeout_s:g} s; try again")


class PrivacyUnproven(ShoalError):
    """The router's plan is not believed; no prompt was sent."""

    reason = "PRIVACY_UNPROVEN"
    grpc_code = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 502

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"the plan does not prove the privacy asked for: {problem}; the prompt was not sent"
        )
