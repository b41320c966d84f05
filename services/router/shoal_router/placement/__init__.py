"""Owns: which machine holds which layers of a model, as a pure function of what machines offer.

`place` considers every kind of way and says what each would bring and why it lost or won. Does not
know: time, requests, the wire, and how a placement comes about (`rebalance`, `loading`).

shape      what a range takes: memory, and time in layers
machines   what machines offer and hold, and the ways between them
room       memory while a placement is being made
chains     one way over a gap of layers, dealt out by speed with memory as the cap
thicken    where those who are left over help most
regions    who may work together
predict    tokens per second and step time of a placement
one_way    a model that is wanted, with as little of the fleet as possible
spread     a model of which more is asked than it gives
"""

from shoal_router.placement.candidates import Candidate, Goal, Placements
from shoal_router.placement.drawing import gaps
from shoal_router.placement.machines import Fit, Held, Links, Machine, PlacedRange
from shoal_router.placement.predict import step_us, tokens_per_s
from shoal_router.placement.room import Room
from shoal_router.placement.search import place
from shoal_router.placement.shape import ModelShape

__all__ = [
    "Candidate",
    "Fit",
    "Goal",
    "Held",
    "Links",
    "Machine",
    "ModelShape",
    "PlacedRange",
    "Placements",
    "Room",
    "gaps",
    "place",
    "step_us",
    "tokens_per_s",
]
