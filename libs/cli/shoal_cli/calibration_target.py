"""What is calibrated: which models, how the drafter judges now, and how large both are."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from shoal_cli.client import GatewayClient
from shoal_cli.errors import BadOptions, GatewayFailed
from shoal_entropy_drafter.calibration.cases import Parameters
from shoal_entropy_drafter.calibration.replay import Judging

CASCADE_PATH = "/api/admin/cascade"
DEFAULT_CANDIDATES = 20
_SIZE = re.compile(r"(\d+(?:\.\d+)?(?:[eE]\d+)?)\s*([kKmMbBtT]?)")
_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_HEADER_BYTES_MAX = 100 << 20
_NO_DRAFTER = (
    "this gateway has no cascade to calibrate: start it with a drafter, as in "
    "`shoal up --drafter MODEL`, or set drafter_address of the gateway and drafter_provider of "
    "the entropy-drafter"
)


@dataclass(frozen=True)
class Target:
    """Both models by name; current: how the drafter judges now, None where nobody says."""

    drafter: str
    heavyweight: str
    candidate_count: int = DEFAULT_CANDIDATES
    current: Judging | None = None


async def find_target(client: GatewayClient, heavyweight: str | None) -> Target:
    """What the gateway says of its cascade. Raises GatewayFailed that says what to do where there
    is none, nobody drafts, or the key may not look."""
    try:
        told = await client.get(CASCADE_PATH)
    except GatewayFailed as err:
        raise _explained(err) from err
    drafter = told.get("drafter") or {}
    if not drafter.get("model") or drafter.get("kind") == "none":
        detail = told.get("problem") or "its entropy-drafter only embeds"
        raise GatewayFailed(f"{_NO_DRAFTER} ({detail})")
    count = int(drafter.get("candidate_count") or DEFAULT_CANDIDATES)
    served = await client.models()
    taker = heavyweight or told.get("heavyweight_model") or ""
    if not taker:
        own = {drafter["model"], told.get("cascade_model"), "auto"}
        taker = next((name for name in served if name not in own), "")
    if taker not in served:
        raise GatewayFailed(
            f"the gateway does not serve '{taker}', which would take over; it serves: "
            f"{', '.join(served) or 'nothing'}: name one with --heavyweight"
        )
    return Target(drafter["model"], taker, count, _judging(drafter, count))


def _judging(told: dict[str, Any], candidate_count: int) -> Judging | None:
    try:
        return Judging(
            int(told["window_size"]),
            int(told["early_exit_count"]),
            candidate_count,
            told["statistic"],
            told["estimate"],
        )
    except (KeyError, TypeError, ValueError):
        return None


def _explained(err: GatewayFailed) -> GatewayFailed:
    if err.status in (404, 405):
        remedy = _NO_DRAFTER
    elif err.status in (401, 403):
        remedy = (
            "drafts can be asked for with the house's key (the data folder's api_key, or "
            "$SHOAL_API_KEY), or with one that has the admin scope"
        )
    else:
        return err
    return GatewayFailed(f"{remedy} ({err})", err.status)


def parameters_of(said: str | None, target: Target) -> Parameters:
    """Sizes from the option `A,B`, each a number or a folder; without it, of the demo models.

    Raises BadOptions.
    """
    if said is not None:
        parts = [part.strip() for part in said.split(",")]
        if len(parts) != 2:
            raise BadOptions("--parameters wants two sizes, DRAFTER,HEAVYWEIGHT, as in 0.8M,5M")
        drafter, heavyweight = map(_size, parts)
        return Parameters(drafter, heavyweight)
    models = Path(__file__).resolve().parents[3] / "models"
    counts = [parameter_count(models / name) for name in (target.drafter, target.heavyweight)]
    if None in counts:
        raise BadOptions(
            f"how large '{target.drafter}' and '{target.heavyweight}' are decides what a draft "
            "costs: say it with --parameters DRAFTER,HEAVYWEIGHT, as in 0.8M,5M, or name their "
            "folders there"
        )
    return Parameters(*(float(count) for count in counts if count is not None))


def _size(text: str) -> float:
    """Raises BadOptions."""
    if match := _SIZE.fullmatch(text):
        if (size := float(match[1]) * _FACTORS[match[2].lower()]) > 0:
            return size
    elif (count := parameter_count(Path(text).expanduser())) is not None:
        return float(count)
    raise BadOptions(f"'{text}' is neither a size, such as 0.8M, nor a folder with safetensors")


def parameter_count(folder: Path) -> int | None:
    """Numbers in the safetensors of a folder, by their headers; None where it has none."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        return None
    return sum(_count_of(file) for file in files)


def _count_of(file: Path) -> int:
    try:
        with file.open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            if size > _HEADER_BYTES_MAX:
                raise ValueError("its header is too large")
            header = json.loads(opened.read(size))
        return sum(prod(entry["shape"]) for name, entry in header.items() if name[:2] != "__")
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as err:
        raise BadOptions(f"{file} is not a safetensors file") from err
