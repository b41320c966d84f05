"""Owns: what a tenant's standing is worth: how many slots, how many places, and who goes first.

Does not know: how a tenant came by its standing. That is behind `Tiers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from typing import Protocol


class Tier(IntEnum):
    """Numbered as on the wire; more is better."""

    BRONZE = 1
    SILVER = 2
    GOLD = 3
    PLATINUM = 4

    @property
    def share(self) -> Fraction:
        """Of the slots there are for one tenant."""
        return _SHARES[self]


_SHARES = {
    Tier.BRONZE: Fraction(1, 4),
    Tier.SILVER: Fraction(1, 2),
    Tier.GOLD: Fraction(1),
    Tier.PLATINUM: Fraction(2),
}


@dataclass(frozen=True, slots=True)
class Standing:
    """Requests of one standing take turns between their tenants."""

    tier: Tier = Tier.GOLD
    is_own_pool: bool = True

    @property
    def rank(self) -> tuple[bool, int]:
        """Lower goes first: the own pool before guests, then better tiers."""
        return (not self.is_own_pool, -self.tier)


class Tiers(Protocol):
    """Whoever keeps the tenants' credit. Both answers come from memory, at once."""

    def tier(self, tenant: str) -> Tier: ...

    def is_own_pool(self, tenant: str) -> bool:
        """Whether the tenant belongs to the pool whose machines these are."""
        ...


class FixedTiers:
    """Standings as an operator has written them down.

    by_tenant: others have `default`. guests: tenants outside the own pool; a "*" at the end of one
    stands for any ending.
    """

    def __init__(
        self,
        default: Tier = Tier.GOLD,
        by_tenant: Mapping[str, Tier] | None = None,
        guests: tuple[str, ...] = (),
    ) -> None:
        self._default = default
        self._by_tenant = dict(by_tenant or {})
        self._guests = frozenset(name for name in guests if not name.endswith("*"))
        self._guest_prefixes = tuple(name[:-1] for name in guests if name.endswith("*"))

    def tier(self, tenant: str) -> Tier:
        return self._by_tenant.get(tenant, self._default)

    def is_own_pool(self, tenant: str) -> bool:
        return tenant not in self._guests and not tenant.startswith(self._guest_prefixes)


def slots_of(tier: Tier, slot_count: int) -> int:
    """Slots that one tenant of the tier may hold, of `slot_count`; never none."""
    return max(1, int(tier.share * slot_count))
