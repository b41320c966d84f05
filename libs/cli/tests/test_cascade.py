"""Who drafts and who takes over, from options and from what is set already."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shoal_cli.cascade import CascadePlan, plan_cascade


def said(**values: str) -> Callable[[str, str], str | None]:
    """What a person has set, as `service__option`."""
    return lambda service, option: values.get(f"{service}__{option}")


def test_a_pair_of_models_is_a_cascade() -> None:
    made = plan_cascade("small", "big", said())
    assert made == CascadePlan(
        name="cascade",
        drafter="small",
        heavyweight="big",
        drafter_settings={"DRAFTER_PROVIDER": "fleet", "DRAFTER_MODEL": "small"},
        gateway_settings={"HEAVYWEIGHT_MODEL": "big", "DEFAULT_MODEL": "big"},
    )
    assert made.told == "cascade: small answers what it is sure of, big the rest"


def test_what_is_set_already_is_left_alone() -> None:
    made = plan_cascade(
        "small",
        "big",
        said(
            gateway__heavyweight_model="gpt-4.1",
            gateway__default_model="small",
            gateway__cascade_model="house",
        ),
    )
    assert made.gateway_settings == {}
    assert made.told == "house: small answers what it is sure of, gpt-4.1 the rest"


def test_an_upstream_drafter_of_ones_own_is_kept() -> None:
    made = plan_cascade("", "big", said(entropy_drafter__drafter_provider="openai"))
    assert made.drafter_settings == {}
    assert made.gateway_settings == {"HEAVYWEIGHT_MODEL": "big"}
    assert made.told == "cascade: the upstream drafter answers what it is sure of, big the rest"


@pytest.mark.parametrize("provider", [None, "none"])
def test_without_a_drafter_there_is_no_cascade(provider: str | None) -> None:
    values = {} if provider is None else {"entropy_drafter__drafter_provider": provider}
    made = plan_cascade("", "big", said(**values))
    assert made.told == ""
    assert made.gateway_settings == {"CASCADE_MODEL": ""}
    assert made.drafter_settings == ({"DRAFTER_PROVIDER": "none"} if provider is None else {})


def test_a_cascade_without_a_name_is_not_told() -> None:
    assert plan_cascade("small", "big", said(gateway__cascade_model="")).told == ""
