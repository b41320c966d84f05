"""Which value each sampling knob takes. Pure.

Precedence: the request, then this gateway's defaults, then the checkpoint's generation_config,
then the built-in value.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoal.common.v1 import chat_pb2
from shoal_gateway.task import ChatTask

TEMPERATURE_BUILT_IN = 0.7


@dataclass(frozen=True)
class SamplingDefaults:
    """This gateway's own; None leaves the choice to the checkpoint."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int = 2048


def random_seed() -> int:
    """For draws that nobody wants to repeat."""
    return secrets.randbits(64)


def resolve(
    task: ChatTask, defaults: SamplingDefaults, checkpoint: Mapping[str, Any]
) -> chat_pb2.SamplingSpec:
    """Returns a spec with every field decided; a seed that was not asked for is random."""
    asked = task.sampling
    seed = random_seed() if asked.seed is None else asked.seed
    return chat_pb2.SamplingSpec(
        temperature=_first(
            asked.temperature,
            defaults.temperature,
            _checkpoint_temperature(checkpoint),
            TEMPERATURE_BUILT_IN,
        ),
        top_p=_first(asked.top_p, defaults.top_p, _number(checkpoint, "top_p"), 1.0),
        top_k=int(_first(asked.top_k, defaults.top_k, _number(checkpoint, "top_k"), 0)),
        min_p=_first(asked.min_p, defaults.min_p, _number(checkpoint, "min_p"), 0.0),
        repetition_penalty=_first(
            asked.repetition_penalty,
            defaults.repetition_penalty,
            _number(checkpoint, "repetition_penalty"),
            1.0,
        ),
        presence_penalty=_first(asked.presence_penalty, defaults.presence_penalty, 0.0),
        frequency_penalty=asked.frequency_penalty or 0.0,
        logit_bias=dict(asked.logit_bias),
        seed=seed,
        logprobs=task.logprobs,
        logprob_count=task.top_logprob_count,
    )


def _checkpoint_temperature(checkpoint: Mapping[str, Any]) -> float | None:
    if checkpoint.get("do_sample") is False:
        return 0.0
    return _number(checkpoint, "temperature")


def _number(checkpoint: Mapping[str, Any], name: str) -> float | None:
    value = checkpoint.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        return None
    return value


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
