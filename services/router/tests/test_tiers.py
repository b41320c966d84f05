from __future__ import annotations

import pytest

from shoal_router.tiers import FixedTiers, Standing, Tier, slots_of


@pytest.mark.parametrize(
    ("tier", "slot_count"),
    [(Tier.BRONZE, 2), (Tier.SILVER, 5), (Tier.GOLD, 10), (Tier.PLATINUM, 20)],
)
def test_shares_of_ten_slots(tier: Tier, slot_count: int) -> None:
    assert slots_of(tier, 10) == slot_count


def test_bronze_always_has_a_slot() -> None:
    assert slots_of(Tier.BRONZE, 1) == 1


def test_own_pool_goes_before_guests_and_better_tiers_before_worse() -> None:
    everybody = [Standing(tier, own) for own in (False, True) for tier in Tier]
    ordered = sorted(everybody, key=lambda s: s.rank)
    assert [s.is_own_pool for s in ordered] == [True] * 4 + [False] * 4
    assert [s.tier for s in ordered[:4]] == [Tier.PLATINUM, Tier.GOLD, Tier.SILVER, Tier.BRONZE]


def test_fixed_tiers_know_named_tenants_and_guests_by_their_beginning() -> None:
    tiers = FixedTiers(Tier.SILVER, {"rich": Tier.PLATINUM}, ("stranger", "peer-*"))
    assert [tiers.tier(t) for t in ("rich", "other")] == [Tier.PLATINUM, Tier.SILVER]
    names = ("rich", "stranger", "strangers", "peer-7", "peer")
    assert [tiers.is_own_pool(name) for name in names] == [True, False, True, False, True]
