"""Owns: the lines about single requests that docs/troubleshooting.md tells to look for.

Each has a `diag` field, which says what it is about. Does not know: why anything was decided.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from shoal_common.errors import ShoalError
from shoal_router.request import Request
from shoal_router.ticket import Ticket

log = logging.getLogger(__name__)


def plan_given(ticket: Ticket, candidate_count: int, waited_s: float) -> None:
    """candidate_count: pipelines that had room and could have taken it."""
    if not log.isEnabledFor(logging.DEBUG) or ticket.pipeline is None:
        return
    stages = ticket.pipeline.stages
    fields = {
        "attempt": ticket.attempt,
        "pipeline_id": ticket.pipeline.pipeline_id,
        "stages": [f"{s.node_id}@{s.layer_start}:{s.layer_stop}" for s in stages],
        "candidates": candidate_count,
        "held_tokens": ticket.choice.candidate.held_token_count if ticket.choice else 0,
        "waited_ms": round(waited_s * 1000),
    }
    log.debug("plan given", extra=_about(ticket) | fields)


def queued(ticket: Ticket) -> None:
    """It waits; told once, where it came in."""
    expected_ms = None if ticket.expected_wait_s is None else round(ticket.expected_wait_s * 1000)
    fields = {"diag": "queue", "position": ticket.position, "expected_wait_ms": expected_ms}
    log.debug("request queued", extra=_about(ticket) | fields)


@contextmanager
def refusals_told(request: Request) -> Iterator[None]:
    """Whatever a plan stream fails with is told before it is raised again."""
    try:
        yield
    except ShoalError as err:
        fields = {"reason": err.reason, "detail": str(err)}
        about = {"diag": "plan", "request_id": request.request_id, "model": request.model}
        log.info("plan refused", extra=about | fields)
        raise


def _about(ticket: Ticket) -> dict[str, object]:
    return {
        "diag": "plan",
        "request_id": ticket.request_id,
        "model": ticket.model,
        "tier": ticket.standing.tier.name.lower(),
    }
