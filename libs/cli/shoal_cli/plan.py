"""`shoal plan`: what a request for a model would get now, and why other ways lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from shoal.common.v1 import chat_pb2
from shoal.router.v1 import router_pb2
from shoal_cli.fleet_rows import stage_names, tier_name
from shoal_cli.fleet_tables import duration, rate

_TEXTS = ("way", "stages", "layers")
PRIVACY = {
    "": chat_pb2.PRIVACY_LABEL_UNSPECIFIED,
    "local": chat_pb2.PRIVACY_LABEL_LOCAL,
    "pool": chat_pb2.PRIVACY_LABEL_POOL,
    "lan": chat_pb2.PRIVACY_LABEL_LAN,
    "public": chat_pb2.PRIVACY_LABEL_PUBLIC,
}


@dataclass(frozen=True)
class Asked:
    """The request that is imagined. host_id: of the machine whose gateway would send it."""

    model: str
    prompt_token_count: int = 0
    max_tokens: int = 0
    privacy: str = ""
    wants_boomerang: bool = False
    tenant: str = ""
    host_id: str = ""

    def opening(self) -> router_pb2.PlanOpen:
        return router_pb2.PlanOpen(
            request_id="shoal-plan",
            model=self.model,
            prompt_token_count=self.prompt_token_count,
            max_tokens=self.max_tokens,
            privacy=PRIVACY[self.privacy],
            wants_boomerang=self.wants_boomerang,
            tenant=self.tenant,
            driver_host_id=self.host_id,
        )


def as_json(model: str, told: router_pb2.ExplainPlanResponse) -> dict[str, Any]:
    """All of it, under names that stay."""
    return {
        "model": model,
        "problem": told.problem,
        "tier": tier_name(told.tier),
        "waiting_count": told.waiting_count,
        "candidates": [
            {
                "pipeline_id": each.pipeline.pipeline_id,
                "stages": list(stage_names(each.pipeline)),
                "predicted_step_us": each.predicted_step_us,
                "tokens_per_s": each.tokens_per_s,
                "share": each.weight,
                "in_flight_count": each.in_flight_count,
                "held_token_count": each.held_token_count,
                "cost_us": each.cost_us,
                "is_chosen": each.is_chosen,
                "reason": each.reason,
            }
            for each in told.candidates
        ],
        "placements": [
            {
                "name": each.name,
                "ranges": _ranges(each),
                "tokens_per_s": each.tokens_per_s,
                "step_us": each.step_us,
                "is_chosen": each.is_chosen,
                "reason": each.reason,
            }
            for each in told.placements
        ],
    }


def rendered(model: str, told: router_pb2.ExplainPlanResponse) -> Iterator[RenderableType]:
    """A sentence that says what would happen, then every way that was considered."""
    yield Text(_verdict(model, told))
    if told.candidates:
        yield _candidate_table(told)
    if told.placements:
        yield _placement_table(told)


def _verdict(model: str, told: router_pb2.ExplainPlanResponse) -> str:
    chosen = next((each for each in told.candidates if each.is_chosen), None)
    queue = f"; {told.waiting_count} wait already" if told.waiting_count else ""
    if chosen is not None:
        stages = " > ".join(stage_names(chosen.pipeline))
        step = duration(chosen.predicted_step_us)
        return f"{model} would go to {stages}, {step} a token ({tier_name(told.tier)} tier{queue})"
    if told.candidates and not told.problem:
        return f"{model} would wait for a slot ({tier_name(told.tier)} tier{queue})"
    if not told.problem:
        return f"{model} would be loaded first; a request would wait for it"
    return f"{model} has no plan now"


def _candidate_table(told: router_pb2.ExplainPlanResponse) -> Table:
    table = _table("", "stages", "step", "tok/s", "load", "cost", title="Pipelines")
    table.caption = "cost: how long the reply would take, less what held prefixes save"
    # Where nothing is held the column would only take room from the reasons.
    shows_held = any(each.held_token_count for each in told.candidates)
    if shows_held:
        table.add_column("held", no_wrap=True)
    table.add_column("why")
    for each in told.candidates:
        table.add_row(
            _mark(each.is_chosen),
            escape("\n".join(stage_names(each.pipeline))),
            duration(each.predicted_step_us),
            rate(each.tokens_per_s),
            str(each.in_flight_count),
            duration(each.cost_us),
            *([str(each.held_token_count)] if shows_held else []),
            escape(each.reason),
        )
    return table


def _placement_table(told: router_pb2.ExplainPlanResponse) -> Table:
    table = _table(
        "", "way", "layers", "step", "tok/s", title="Placements: where the layers could live"
    )
    table.add_column("why")
    for each in told.placements:
        table.add_row(
            _mark(each.is_chosen),
            escape(each.name),
            escape("\n".join(_ranges(each))),
            duration(each.step_us),
            rate(each.tokens_per_s),
            escape(each.reason),
        )
    return table


def _table(*names: str, title: str) -> Table:
    """Where room is short texts are wrapped, and numbers stay whole."""
    table = Table(title=title)
    for name in names:
        table.add_column(name, no_wrap=name not in _TEXTS)
    return table


def _ranges(candidate: router_pb2.PlacementCandidate) -> list[str]:
    return [
        f"{each.node_id}@{each.layers.layer_start}:{each.layers.layer_stop}"
        for each in candidate.ranges
    ]


def _mark(is_chosen: bool) -> str:
    return "[green]*[/]" if is_chosen else ""
