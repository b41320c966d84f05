"""Who drafts and who takes over in the fleet that `shoal up` starts: pure, from options and from
what the person has set already.

Whatever an option of the command does not say is left to the environment and the config file.
Starts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

DEFAULT_NAME = "cascade"
NOBODY = "none"

Said = Callable[[str, str], str | None]
"""What is set for an option of a service, both by name; None where nothing is."""


@dataclass(frozen=True)
class CascadePlan:
    """name: the model to ask for; "" where there is no cascade. drafter: the model of the fleet
    that drafts; "" for an upstream. The settings are without their prefix, and hold only what the
    services are to be told beyond what is set."""

    name: str = ""
    drafter: str = ""
    heavyweight: str = ""
    drafter_settings: Mapping[str, str] = field(default_factory=dict)
    gateway_settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """The cascade in words; "" where there is none."""
        if not self.name:
            return ""
        drafter = self.drafter or "the upstream drafter"
        return f"{self.name}: {drafter} answers what it is sure of, {self.heavyweight} the rest"


def plan_cascade(drafter: str, first: str, said: Said) -> CascadePlan:
    """Without a drafter of this fleet's or of the person's own the service only embeds.

    drafter: a model of the fleet, or "". first: the model that takes over unless another is named.
    """
    provider = said("entropy_drafter", "drafter_provider")
    drafter_settings: dict[str, str] = {}
    if drafter:
        drafter_settings = {"DRAFTER_PROVIDER": "fleet", "DRAFTER_MODEL": drafter}
    elif provider is None:
        drafter_settings = {"DRAFTER_PROVIDER": NOBODY}
    name = said("gateway", "cascade_model")
    if not drafter and provider in (None, NOBODY):
        # Its name would stand for the heavyweight alone.
        nameless = {"CASCADE_MODEL": ""} if name is None else {}
        return CascadePlan(drafter_settings=drafter_settings, gateway_settings=nameless)
    heavyweight = said("gateway", "heavyweight_model")
    gateway_settings: dict[str, str] = {}
    if heavyweight is None:
        heavyweight = gateway_settings["HEAVYWEIGHT_MODEL"] = first
    # Of two models of the fleet the first that is ready would answer who names none.
    if drafter and said("gateway", "default_model") is None:
        gateway_settings["DEFAULT_MODEL"] = first
    return CascadePlan(
        name=DEFAULT_NAME if name is None else name,
        drafter=drafter,
        heavyweight=heavyweight,
        drafter_settings=drafter_settings,
        gateway_settings=gateway_settings,
    )
