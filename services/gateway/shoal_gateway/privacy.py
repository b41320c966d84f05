"""How far a request lets its prompt travel, by its headers."""

from __future__ import annotations

from typing import get_args

from shoal_common.driving import Label, Privacy
from shoal_common.driving.privacy import LABELS
from shoal_common.errors import InvalidRequest

LABEL_HEADER = "x-shoal-privacy"
BOOMERANG_HEADER = "x-shoal-boomerang"


def asked_privacy(label: str | None, boomerang: str | None, default: Privacy) -> Privacy:
    """From the values of the two headers. Raises InvalidRequest."""
    found = default.label
    if label is not None:
        word = label.strip().lower()
        if word not in LABELS:
            raise InvalidRequest(
                f"'{LABEL_HEADER}' must be one of {', '.join(get_args(Label))}", param=LABEL_HEADER
            )
        found = word
    is_boomerang = default.is_boomerang
    if boomerang is not None:
        word = boomerang.strip().lower()
        if word not in ("true", "false"):
            raise InvalidRequest(
                f"'{BOOMERANG_HEADER}' must be true or false", param=BOOMERANG_HEADER
            )
        is_boomerang = word == "true"
    return Privacy(found, is_boomerang)


def require_open(privacy: Privacy, model: str) -> None:
    """Whoever serves the model is outside of every bound. Raises InvalidRequest."""
    if not privacy.is_open:
        header = LABEL_HEADER if privacy.label != "public" else BOOMERANG_HEADER
        raise InvalidRequest(
            f"'{header}' keeps the prompt within your own fleet, but model '{model[:200]}' is "
            "answered by somebody else: ask for a model of the fleet or leave the header out",
            param=header,
        )
