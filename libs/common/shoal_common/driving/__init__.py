"""Driving a generation: a plan held open at the router, and the head that answers.

A driver holds one plan stream for the life of a generation and sends the prompt to its head;
gateway and entropy-drafter are drivers. Owns the calls, their errors, the silence that ends them,
and the proof that a prompt may go where the plan says. Does not know text, nor what to do when a
stage is lost.
"""

from shoal_common.driving.asking import asking
from shoal_common.driving.errors import PeerRefused, PeerUnreachable, PrivacyUnproven, StageSilent
from shoal_common.driving.privacy import OPEN, Label, Privacy, check_proof
from shoal_common.driving.router import GrpcRouter, PlanStream, Router
from shoal_common.driving.silence import Silence
from shoal_common.driving.stages import GrpcStages, Stages

__all__ = [
    "OPEN",
    "GrpcRouter",
    "GrpcStages",
    "Label",
    "PeerRefused",
    "PeerUnreachable",
    "PlanStream",
    "Privacy",
    "PrivacyUnproven",
    "Router",
    "Silence",
    "StageSilent",
    "Stages",
    "asking",
    "check_proof",
]
